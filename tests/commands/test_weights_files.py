"""strip, average, statistics: what they write and say, and that Darknet agrees."""

import shutil
import struct
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from relume.formats.cfg import read_cfg
from relume.formats.weights import format_weights, layout, parse_weights
from tests.command_line import relume
from tests.commands.test_files import flip
from tests.contract.small_runs import sgd_cfg, train_until, write_run
from tests.shared import SHARED, needs_shared

DARKNET = shutil.which("darknet")
needs_darknet = pytest.mark.skipif(DARKNET is None, reason="needs Debian's package darknet")
MODELS = SHARED / "models"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 4 iterations with milestones at 2 and 4; not to be changed."""
    folder = write_run(tmp_path_factory.mktemp("trained"), sgd_cfg(max_batches=4))
    data = folder / "obj.data"
    data.write_text(data.read_text() + "saveweights = 2\n")
    train_until(folder)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, the current folder."""
    shutil.copytree(trained, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def random_weights(cfg_path: Path, seed: int, seen: int = 640) -> bytes:
    """Return the file of a net with random numbers, variances above 0."""
    cfg = read_cfg(cfg_path, "detect")
    generator = np.random.default_rng(seed)
    arrays = {
        spec.name: generator.uniform(0.1, 1, spec.shape).astype(np.float32) for spec in layout(cfg)
    }
    return format_weights(arrays, cfg, seen)


def darknet(*words: object) -> str:
    """Run Debian's darknet and return what it printed."""
    assert DARKNET is not None
    command = [DARKNET, *map(str, words)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return ended.stdout


def without_revision(data: bytes) -> bytes:
    """Return a weights file without the last number of its version: 5 here, 0 in Debian's."""
    return data[:8] + data[12:]


# strip


@pytest.mark.usefixtures("run")
def test_strip_writes_the_plain_file_of_a_finished_run() -> None:
    ended = relume("strip", "backup/net_4.weights", "plain.weights")
    final = Path("backup/net_final.weights").read_bytes()
    left = Path("backup/net_4.weights").stat().st_size - len(final)

    assert Path("plain.weights").read_bytes() == final
    said = f"plain.weights: {len(final):,} bytes, seen 16; left out: {left:,} bytes of training"
    assert (ended.status, ended.out) == (0, f"{said} state\n")


@pytest.mark.darknet
@needs_darknet
@pytest.mark.usefixtures("run")
def test_strip_writes_what_darknet_writes_of_the_checkpoint() -> None:
    relume("strip", "backup/net_2.weights", "plain.weights")
    darknet("average", "net.cfg", "darknets.weights", "backup/net_2.weights")
    ours, theirs = (Path(f"{name}.weights").read_bytes() for name in ("plain", "darknets"))

    assert without_revision(ours) == without_revision(theirs)


@pytest.mark.usefixtures("run")
def test_strip_of_a_plain_file_gives_the_same_bytes_and_says_so() -> None:
    ended = relume("strip", "backup/net_final.weights", "plain.weights")

    assert Path("plain.weights").read_bytes() == Path("backup/net_final.weights").read_bytes()
    assert "holds no training state: the same bytes" in ended.out


@pytest.mark.usefixtures("run")
def test_strip_saves_the_weights_of_a_checkpoint_damaged_behind_them_only() -> None:
    checkpoint = Path("backup/net_4.weights")
    final = Path("backup/net_final.weights").read_bytes()
    flip(checkpoint, len(final) + (checkpoint.stat().st_size - len(final)) // 3)
    behind = relume("strip", checkpoint, "behind.weights")
    flip(checkpoint, 1000)
    inside = relume("strip", checkpoint, "inside.weights")

    assert (behind.status, Path("behind.weights").read_bytes()) == (0, final)
    assert inside.status == 2
    assert "damaged in the Darknet part" in inside.error
    assert not Path("inside.weights").exists()


@pytest.mark.usefixtures("run")
def test_strip_of_a_checkpoint_that_was_cut_says_so() -> None:
    Path("cut").write_bytes(Path("backup/net_4.weights").read_bytes()[:-1000])
    ended = relume("strip", "cut", "out")

    assert ended.status == 2
    assert "cut: the end of the checkpoint is missing or damaged" in ended.error
    assert not Path("out").exists()


# average


@pytest.mark.darknet
@needs_darknet
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_average_writes_darknets_bytes(count: int, tmp_path: Path) -> None:
    cfg = tmp_path / "net.cfg"
    cfg.write_text(sgd_cfg(max_batches=4))
    paths = [tmp_path / f"{number}.weights" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(random_weights(cfg, number, seen=64 * (9 - number)))
    ours, theirs = tmp_path / "ours.weights", tmp_path / "theirs.weights"
    ended = relume("average", cfg, ours, *paths)
    darknet("average", cfg, theirs, *paths)

    assert ended.status == 0
    assert without_revision(ours.read_bytes()) == without_revision(theirs.read_bytes())
    assert struct.unpack_from("<3iQ", ours.read_bytes()) == (0, 2, 5, 576)


@pytest.mark.usefixtures("run")
def test_average_of_checkpoints_is_that_of_their_plain_weights_and_says_so() -> None:
    for iteration in (2, 4):
        relume("strip", f"backup/net_{iteration}.weights", f"{iteration}.weights")
    ended = relume("average", "net.cfg", "a", "backup/net_2.weights", "backup/net_4.weights")
    relume("average", "net.cfg", "b", "2.weights", "4.weights")
    cfg = read_cfg("net.cfg", "detect")
    one, other, mean = (
        parse_weights(Path(path).read_bytes(), cfg, path).arrays
        for path in ("2.weights", "4.weights", "a")
    )

    assert Path("a").read_bytes() == Path("b").read_bytes()
    assert "plain weights, no training state" in ended.out
    assert all(np.array_equal(mean[name], (one[name] + other[name]) / 2) for name in one)


@pytest.mark.usefixtures("run")
def test_average_takes_files_of_the_cfg_only() -> None:
    Path("other.cfg").write_text(sgd_cfg(max_batches=4, classes=5))
    Path("other.weights").write_bytes(random_weights(Path("other.cfg"), 1))
    ended = relume("average", "net.cfg", "out", "backup/net_2.weights", "other.weights")

    assert ended.status == 2
    assert ended.error.startswith("other.weights: ")
    assert "bytes follow the last layer; the weights of net.cfg" in ended.error
    assert not Path("out").exists()


# statistics


@pytest.mark.darknet
@needs_darknet
def test_statistics_are_darknets_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Darknet prints them of connected layers, which a convolution of one pixel is.

    Of one input: of the weights Darknet looks at as many as there are outputs.
    """
    monkeypatch.chdir(tmp_path)
    net = "[net]\nbatch=1\nwidth=1\nheight=1\nchannels=1\n"
    layer = "[{}]\nbatch_normalize=1\nactivation=linear\n"
    yolo = "[yolo]\nclasses=2\nmask=0\nnum=1\nanchors=1,1\n"
    ours = f"{net}{layer.format('convolutional')}filters=7\nsize=1\n{yolo}"
    theirs = f"{net}{layer.format('connected')}output=7\n[softmax]\n"
    Path("ours.cfg").write_text(ours)
    Path("theirs.cfg").write_text(theirs)
    Path("ours.weights").write_bytes(random_weights(Path("ours.cfg"), 3))
    arrays = parse_weights(
        Path("ours.weights").read_bytes(), read_cfg("ours.cfg", "detect"), "ours.weights"
    ).arrays
    order = ("biases", "weights", "scales", "rolling_mean", "rolling_variance")
    floats = b"".join(arrays[f"0.{name}"].tobytes() for name in order)
    Path("theirs.weights").write_bytes(struct.pack("<3iQ", 0, 2, 0, 0) + floats)
    said = relume("statistics", "ours.cfg", "ours.weights").out.splitlines()
    wanted = darknet("statistics", "theirs.cfg", "theirs.weights").splitlines()

    assert said[0] == "Convolutional Layer 0"
    assert [line for line in said[1:] if line and not line.startswith("Rolling")] == [
        *(line for line in wanted[1:] if line),
    ]


def test_statistics_tell_of_every_array_and_of_numbers_that_are_none(tmp_path: Path) -> None:
    cfg_path, path = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg_path.write_text(sgd_cfg(max_batches=4))
    data = bytearray(random_weights(cfg_path, 1))
    data[20:24] = struct.pack("<f", np.nan)
    path.write_bytes(data)
    lines = relume("statistics", cfg_path, path).out.splitlines()
    cfg = read_cfg(cfg_path, "detect")

    assert lines[2] == "Biases MSE: nan, Mean: nan, Variance: nan"
    assert sum("MSE" in line for line in lines) == len(layout(cfg))
    assert sum("nan" in line for line in lines) == 1


# all three


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("strip", "none", "out"), "none: cannot be read (No such file or directory)"),
        (("strip", "net.cfg", "out"), "net.cfg: is a text file"),
        (("strip", "backup", "out"), "backup: cannot be read (Is a directory)"),
        (
            ("strip", "backup/net_2.weights", "no/folder/out"),
            "no/folder/out: no/folder does not exist; an existing folder; mkdir -p no/folder",
        ),
        (("strip", "backup/net_2.weights", "backup"), "backup: is a folder; a file to write"),
        (
            ("strip", "backup/net_2.weights", "backup/../backup/net_2.weights", "-force"),
            "backup/../backup/net_2.weights: is backup/net_2.weights itself; another file",
        ),
        (
            ("strip", "backup/net_2.weights", "backup/net_4.weights"),
            "backup/net_4.weights: there already, a checkpoint with training state; give another",
        ),
        (("average", "net.cfg", "backup/net_4.weights", "x"), "backup/net_4.weights: there alrea"),
        (("average", "net.cfg", "out", "none"), "none: cannot be read"),
        (("average", "net.cfg", "out"), "relume average: 2 arguments; needed: CFG OUT WEIGHTS"),
        (("statistics", "net.cfg", "none"), "none: cannot be read"),
        (("statistics", "none", "none"), "none: "),
    ],
)
def test_a_wrong_path_is_one_line_and_nothing_is_written(
    words: tuple[str, ...], error: str
) -> None:
    before = {path: path.read_bytes() for path in Path("backup").iterdir()}
    ended = relume(*words)

    assert ended.status == 2
    assert ended.error.startswith(error)
    assert not Path("out").exists()
    assert {path: path.read_bytes() for path in Path("backup").iterdir()} == before


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("words", [("average", "net.cfg", "out"), ("statistics", "net.cfg")])
def test_a_damaged_checkpoint_is_refused(words: tuple[str, ...]) -> None:
    flip(Path("backup/net_2.weights"), 1000)
    ended = relume(*words, "backup/net_2.weights")

    assert ended.status == 2
    assert "damaged in the Darknet part" in ended.error
    assert not Path("out").exists()


@pytest.mark.usefixtures("run")
def test_force_replaces_what_is_there() -> None:
    Path("out").write_text("mine")
    refused, done = (relume("strip", "backup/net_2.weights", "out", *f) for f in ((), ("-force",)))

    assert (refused.status, done.status) == (2, 0)
    assert Path("out").read_bytes()[:8] == struct.pack("<2i", 0, 2)


# read back


@needs_shared
def test_opencv_says_of_the_stripped_file_what_it_says_of_the_checkpoint(run: Path) -> None:
    relume("strip", "backup/net_4.weights", "plain.weights")
    picture = cv2.imread(str(SHARED / "images" / "dog.jpg"))
    blob = cv2.dnn.blobFromImage(picture, 1 / 255, (64, 64), swapRB=True)
    said = []
    for path in ("backup/net_4.weights", "plain.weights"):
        net = cv2.dnn.readNetFromDarknet("net.cfg", path)
        net.setInput(blob)
        said.append(net.forward(net.getUnconnectedOutLayersNames()))

    assert all(np.array_equal(*pair) for pair in zip(*said, strict=True))


@needs_shared
def test_the_average_of_one_net_with_itself_is_that_net(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of a sum of three rounds by a bit or two."""
    monkeypatch.chdir(tmp_path)
    model = MODELS / "yoloface-50k" / "yoloface-50k"
    relume("average", f"{model}.cfg", "mean.weights", *[f"{model}.weights"] * 3)
    cfg = read_cfg(f"{model}.cfg", "detect")
    ours, theirs = (
        parse_weights(Path(path).read_bytes(), cfg, str(path)).arrays
        for path in ("mean.weights", f"{model}.weights")
    )

    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-6, atol=0)


@needs_shared
@pytest.mark.darknet
@needs_darknet
def test_darknet_detects_the_same_with_the_stripped_file(run: Path) -> None:
    relume("strip", "backup/net_4.weights", "plain.weights")
    (run / "results").mkdir()
    Path("obj.data").write_text(
        "classes=3\ntrain=train.txt\nvalid=train.txt\nnames=obj.names\nbackup=backup\n"
    )
    said = []
    for path in ("backup/net_4.weights", "plain.weights"):
        darknet("detector", "valid", "obj.data", "net.cfg", path)
        said.append({file.name: file.read_text() for file in (run / "results").iterdir()})

    assert said[0] == said[1]
    assert any(said[0].values())
