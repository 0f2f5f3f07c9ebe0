"""`relume replay` shows what the loop trains on, and says where it cannot know."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from relume.commands import replay as replay_command
from relume.contact_sheet import Tile, contact_sheet
from relume.data.batch import MiniBatch
from relume.data.order import index_at
from relume.drawing import Pixels
from relume.model.network import Network
from relume.train import step
from relume.train.partial import Share
from tests.command_line import Ended, relume
from tests.contract.small_runs import copied_run, sgd_cfg, train_until, write_run

CFG = sgd_cfg(max_batches=40)
BATCH = 4


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("inputs"), CFG)


@pytest.fixture
def run(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = copied_run(inputs, tmp_path / "run")
    monkeypatch.chdir(folder)
    return folder


def replay(iteration: object, *words: object) -> Ended:
    return relume("replay", "obj.data", "net.cfg", "-iteration", iteration, *words)


def used_in(folder: Path, iteration: int, monkeypatch: pytest.MonkeyPatch) -> list[MiniBatch]:
    """Train until the end of `iteration`; return what the network was given in it."""
    given: list[MiniBatch] = []
    train_subdivision = step.train_subdivision

    def watched(network: Network, share: Share, mini_batch: MiniBatch) -> None:
        given.append(mini_batch)
        train_subdivision(network, share, mini_batch)

    with monkeypatch.context() as patch:
        patch.setattr(step, "train_subdivision", watched)  # train_until asks for it there
        train_until(folder, iteration)
    return given[-2:]


def test_the_sheet_shows_the_very_pixels_and_boxes_that_are_trained_on(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Iteration 12 has another input size than those before; only its pictures can be read."""
    used = used_in(run, 12, monkeypatch)
    paths = (run / "train.txt").read_text().split()
    needed = {paths[i] for mini_batch in used for i in mini_batch.indices}
    for path in set(paths) - needed:
        (run / path).write_bytes(b"no picture")
    shown: list[Tile] = []

    def watched(tiles: list[Tile], title: str) -> Pixels:
        shown.extend(tiles)
        return contact_sheet(tiles, title)

    monkeypatch.setattr(replay_command, "contact_sheet", watched)
    ended = replay(12)

    assert ended.status == 0, ended.err
    assert set(paths) - needed  # or nothing would tell whether others are read
    pictures = np.concatenate([mini_batch.images for mini_batch in used])
    assert np.array_equal([tile.picture for tile in shown], pictures)
    height, width = pictures.shape[1:3]
    for tile, boxes, kinds in zip(
        shown,
        (row for mini_batch in used for row in mini_batch.boxes_xywh_rel),
        (row for mini_batch in used for row in mini_batch.classes),
        strict=True,
    ):
        count = int((kinds >= 0).sum())
        assert [label.kind for label in tile.labels] == kinds[:count].tolist()
        for label, (x, y, w, h) in zip(tile.labels, boxes[:count].tolist(), strict=True):
            left, top, right, bottom = label.box_xyxy_px
            assert (left, top) == ((x - w / 2) * width, (y - h / 2) * height)
            assert right == min((x + w / 2) * width, width - 1)
            assert bottom == min((y + h / 2) * height, height - 1)
    assert f"iteration 12, trained: {BATCH} pictures, {width}x{height}, rate" in ended.out


def test_it_looks_ahead_and_the_same_iteration_gives_the_same_bytes(run: Path) -> None:
    first = replay(40, "-out", "a.png", "-workers", 0)
    again = replay(40, "-out", "b.png", "-workers", 3)
    other = replay(40, "-out", "c.png", "-seed", 1)

    assert "iteration 40, not trained yet: 4 pictures" in first.out
    assert (first.status, again.status, other.status) == (0, 0, 0)
    a, b, c = (Path(name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b != c


def test_without_out_the_sheet_is_named_after_run_and_iteration(run: Path) -> None:
    ended = replay(3)

    assert ended.out.endswith("; sheet: replay_net_3.png\n")
    assert (run / "replay_net_3.png").is_file()


def test_a_picture_of_the_iteration_that_cannot_be_read_is_an_error(run: Path) -> None:
    paths = (run / "train.txt").read_text().split()
    (run / paths[index_at(0, 2 * BATCH, len(paths))]).write_bytes(b"no picture")
    ended = replay(3)

    assert ended.status == 2
    assert "cannot be decoded (10 bytes)" in ended.error
    assert not (run / "replay_net_3.png").exists()


def test_what_is_wrong_with_the_command_or_the_settings_is_told_before_the_list_is_read(
    run: Path,
) -> None:
    Path("train.txt").unlink()
    text = Path("obj.data").read_text()
    assert replay(99).error.startswith("-iteration: 99; one of the run's iterations")
    assert replay(1, "-out", "net.cfg").error.startswith("-out: net.cfg")
    for line in ("bad = maybe", "sampling = none", "seed = x"):
        Path("obj.data").write_text(f"{line}\n{text}")
        assert replay(1).error.startswith(f"obj.data:1: {line.replace(' ', '')}") or (
            replay(1).error.startswith(f"obj.data:1: {line}")
        )


def test_a_wrong_setting_is_told_before_pytorch_is_loaded(run: Path) -> None:
    Path("obj.data").write_text(f"bad = maybe\n{Path('obj.data').read_text()}")
    code = """if True:
        import sys
        from relume import cli
        words = ["replay", "obj.data", "net.cfg", "-iteration", "1"]
        try:
            cli.run(words, cli.Screen(), in_own_process=True)
        finally:
            assert "torch" not in sys.modules
        """

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert "DataFileError: obj.data:1: bad=maybe" in ended.stderr
    assert "AssertionError" not in ended.stderr


def test_many_pictures_are_shown_page_by_page(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Tile] = []

    def watched(tiles: list[Tile], title: str) -> Pixels:
        shown.extend(tiles)
        return contact_sheet(tiles, title)

    monkeypatch.setattr(replay_command, "contact_sheet", watched)
    replay(7)
    whole = [tile.picture for tile in shown]
    shown.clear()
    monkeypatch.setattr(replay_command, "MOST_TILES", 3)

    first, second = replay(7), replay(7, "-page", 2)

    assert (first.status, second.status) == (0, 0)
    assert [tile.caption[0].partition(":")[0] for tile in shown] == ["1", "2", "3", "4"]
    assert np.array_equal([tile.picture for tile in shown], whole)
    assert first.out.splitlines()[1] == (
        "the sheet shows pictures 1 to 3: page 1 of 2; -page P shows others"
    )
    assert "sheet: replay_net_7_page2.png\n" in second.out
    assert cv2.imread("replay_net_7_page2.png") is not None


def test_what_has_changed_since_the_run_is_said(run: Path) -> None:
    train_until(run, 4)
    assert replay(2).err == ""
    paths = (run / "train.txt").read_text().split()
    changed = paths[index_at(0, BATCH, len(paths))]
    content = (run / changed).read_bytes()
    (run / changed).write_bytes(content + b" ")
    assert replay(2).err == f"relume: changed since this run used them: {changed}\n"
    (run / changed).write_bytes(content)
    (run / "net.cfg").write_text(CFG.replace("hue=0.1", "hue=0.2"))

    assert replay(2).err == (
        "relume: backup/net_last.weights has another recipe: net.hue: 0.1 -> 0.2 "
        "(changes the course); the sheet shows today's\n"
    )
    relume("detector", "train", "obj.data", "net.cfg", "-allow-change", "-max_time", "0.001")
    (said,) = replay(2).err.splitlines()
    assert said.startswith("relume: the recipe of this run was changed after iteration 4; ")
    assert replay(5).err == ""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), "-iteration: is missing; -iteration N; see relume replay -h"),
        (("-iteration", 1, "-out", "net.cfg"), "-out: net.cfg; a name that ends in .png"),
        (
            ("-iteration", 1, "-out", "p.png"),
            "p.png: there already and holds no sheet of replay; -force replaces it",
        ),
        (
            ("-iteration", 1, "-out", "l.png"),
            "l.png: is a symbolic link; a file to write; -force replaces the link, not",
        ),
        (("-iteration", 1, "-page", 2), "-page: 2; a page of 144 pictures, 1 to 1"),
        (("-iteration", 0), "-iteration: 0; one of the run's iterations, 1 to 40"),
        (("-iteration", 41), "-iteration: 41; one of the run's iterations, 1 to 40"),
        (
            ("-iteration", 3, "-out", "no/such/folder.png"),
            "-out: no/such does not exist; an existing",
        ),
    ],
)
def test_a_wrong_word_is_an_error_of_one_line(
    run: Path, words: tuple[object, ...], found: str
) -> None:
    Path("p.png").write_bytes(cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes())
    Path("l.png").symlink_to("p.png")
    ended = relume("replay", "obj.data", "net.cfg", *words)

    assert ended.status == 2
    assert ended.error.startswith(found)
