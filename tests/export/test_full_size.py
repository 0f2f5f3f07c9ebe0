"""Whole nets as `relume make-cfg` writes them: heads and boxes of their models are ours."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from relume.export.form import Form
from relume.formats.cfg import read_cfg
from relume.model.detect import decode
from relume.model.network import Network
from tests.command_line import relume
from tests.export.onnx_models import Both, both, run
from tests.export.test_model import CLOSE

SIDE_PX = 608
"""Of yolov3's input; its coarsest head has 19 cells a side, an odd number."""


def measured_net(cfg_path: Path) -> tuple[Both, Tensor]:
    """Return a net and a picture whose statistics it has, so that it says what trained ones do."""
    cfg = read_cfg(cfg_path, "detect")
    network = Network(cfg, seed=1).train()
    generator = torch.Generator().manual_seed(2)
    images = torch.rand((1, 3, cfg.net.height, cfg.net.width), generator=generator)
    with torch.no_grad():
        network(images, positions=[0])
        arrays = network.darknet_arrays()
        for index, (mean, variance) in network.take_statistics().items():
            arrays[f"{index}.rolling_mean"].copy_(mean)
            arrays[f"{index}.rolling_variance"].copy_(variance)
    return both(network), images


@pytest.mark.long
@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov3", "yolov3-spp"])
def test_whole_nets_say_what_ours_say(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("obj.names").write_text("RBC\nWBC\nPlatelets\n")
    made = relume(
        *("make-cfg", "-like", name, "-names", "obj.names", "-width", SIDE_PX, "-height", SIDE_PX)
    )
    assert made.status == 0
    net, images = measured_net(Path(f"{name}-obj.cfg"))
    raws = list(run(net.model(Form(raw=True)), images).values())
    boxes, probabilities = run(net.model(Form()), images).values()
    ours = net.raws(images)
    with torch.no_grad():
        exact = [raw.numpy() for raw in net.network.double()(images.double())]
    heads = [torch.from_numpy(raw) for raw in raws]
    (found,) = decode(heads, net.cfg.heads, SIDE_PX, SIDE_PX, thresh=-1)

    # Weights that no training has made stable: rounding grows from layer to layer, to twice
    # CLOSE behind 75. So the model may be as far from the exact numbers as we are, or CLOSE.
    assert len(raws) == len(net.cfg.heads)
    for theirs, our, wanted in zip(raws, ours, exact, strict=True):
        allowed = max(CLOSE, 2 * np.abs(our - wanted).max())
        assert np.ptp(wanted) > 1
        assert allowed < 1e-3
        np.testing.assert_allclose(theirs, wanted, rtol=0, atol=allowed)
    np.testing.assert_allclose(boxes[0], found.boxes_xywh_rel, rtol=1e-5, atol=CLOSE)
    np.testing.assert_allclose(probabilities[0], found.probabilities, rtol=0, atol=CLOSE)
