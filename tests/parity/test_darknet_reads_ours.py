"""Darknet and OpenCV read our checkpoints, training state and all, as plain weights files."""

import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from relume.checkpoint import container
from relume.formats.cfg import read_cfg
from relume.model.detect import decode, prepare_image
from relume.model.network import Network
from tests.contract.small_runs import sgd_cfg, train_until, write_run
from tests.parity.weights_files import fill

DARKNET = shutil.which("darknet")

# Rolling statistics start at 0 in Darknet; after a few iterations they are a few percent of the
# truth, which multiplies what every layer says. Longer training is not needed to read a file.
CFGS = {"plain": sgd_cfg(max_batches=3, batch_normalize=0), "batch norm": sgd_cfg(max_batches=40)}


@pytest.fixture(scope="module", params=CFGS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: `_last` holds the training state, `_final` the same weights alone."""
    folder = write_run(tmp_path_factory.mktemp("run"), CFGS[request.param])
    train_until(folder, savelast=100)
    last = (folder / "backup" / "net_last.weights").read_bytes()
    final = (folder / "backup" / "net_final.weights").read_bytes()
    assert container.holds_state(last, "last")
    assert last[20 : len(final)] == final[20:]
    return folder


@pytest.mark.darknet
@pytest.mark.skipif(DARKNET is None, reason="needs Debian's package darknet")
def test_debians_darknet_detects_the_same_with_our_checkpoint(run: Path) -> None:
    assert DARKNET is not None
    # Its names list must end in a line break, and its paths may hold no space.
    found = {}
    for kind in ("last", "final"):
        folder = run / f"darknet_{kind}"
        (folder / "results").mkdir(parents=True)
        for file in ("img", "net.cfg", "obj.names", "train.txt"):
            (folder / file).symlink_to(run / file)
        (folder / "obj.data").write_text(
            "classes=3\ntrain=train.txt\nvalid=train.txt\nnames=obj.names\nbackup=backup\n"
        )
        shutil.copy(run / "backup" / f"net_{kind}.weights", folder / "given.weights")
        subprocess.run(
            [DARKNET, "detector", "valid", "obj.data", "net.cfg", "given.weights"],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=60,
        )
        found[kind] = {p.name: p.read_text() for p in sorted((folder / "results").iterdir())}

    assert found["last"] == found["final"]
    rows = "".join(found["last"].values()).split()
    assert len(rows) > 6
    assert np.isfinite([float(word) for word in rows if word[0] != "0" or "." in word]).all()


def test_opencv_says_what_our_network_says_with_our_checkpoint(run: Path) -> None:
    weights = str(run / "backup" / "net_last.weights")
    theirs = cv2.dnn.readNetFromDarknet(str(run / "net.cfg"), weights)
    theirs.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    cfg = read_cfg(run / "net.cfg", "detect")
    network = Network(cfg, seed=None).eval()
    with torch.no_grad():
        fill(network, run / "backup" / "net_final.weights")
        for name, tensor in network.darknet_arrays().items():
            if name.endswith("rolling_variance"):
                tensor += 1e-6 - 1e-5  # OpenCV adds 1e-6 to the variance, ours adds 1e-5
        picture = cv2.imread(str(next((run / "img").glob("*.jpg"))))
        assert picture is not None
        images = prepare_image(np.asarray(picture, np.uint8), 64, 64, letter_box=False)
        (ours,) = decode(network(images), cfg.heads, 64, 64, thresh=0.0)
    theirs.setInput(images.numpy())
    heads = theirs.forward(theirs.getUnconnectedOutLayersNames())
    rows: npt.NDArray[np.float32] = np.concatenate(heads)

    # Float32 sums in different orders, and sizes are an exponential of them. Probabilities
    # below its threshold OpenCV leaves out.
    assert rows.shape == (len(ours.objectness), 8)
    boxes = np.concatenate([ours.boxes_xywh_rel, ours.objectness[:, None]], axis=1)
    np.testing.assert_allclose(rows[:, :5], boxes, rtol=1e-3, atol=1e-4)
    said = rows[:, 5:] > 0
    assert said.any()
    np.testing.assert_allclose(rows[:, 5:][said], ours.probabilities[said], rtol=1e-3, atol=1e-4)
