"""partial, compare, inspect, reset, rewind: what they say, what they leave, how they exit."""

import hashlib
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from relume.checkpoint.folder import newest_good, run_files
from relume.formats.cfg import read_cfg
from relume.formats.weights import layout
from relume.train.start import StartFlags
from tests.command_line import relume
from tests.contract.small_runs import promised_files, sgd_cfg, train_until, write_run
from tests.shared import SHARED, needs_shared

TINY = SHARED / "models" / "yolov3-tiny" / "yolov3-tiny"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 6 iterations with milestones at 2, 4 and 6; not to be changed."""
    folder = write_run(tmp_path_factory.mktemp("trained"), sgd_cfg(max_batches=6))
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


def flip(path: Path, offset: int, mask: int = 1) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


def names(folder: Path) -> list[str]:
    """Return what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


# partial


@needs_shared
def test_partial_equals_darknets(tmp_path: Path) -> None:
    out = tmp_path / "yolov3-tiny.conv.15"
    ended = relume("partial", f"{TINY}.cfg", f"{TINY}.weights", out, 15)
    (digest, *_) = (SHARED / "golden" / "train" / "partial.sha256").read_text().split()

    assert (ended.status, ended.out) == (0, f"{out}: layers 0 to 14, 30,973,396 bytes\n")
    assert hashlib.sha256(out.read_bytes()[20:]).hexdigest() == digest


@pytest.mark.usefixtures("run")
def test_partial_of_a_checkpoint_is_partial_of_its_plain_weights() -> None:
    relume("partial", "net.cfg", "backup/net_last.weights", "a", 5)
    relume("partial", "net.cfg", "backup/net_final.weights", "b", 5)

    assert Path("a").read_bytes() == Path("b").read_bytes()


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("number", "error"),
    [
        ("five", "N: 'five'; a number of layers; see relume partial -h"),
        ("0", "N: 0; 1 to 22, the layers of net.cfg"),
        ("23", "N: 23; 1 to 22, the layers of net.cfg"),
    ],
)
def test_partial_needs_a_number_of_layers(number: str, error: str) -> None:
    ended = relume("partial", "net.cfg", "backup/net_final.weights", "out", number)

    assert (ended.status, ended.error) == (2, error)
    assert not Path("out").exists()


@pytest.mark.usefixtures("run")
def test_partial_does_not_overwrite_what_it_reads() -> None:
    before = Path("backup/net_final.weights").read_bytes()
    ended = relume("partial", "net.cfg", "backup/net_final.weights", "backup/net_final.weights", 5)

    assert (ended.status, Path("backup/net_final.weights").read_bytes()) == (2, before)
    assert ended.error.startswith("backup/net_final.weights: is backup/net_final.weights its")


@pytest.mark.usefixtures("run")
def test_partial_refuses_a_damaged_checkpoint() -> None:
    flip(Path("backup/net_last.weights"), 100)
    ended = relume("partial", "net.cfg", "backup/net_last.weights", "out", 5)

    assert ended.status == 2
    assert "damaged in the Darknet part" in ended.error
    assert not Path("out").exists()


# compare


@pytest.mark.usefixtures("run")
def test_compare_of_equal_files_is_status_0() -> None:
    ended = relume("compare", "backup/net_last.weights", "backup/net_6.weights")
    size = Path("backup/net_last.weights").stat().st_size

    assert (ended.status, ended.out, ended.err) == (0, f"same: {size:,} bytes\n", "")


@pytest.mark.usefixtures("run")
def test_compare_of_two_moments_names_a_tensor_an_index_and_both_values() -> None:
    ended = relume("compare", "backup/net_2.weights", "backup/net_4.weights")

    assert ended.status == 1
    value = r"-?\d+(\.\d+)?(e-?\d+)?"
    places = r"\(iteration 2, iteration 4\)"
    assert re.fullmatch(rf"different: \w+/[\w.]+\[[\d,]+\]: {value}, {value} {places}\n", ended.out)


def _changed_floats(path: Path, changes: dict[str, float], cfg_path: str) -> None:
    """Set the last element of tensors in a plain file."""
    data = bytearray(path.read_bytes())
    offset = 20
    for spec in layout(read_cfg(cfg_path, "detect")):
        offset += spec.size_bytes
        if spec.name in changes:
            data[offset - 4 : offset] = struct.pack("<f", changes[spec.name])
    path.write_bytes(data)


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("other", ["backup/net_final.weights", "backup/net_last.weights"])
def test_compare_names_the_first_tensor_in_the_order_of_the_file(other: str) -> None:
    shutil.copy("backup/net_final.weights", "changed.weights")
    _changed_floats(Path("changed.weights"), {"0.weights": 7.5, "2.biases": -1.5}, "net.cfg")
    words = ["compare", "changed.weights", other]
    ended = relume(*words, *(["net.cfg"] if "final" in other else []))

    assert ended.status == 1
    assert re.fullmatch(r"different: 0\.weights\[3,2,2,2\]: 7\.5, -?[\d.e-]+\n", ended.out)


@pytest.mark.usefixtures("run")
def test_compare_of_plain_files_without_cfg_names_the_float() -> None:
    shutil.copy("backup/net_final.weights", "changed.weights")
    _changed_floats(Path("changed.weights"), {"0.biases": 7.5}, "net.cfg")
    ended = relume("compare", "changed.weights", "backup/net_final.weights")

    assert ended.status == 1
    assert re.fullmatch(
        r"different: float \[3\]: 7\.5, -?[\d.e-]+ \(give the CFG to name the tensor\)\n", ended.out
    )


@pytest.mark.usefixtures("run")
def test_compare_tells_headers_and_lengths_apart() -> None:
    plain = Path("backup/net_final.weights").read_bytes()
    Path("seen").write_bytes(plain[:12] + struct.pack("<Q", 9) + plain[20:])
    Path("short").write_bytes(plain[:-4])
    final, last = "backup/net_final.weights", "backup/net_last.weights"

    assert relume("compare", "seen", final).out == (
        "different: the weights are the same; header 0.2.5 with seen 9, 0.2.5 with seen 24\n"
    )
    assert relume("compare", "short", final).out.startswith("different: length: ")
    assert relume("compare", "short", final, "net.cfg").out == (
        "different: 20.biases is in backup/net_final.weights only\n"
    )
    assert relume("compare", final, last).out == (
        "different: the weights are the same; only backup/net_last.weights holds a state\n"
    )


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("bad", ["missing.weights", "page.weights", "damaged.weights", "."])
def test_compare_with_trouble_is_status_2(bad: str) -> None:
    Path("page.weights").write_text("<html>")
    shutil.copy("backup/net_last.weights", "damaged.weights")
    flip(Path("damaged.weights"), -2000)
    ended = relume("compare", "backup/net_last.weights", bad)

    assert (ended.status, ended.out) == (2, "")
    assert ended.error.startswith(f"{bad}: ")


# inspect


@pytest.mark.usefixtures("run")
def test_inspect_says_what_a_checkpoint_holds() -> None:
    ended = relume("inspect", "backup/net_4.weights")
    lines = ended.out.splitlines()

    assert ended.status == 0
    assert lines[0].startswith("backup/net_4.weights: ")
    assert lines[1] == "header 0.2.1835820402, 64-bit seen, seen 16"
    assert lines[2].startswith("iteration 4, average loss ")
    assert lines[3] == "training state: momentum (31), pictures (1)"
    assert lines[4].endswith("all layers filled")
    assert lines[-1] == "intact"


def test_inspect_of_a_folder_names_what_takes_folders(tmp_path: Path) -> None:
    ended = relume("inspect", tmp_path)

    assert ended.status == 2
    assert ended.error.startswith(f"{tmp_path}: is a folder; a weights file; `relume verify` looks")


@pytest.mark.usefixtures("run")
def test_inspect_says_what_a_plain_file_holds() -> None:
    final = "backup/net_final.weights"
    relume("partial", "net.cfg", final, "part", 5)
    without, whole, part = (
        relume("inspect", *words).out.splitlines()[1:]
        for words in ([final], [final, "net.cfg"], ["part", "net.cfg"])
    )

    header = "header 0.2.5, 64-bit seen, seen "
    assert without == [
        f"{header}24",
        "no training state; give the CFG to see which layers it fills",
    ]
    assert whole == [
        f"{header}24",
        "iteration 6 at batch=4; no training state",
        "fills all 22 layers; a plain file has no digest to check",
    ]
    assert part == [
        f"{header}0",
        "iteration 0 at batch=4; no training state",
        "fills layers 0 to 5 of 22",
    ]


@pytest.mark.usefixtures("run")
def test_inspect_says_where_a_plain_file_is_cut() -> None:
    Path("cut").write_bytes(Path("backup/net_final.weights").read_bytes()[:-4])
    ended = relume("inspect", "cut", "net.cfg")

    assert ended.status == 2
    assert ended.error.startswith("cut: ends inside layer 20; the layers of net.cfg; ")


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    "part",
    ["the Darknet part", "state/momentum.safetensors", "history/iterations.bin", "progress.json"],
)
def test_inspect_says_where_a_checkpoint_is_damaged_and_names_a_good_one(part: str) -> None:
    path = Path("backup/net_4.weights")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        entry = archive.getinfo(part if part in names else names[0])
    before, first_data = entry.header_offset - 1, entry.header_offset + 30 + len(entry.filename)
    flip(path, first_data if part in names else before)
    ended = relume("inspect", path)

    assert ended.status == 2
    assert ended.error.startswith(f"{path}: contents do not match their digest ")
    assert part in ended.error
    assert ended.error.endswith(
        "the newest good one beside it is backup/net_last.weights (iteration 6)"
    )
    assert "intact\n" not in ended.out


@pytest.mark.usefixtures("run")
def test_inspect_says_that_a_checkpoint_is_cut() -> None:
    path = Path("backup/net_4.weights")
    path.write_bytes(path.read_bytes()[:-1])
    ended = relume("inspect", path)

    assert ended.status == 2
    assert "the end of the checkpoint is missing or damaged" in ended.error


# reset


def test_reset_moves_the_run_aside_and_the_next_start_is_new(run: Path) -> None:
    before = promised_files(run)
    ended = relume("reset", "obj.data", "net.cfg")

    aside = run / "backup" / "net.aside" / "1"
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"moved {len(before)} files to backup/net.aside/1\n"
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before
    assert promised_files(run) == {}
    train_until(run)
    assert promised_files(run) == before


def test_reset_twice_numbers_the_folders(run: Path) -> None:
    relume("reset", "obj.data", "net.cfg")
    train_until(run, 1)
    relume("reset", "obj.data", "net.cfg")

    assert names(run / "backup" / "net.aside") == ["1", "2"]


def test_reset_leaves_other_runs_alone(run: Path) -> None:
    (run / "backup" / "network_last.weights").write_bytes(b"another run")
    relume("reset", "obj.data", "net.cfg")

    assert (run / "backup" / "network_last.weights").read_bytes() == b"another run"


@pytest.mark.usefixtures("run")
def test_reset_without_a_run_is_an_error() -> None:
    Path("other.cfg").write_text(sgd_cfg())
    nothing = relume("reset", "obj.data", "other.cfg")
    shutil.rmtree("backup")
    no_folder = relume("reset", "obj.data", "net.cfg")

    assert (nothing.status, no_folder.status) == (2, 2)
    assert nothing.error == "backup: no files of 'other'; the checkpoints of a run"
    assert no_folder.error == "backup: no such folder; the files of a run of 'net'"


# rewind


def test_rewind_goes_back_to_a_milestone_and_leads_to_the_same_files(
    run: Path, trained: Path
) -> None:
    ended = relume("rewind", "backup/net_2.weights")
    found, rejected = newest_good(run / "backup", "net")

    assert ended.status == 0
    assert ended.out.splitlines()[-1] == "the run 'net' goes on from iteration 2"
    assert found is not None
    assert (found.state.iteration, rejected) == (2, [])
    train_until(run)
    assert promised_files(run) == promised_files(trained)


def test_rewind_keeps_the_newer_files(run: Path) -> None:
    newer = [path.name for path in run_files(run / "backup", "net") if "_2" not in path.name]
    relume("rewind", "backup/net_2.weights")

    assert names(run / "backup" / "net.aside" / "1") == sorted(newer)


def test_rewind_moves_what_cannot_be_read_out_of_the_way(run: Path) -> None:
    (run / "backup" / "net_5.weights").mkdir()

    ended = relume("rewind", "backup/net_2.weights")

    assert ended.status == 0, ended.error
    assert (run / "backup" / "net.aside" / "1" / "net_5.weights").is_dir()


def test_rewind_to_the_newest_changes_nothing(run: Path) -> None:
    before = promised_files(run)
    ended = relume("rewind", "backup/net_last.weights")

    assert (ended.status, promised_files(run)) == (0, before)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("backup/missing_1.weights", "cannot be read (No such file or directory)"),
        ("backup/net_final.weights", "not a checkpoint's name"),
        ("obj.data", "not a checkpoint's name"),
        ("backup/net_7.weights", "holds no training state"),
        ("backup/net_8.weights", "contents do not match their digest"),
        ("backup/net.aside/1/net_4.weights", "was moved aside and belongs to no run"),
    ],
)
def test_rewind_to_what_is_no_checkpoint_changes_nothing(
    run: Path, file: str, message: str
) -> None:
    folder = run / "backup"
    shutil.copy(folder / "net_final.weights", folder / "net_7.weights")
    shutil.copy(folder / "net_6.weights", folder / "net_8.weights")
    flip(folder / "net_8.weights", 3000)
    (folder / "net.aside" / "1").mkdir(parents=True)
    shutil.copy(folder / "net_4.weights", folder / "net.aside" / "1")
    before = promised_files(run)
    ended = relume("rewind", file)

    assert (ended.status, promised_files(run)) == (2, before)
    assert message in ended.error


@pytest.mark.parametrize("line", ["reset obj.data net.cfg", "rewind backup/net_2.weights"])
def test_a_run_that_is_training_is_left_alone(run: Path, line: str) -> None:
    before = promised_files(run)
    hold = (
        "import fcntl, sys; file = open('backup/net.lock', 'a+');"
        "fcntl.lockf(file, fcntl.LOCK_EX); print('process 77', file=file, flush=True);"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        ended = relume(*line.split())
        holder.communicate()

    assert (ended.status, promised_files(run)) == (2, before)
    assert ended.error.startswith(
        "backup/net.lock: process 77 trains 'net' in this folder; one run per name and folder; "
    )


def test_rewind_goes_by_iteration_where_a_smaller_batch_set_seen_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", sgd_cfg(batch=4, subdivisions=2))
    (folder / "obj.data").write_text((folder / "obj.data").read_text() + "saveweights = 4\n")
    train_until(folder, 4)
    (folder / "net.cfg").write_text(sgd_cfg(batch=2, subdivisions=2))
    train_until(folder, 5, start=StartFlags(allow_change=True))
    monkeypatch.chdir(folder)

    ended = relume("rewind", "backup/net_4.weights")

    assert ended.status == 0
    found, _ = newest_good(folder / "backup", "net")
    assert found is not None
    assert found.state.iteration == 4
    assert found.state.history.marks == ()


def test_rewind_knows_a_run_whose_name_ends_in_a_number(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (run / "backup").glob("net*.weights"):
        path.rename(path.with_name(path.name.replace("net", "net_2", 1)))
    (run / "backup" / "net_2.backup").write_bytes((run / "backup/net_2_4.weights").read_bytes())

    ended = relume("rewind", "backup/net_2.backup")

    assert ended.out.splitlines()[-1] == "the run 'net_2' goes on from iteration 4"
