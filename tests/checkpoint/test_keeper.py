"""Which files a run keeps, and which one it goes on from, whatever happened to the others."""

import errno
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relume.checkpoint import container, storage
from relume.checkpoint.container import plain
from relume.checkpoint.disk import Buffer
from relume.checkpoint.evaluations import measure_of
from relume.checkpoint.folder import (
    claimed_position,
    iteration_in_name,
    newest_good,
    other_run,
    run_files,
)
from relume.checkpoint.hands import Hands
from relume.checkpoint.keeper import Keeper
from relume.checkpoint.own_files import remove_temporaries, temporaries
from relume.checkpoint.pace import Pace, pause_after
from relume.checkpoint.state import NO_DIGESTS, Measured, TrainState
from relume.errors import CheckpointError, LockLost, StorageError
from tests.checkpoint.faults import strike
from tests.checkpoint.states import inside, tiny_state, with_batch

STATES = [tiny_state(iteration) for iteration in range(8)]
PACKED = [container.pack(state) for state in STATES]


def keeper_in(
    folder: Path,
    savelast: int | None = 1,
    saveweights: int = 1000,
    warn: Callable[[str], None] = pytest.fail,
) -> Keeper:
    return Keeper(folder, "net", savelast, saveweights, warn)


def offer_all(keeper: Keeper, states: list[TrainState]) -> None:
    """Offer states one by one, each on disk before the next."""
    for state in states:
        keeper.offer(state)
        keeper._wait()


def held(folder: Path) -> dict[str, int | str]:
    """Return the files of a folder by name, each as the iteration it holds."""
    names = {data: iteration for iteration, data in enumerate(PACKED)}
    plains = {plain(state): f"plain {iteration}" for iteration, state in enumerate(STATES)}
    contents = names | plains
    return {path.name: contents[path.read_bytes()] for path in folder.iterdir()}


def test_two_generations_exist_from_the_second_save_on(tmp_path: Path) -> None:
    keeper = keeper_in(tmp_path)

    offer_all(keeper, STATES[1:2])
    assert held(tmp_path) == {"net_last.weights": 1}
    offer_all(keeper, STATES[2:4])
    assert held(tmp_path) == {"net_last.weights": 3, "net.backup": 2}


def test_last_is_saved_every_savelast_iterations_and_at_a_stop(tmp_path: Path) -> None:
    keeper = keeper_in(tmp_path, savelast=3)

    offer_all(keeper, STATES[1:6])
    assert held(tmp_path) == {"net_last.weights": 3}
    keeper.stop(STATES[5])
    assert held(tmp_path) == {"net_last.weights": 5, "net.backup": 3}


def test_milestones_come_twice_and_the_second_copy_is_of_the_newest_only(tmp_path: Path) -> None:
    keeper = keeper_in(tmp_path, saveweights=2)

    offer_all(keeper, STATES[1:6])

    assert held(tmp_path) == {
        "net_2.weights": 2,
        "net_4.weights": 4,
        "net_4.backup": 4,
        "net_last.weights": 5,
        "net.backup": 4,
    }


def test_at_the_end_both_generations_hold_the_final_state(tmp_path: Path) -> None:
    keeper = keeper_in(tmp_path)
    offer_all(keeper, STATES[1:4])

    keeper.finish(STATES[3])
    keeper.finish(STATES[3])

    assert held(tmp_path) == {
        "net_last.weights": 3, "net.backup": 3, "net_final.weights": "plain 3"
    }  # fmt: skip


def test_a_stop_writes_what_a_kill_left_undone_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net_2.backup").write_bytes(PACKED[2])
    (tmp_path / "net_4.weights").write_bytes(PACKED[4])  # killed before the second copy
    (tmp_path / "net_last.weights").write_bytes(PACKED[3])
    keeper = keeper_in(tmp_path, saveweights=2)

    keeper.stop(STATES[4])
    expected = {"net_4.weights": 4, "net_4.backup": 4, "net_last.weights": 4, "net.backup": 3}
    assert held(tmp_path) == expected
    faults = strike(monkeypatch, 99, errno.EIO)
    keeper.stop(STATES[4])

    assert faults.operations == []


def test_nothing_is_written_before_the_first_iteration(tmp_path: Path) -> None:
    keeper_in(tmp_path).stop(STATES[0])

    assert held(tmp_path) == {}


def test_a_refused_save_is_said_and_the_next_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    keeper = keeper_in(tmp_path, warn=said.append)
    offer_all(keeper, STATES[1:3])

    with monkeypatch.context() as patch:
        strike(patch, 2, errno.ENOSPC)
        offer_all(keeper, STATES[3:4])
    assert held(tmp_path) == {"net_last.weights": 2, "net.backup": 1}
    offer_all(keeper, STATES[4:5])

    assert held(tmp_path) == {"net_last.weights": 4, "net.backup": 2}
    assert said[1:] == ["saved again at iteration 4"]
    assert said[0].startswith("not saved at iteration 3, training goes on: ")
    assert "No space left on device" in said[0]
    assert said[0].endswith("; it is tried again, what was saved before is safe")


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


def test_the_newest_good_checkpoint_is_found_among_all_kinds(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "net_2.weights": PACKED[2],
            "net_4.weights": PACKED[4],
            "net_4.backup": PACKED[4],
            "net_last.weights": PACKED[5],
            "net.backup": PACKED[4],
            "net_final.weights": plain(STATES[7]),
            "other_last.weights": PACKED[6],
            "net_last.weights.tmp": PACKED[7],
        },
    )

    found, rejected = newest_good(tmp_path, "net")

    assert found is not None
    assert (found.path.name, found.state.iteration) == ("net_last.weights", 5)
    assert rejected == []


@pytest.mark.parametrize(
    ("damaged", "newest"),
    [
        (["net_last.weights"], "net_4.weights"),
        (["net_last.weights", "net_4.weights"], "net_4.backup"),
        (["net_last.weights", "net_4.weights", "net_4.backup"], "net.backup"),
        (["net_last.weights", "net_4.weights", "net_4.backup", "net.backup"], "net_2.weights"),
    ],
)
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: bytes(len(data)),
        lambda data: data[:100] + bytes([data[100] ^ 16]) + data[101:],
        lambda data: data[:-700] + bytes([data[-700] ^ 1]) + data[-699:],
    ],
    ids=["cut", "empty", "zeros", "bit in the weights", "bit near the end"],
)
def test_damaged_files_are_passed_over_and_named(
    tmp_path: Path, damaged: list[str], newest: str, damage: Callable[[bytes], bytes]
) -> None:
    files = {"net_2.weights": 2, "net.backup": 3, "net_4.weights": 4, "net_4.backup": 4}
    files["net_last.weights"] = 5
    write(tmp_path, {name: PACKED[iteration] for name, iteration in files.items()})
    for name in damaged:
        (tmp_path / name).write_bytes(damage(PACKED[files[name]]))

    found, rejected = newest_good(tmp_path, "net")

    assert found is not None
    assert found.state.iteration == files[newest]
    names = {item.path.name for item in rejected}
    assert "net_last.weights" in names
    assert names <= set(damaged)
    assert all(str(item.path) in item.reason for item in rejected)


def test_a_damaged_last_is_met_even_where_a_newer_file_is_good(tmp_path: Path) -> None:
    write(tmp_path, {"net_4.weights": PACKED[4], "net_last.weights": PACKED[3][:-1]})

    found, rejected = newest_good(tmp_path, "net")

    assert found is not None
    assert found.path.name == "net_4.weights"
    assert [item.path.name for item in rejected] == ["net_last.weights"]


def test_newest_means_most_iterations_not_most_images_seen(tmp_path: Path) -> None:
    """An allowed change to a smaller batch sets `seen` back."""
    write(tmp_path, {"net.backup": container.pack(with_batch(STATES[4], 100))})
    write(tmp_path, {"net_last.weights": PACKED[5]})

    found, _ = newest_good(tmp_path, "net")

    assert found is not None
    assert found.path.name == "net_last.weights"


def test_of_two_files_of_one_iteration_last_is_taken(tmp_path: Path) -> None:
    names = ["net_4.weights", "net_4.backup", "net_last.weights", "net.backup"]
    write(tmp_path, dict.fromkeys(names, PACKED[4]))

    found, _ = newest_good(tmp_path, "net")

    assert found is not None
    assert found.path.name == "net_last.weights"


def test_a_missing_or_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert newest_good(tmp_path, "net") == (None, [])
    assert newest_good(tmp_path / "no", "net") == (None, [])
    assert run_files(tmp_path / "no", "net") == []


def test_the_claimed_position_is_read_without_the_whole_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"a": PACKED[6], "b": plain(STATES[6]), "c": PACKED[6][:3000], "d": PACKED[6] + b"\0"},
    )

    claims = [claimed_position(tmp_path / name) for name in "abcd"]

    assert claims[:2] == [(6, 0), None]
    assert claims[2] is not None
    assert claims[2] > (10**9, 0)  # to be looked at first, and found damaged
    assert claims[3] is not None


def test_only_files_of_the_name_belong_to_the_run(tmp_path: Path) -> None:
    ours = ["net.backup", "net_10.backup", "net_10.weights", "net_best.weights"]
    ours += ["net_final.weights", "net_last.weights"]
    others = ["net2_last.weights", "net_x.weights", "net_last.weights.tmp", "net_1.backup.old"]
    others += ["net.weights", "net_last.backup", "anet_last.weights", "net_net_last.weights"]
    write(tmp_path, dict.fromkeys([*ours, *others], b""))

    assert [path.name for path in run_files(tmp_path, "net")] == sorted(ours)


def test_a_name_with_signs_of_regular_expressions_is_taken_literally(tmp_path: Path) -> None:
    write(tmp_path, {"n+t(1)_last.weights": b"", "nnt1_last.weights": b""})

    assert [path.name for path in run_files(tmp_path, "n+t(1)")] == ["n+t(1)_last.weights"]


def test_temporaries_of_this_run_are_removed_and_no_others(tmp_path: Path) -> None:
    prefix = storage.temporary_prefix
    ours = ["net_last.weights.tmp", "net_5.backup.tmp", "net.journal.jsonl.tmp"]
    ours += ["chart_net.png.tmp", "chart.png.tmp", f"{prefix('net')}x.tmp"]
    kept = ["other_last.weights.tmp", "notes.tmp", "net_last.weights", f"{prefix('other')}x.tmp"]
    write(tmp_path, dict.fromkeys([*ours, *kept], b""))

    remove_temporaries(tmp_path, "net", pytest.fail)

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


@pytest.mark.parametrize(
    ("present", "name", "other"),
    [
        ("yolo_100_last.weights", "yolo", "yolo_100"),
        ("yolo_100.journal.jsonl", "yolo", "yolo_100"),
        ("yolo_last.weights", "yolo_100", "yolo"),
        ("yolo_last.weights", "yolo", None),
        ("yolo_100.weights", "yolo", None),
        ("yolo_100_last.weights", "yolo_100", None),
        ("yolo_tiny_last.weights", "yolo", None),
        ("yolo_last.weights", "yolo_tiny", None),
        ("yolo2_last.weights", "yolo", None),
    ],
)
def test_names_whose_files_could_be_mixed_up_are_found(
    tmp_path: Path, present: str, name: str, other: str | None
) -> None:
    write(tmp_path, {present: b""})

    assert other_run(tmp_path, name) == other


def test_the_iteration_in_a_name() -> None:
    names = ["net_12.weights", "net_12.backup", "net_3_4.weights", "net_last.weights", "net.backup"]

    assert [iteration_in_name(Path(name)) for name in names] == [12, 12, 4, -1, -1]


def test_without_a_savelast_saves_are_spaced_by_what_they_cost(tmp_path: Path) -> None:
    now = 100.0
    keeper = Keeper(tmp_path, "net", None, 1000, pytest.fail, clock=lambda: now)

    offer_all(keeper, STATES[1:3])
    assert held(tmp_path) == {"net_last.weights": 1}  # the first at once, the second not yet
    now += 601
    offer_all(keeper, STATES[3:4])

    assert held(tmp_path) == {"net_last.weights": 3, "net.backup": 1}


class StallingDisk:
    """In the place of `storage.write_stream_durably`: a save waits until it may go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.goes_on = threading.Event()
        self._whole = storage.write_stream_durably
        monkeypatch.setattr(storage, "write_stream_durably", self._write)

    def _write(
        self,
        path: Path,
        parts: Iterable[Buffer],
        previous: Path | None = None,
        hands: Hands | None = None,
    ) -> int:
        self.begun.set()
        assert self.goes_on.wait(10)
        return self._whole(path, parts, previous, hands)


def test_without_a_savelast_a_save_under_way_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    disk = StallingDisk(monkeypatch)
    keeper = Keeper(tmp_path, "net", None, 1000, pytest.fail, clock=lambda: now)
    for state in STATES[1:5]:
        now += 1000  # a save would be due, were there none under way
        keeper.offer(state)
    assert disk.begun.wait(10)
    disk.goes_on.set()
    keeper._wait()

    assert held(tmp_path) == {"net_last.weights": 1}


def test_of_milestones_a_slow_disk_lets_one_wait_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = StallingDisk(monkeypatch)
    keeper = keeper_in(tmp_path, savelast=None, saveweights=1)
    keeper.offer(STATES[1])
    keeper.offer(STATES[2])
    third = threading.Thread(target=keeper.offer, args=(STATES[3],))
    third.start()
    third.join(0.1)
    waits = third.is_alive()
    disk.goes_on.set()
    third.join()
    keeper._wait()

    assert waits
    expected = {f"net_{i}.weights": i for i in (1, 2, 3)}
    rest = {"net_3.backup": 3, "net_last.weights": 3, "net.backup": 2}
    assert held(tmp_path) == {**expected, **rest}


def test_a_mistake_in_the_writer_ends_the_training_and_is_no_missing_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*args: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(storage, "write_stream_durably", mistaken)
    keeper = Keeper(tmp_path, "net", None, 1000, pytest.fail, clock=lambda: 100.0)
    keeper.offer(STATES[1])
    keeper._writer.close()

    with pytest.raises(ZeroDivisionError):
        keeper.offer(STATES[2])


def test_what_stands_unreadable_in_the_place_of_a_milestone_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    keeper = Keeper(tmp_path, "net", None, 2, said.append, clock=lambda: 100.0)
    (tmp_path / "net_2.weights").mkdir()
    offer_all(keeper, STATES[2:3])

    assert len(said) == 1
    assert said[0].startswith("not saved at iteration 2, training goes on: ")


@pytest.mark.parametrize(
    ("cost_s", "size_bytes", "savebudget_gb", "pause_s"),
    [
        (0.1, 1_000, 100, 10.0),
        (0.001, 1_000_000_000, 100, 600.0),
        (0.01, 10_000_000, 100, 8.64),
        (0.01, 10_000_000, 50, 17.28),
        (60, 1, 100, 600.0),
    ],
)
def test_the_pause_keeps_both_budgets_and_ten_minutes(
    cost_s: float, size_bytes: int, savebudget_gb: float, pause_s: float
) -> None:
    # Approximately, for the float division.
    assert pause_after(cost_s, size_bytes, savebudget_gb) == pytest.approx(pause_s)


def test_iterations_that_a_save_makes_longer_count_as_its_cost() -> None:
    pace = Pace()
    at = 0.0
    for duration, saving in ((1, False), (1, False), (1, False), (4, True), (2, True)):
        at += duration
        pace.note(at, saving)

    assert pace.taken_slowdown_s() == 4.0  # the first note only starts the clock
    assert pace.taken_slowdown_s() == 0.0


def test_a_disk_that_stalls_makes_saves_rarer_and_training_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    disk = StallingDisk(monkeypatch)
    keeper = Keeper(tmp_path, "net", None, 1000, pytest.fail, clock=lambda: now)
    for state in STATES[1:4]:  # a second each, none of which waits for a save
        now += 1
        keeper.offer(state) if state is STATES[3] else keeper._pace.note(now, saving=False)
    now += 5  # the iteration beside the save takes five seconds, since its pictures do not come
    assert disk.begun.wait(10)
    keeper.offer(STATES[4])
    disk.goes_on.set()
    keeper._wait()

    # Four seconds more than usual: the next save is due 400 s later.
    assert keeper._save_from == now + 400
    assert held(tmp_path) == {"net_last.weights": 3}


def test_a_milestone_the_disk_refused_is_written_before_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    keeper = keeper_in(tmp_path, saveweights=2, warn=said.append)
    offer_all(keeper, STATES[1:2])

    with monkeypatch.context() as patch:
        strike(patch, 2, errno.ENOSPC)
        offer_all(keeper, STATES[2:3])
    assert held(tmp_path) == {"net_last.weights": 1}  # or a kill would skip the milestone for good
    offer_all(keeper, STATES[3:4])

    expected = {"net_2.weights": 2, "net_2.backup": 2, "net_last.weights": 3, "net.backup": 1}
    assert held(tmp_path) == expected


def evaluated(iteration: int, *values: float) -> TrainState:
    """Return a state with so many evaluations, the last one its own."""
    state = STATES[iteration]
    measure = measure_of(state.recipe.keys, NO_DIGESTS)
    first = iteration + 1 - len(values)
    done = tuple(Measured(i, value, measure) for i, value in enumerate(values, first))
    return replace(state, history=replace(state.history, evaluations=done))


def test_the_best_is_kept_whatever_savelast_says_and_only_a_better_one_replaces_it(
    tmp_path: Path,
) -> None:
    keeper = keeper_in(tmp_path, savelast=7)
    best = tmp_path / "net_best.weights"

    offer_all(keeper, [evaluated(1, 0.25), evaluated(2, 0.25, 0.5)])
    assert best.read_bytes() == container.pack(evaluated(2, 0.25, 0.5))
    offer_all(keeper, [evaluated(3, 0.25, 0.5, 0.5)])
    keeper.stop(evaluated(3, 0.25, 0.5, 0.5))

    assert best.read_bytes() == container.pack(evaluated(2, 0.25, 0.5))


def test_a_best_the_disk_refused_is_written_before_any_state_that_knows_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    keeper = keeper_in(tmp_path, warn=said.append)
    offer_all(keeper, STATES[1:2])

    with monkeypatch.context() as patch:
        strike(patch, 1, errno.ENOSPC)
        offer_all(keeper, [evaluated(2, 0.5)])
    assert held(tmp_path) == {"net_last.weights": 1}
    later = replace(
        STATES[3],
        history=replace(STATES[3].history, evaluations=evaluated(2, 0.5).history.evaluations),
    )
    offer_all(keeper, [later])

    assert (tmp_path / "net_best.weights").read_bytes() == container.pack(evaluated(2, 0.5))
    assert (tmp_path / "net_last.weights").read_bytes() == container.pack(later)


def test_a_state_that_awaits_its_evaluation_is_no_milestone_yet(tmp_path: Path) -> None:
    keeper = keeper_in(tmp_path, saveweights=2)

    keeper.offer(STATES[2], awaits_evaluation=True)
    keeper.stop(STATES[2], awaits_evaluation=True)
    assert held(tmp_path) == {"net_last.weights": 2}
    keeper.offer(evaluated(2, 0.5))
    keeper.close()

    milestone = (tmp_path / "net_2.weights").read_bytes()
    assert milestone == container.pack(evaluated(2, 0.5))


def test_a_refused_save_counts_towards_the_pause_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    keeper = Keeper(tmp_path, "net", None, 1000, said.append, clock=lambda: 100.0)
    strike(monkeypatch, 1, errno.ENOSPC)

    offer_all(keeper, STATES[1:4])

    assert held(tmp_path) == {}
    assert len(said) == 1


def test_a_state_kept_for_a_milestone_is_not_overwritten_by_the_next_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    keeper = keeper_in(tmp_path, saveweights=2, warn=said.append)

    with monkeypatch.context() as patch:
        strike(patch, 1, errno.ENOSPC, lasting=True)
        offer_all(keeper, STATES[1:6])
    offer_all(keeper, STATES[6:7])

    expected = {"net_2.weights": 2, "net_4.weights": 4, "net_6.weights": 6, "net_6.backup": 6}
    assert held(tmp_path) == {**expected, "net_last.weights": 6}
    assert len(said) == 2


def test_milestones_that_a_disk_goes_on_refusing_end_the_run_before_they_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    keeper = keeper_in(tmp_path, saveweights=1, warn=said.append)
    strike(monkeypatch, 1, errno.ENOSPC, lasting=True)
    offer_all(keeper, STATES[1:4])

    with pytest.raises(StorageError, match="No space left on device"):
        offer_all(keeper, STATES[4:5])
    assert len(said) == 1


def test_older_milestones_become_plain_where_keepstate_says_so(tmp_path: Path) -> None:
    keeper = keeper_in(tmp_path, saveweights=1)
    keeper.keepstate = 2
    offer_all(keeper, STATES[1:6])

    expected: dict[str, int | str] = {f"net_{i}.weights": f"plain {i}" for i in (1, 2, 3)}
    expected |= {"net_4.weights": 4, "net_5.weights": 5, "net_5.backup": 5}
    assert held(tmp_path) == {**expected, "net_last.weights": 5, "net.backup": 4}


def test_a_thinning_that_a_kill_left_undone_is_done_at_the_next_stop(tmp_path: Path) -> None:
    offer_all(keeper_in(tmp_path, saveweights=1), STATES[1:5])
    keeper = keeper_in(tmp_path, saveweights=1)
    keeper.keepstate = 1

    keeper.stop(STATES[4])

    expected = {"net_1.weights": "plain 1", "net_2.weights": "plain 2", "net_3.weights": "plain 3"}
    rest = {"net_4.weights": 4, "net_4.backup": 4, "net_last.weights": 4, "net.backup": 3}
    assert held(tmp_path) == {**expected, **rest}


def test_a_damaged_milestone_is_left_for_a_person_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    keeper = keeper_in(tmp_path, saveweights=1, warn=said.append)
    keeper.keepstate = 1
    offer_all(keeper, STATES[1:2])
    data = bytearray(PACKED[1])
    data[500] ^= 1
    (tmp_path / "net_1.weights").write_bytes(data)
    offer_all(keeper, STATES[2:3])

    assert (tmp_path / "net_1.weights").read_bytes() == data
    assert said == [
        f"keepstate: left as it is: {tmp_path / 'net_1.weights'}: damaged in the Darknet part; "
        "an intact file"
    ]


def test_how_far_a_power_cut_would_throw_the_run_back_is_known(tmp_path: Path) -> None:
    now = 100.0
    keeper = Keeper(tmp_path, "net", 3, 1000, pytest.fail, clock=lambda: now)
    assert keeper.unsaved(2) == (2, 0.0)
    for state in STATES[3:6]:
        now += 10
        offer_all(keeper, [state])

    assert keeper.unsaved(5) == (2, 20.0)
    keeper.stop(STATES[5])
    assert keeper.unsaved(5) == (0, 0.0)


def test_before_the_first_save_a_power_cut_would_cost_all_of_the_time_so_far(
    tmp_path: Path,
) -> None:
    now = 100.0
    keeper = Keeper(tmp_path, "net", 3, 1000, pytest.fail, clock=lambda: now)
    keeper.stop(STATES[0])  # as every run begins
    now += 20
    keeper.offer(STATES[2])

    assert keeper.unsaved(2) == (2, 20.0)


def test_a_state_inside_an_iteration_is_newer_than_the_one_at_its_beginning(
    tmp_path: Path,
) -> None:
    packed = container.pack(inside(STATES[3], subdivisions=2))
    whole = container.pack(with_batch(STATES[3], 2))
    write(tmp_path, {"net_last.weights": whole, "net.backup": packed})

    found, _ = newest_good(tmp_path, "net")

    assert found is not None
    assert (found.path.name, found.state.subdivision) == ("net.backup", 1)
    assert claimed_position(tmp_path / "net.backup") == (3, 1)


def test_a_folder_that_has_been_taken_away_ends_the_run_and_gets_nothing(tmp_path: Path) -> None:
    """As when a drive is unmounted and the empty mount point is left."""
    folder = tmp_path / "backup"
    folder.mkdir()
    keeper = keeper_in(folder, saveweights=2)
    with storage.locked(folder, "net"):
        offer_all(keeper, STATES[1:2])
        folder.rename(tmp_path / "elsewhere")
        folder.mkdir()
        with pytest.raises(LockLost, match="is another folder than when this run began"):
            offer_all(keeper, STATES[2:4])
        with pytest.raises(LockLost, match="is another folder than when this run began"):
            keeper.stop(STATES[3])

    assert list(folder.iterdir()) == []
    (tmp_path / "elsewhere" / "net.lock").unlink()
    assert held(tmp_path / "elsewhere") == {"net_last.weights": 1}


def test_a_folder_that_cannot_be_looked_into_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    for look in (run_files, other_run, temporaries, newest_good):
        with pytest.raises(CheckpointError, match=r"cannot be looked into \(Permission denied\)"):
            look(tmp_path, "net")


def test_a_last_of_zeros_is_damaged_not_foreign(tmp_path: Path) -> None:
    write(tmp_path, {"net_last.weights": bytes(len(PACKED[3]))})

    found, rejected = newest_good(tmp_path, "net")

    assert found is None
    assert "begins with zeros" in rejected[0].reason


def test_of_an_iteration_that_has_begun_the_older_generation_is_the_state_before_it(
    tmp_path: Path,
) -> None:
    def inside(done: int) -> TrainState:
        partial = {"subdivisions": np.array([done], np.uint32)}
        return replace(STATES[3], groups={**STATES[3].groups, "partial": partial})

    keeper = keeper_in(tmp_path)
    offer_all(keeper, STATES[2:4])
    for done in (1, 2):
        keeper.stop(inside(done))
        assert (tmp_path / "net_last.weights").read_bytes() == container.pack(inside(done))
        assert (tmp_path / "net.backup").read_bytes() == PACKED[3]


def test_a_save_that_ends_within_an_iteration_disturbed_it_all_the_same(tmp_path: Path) -> None:
    now = 0.0
    keeper = Keeper(tmp_path, "net", None, 1000, pytest.fail, clock=lambda: now)
    offer_all(keeper, STATES[1:2])  # saved, and over before the next one is offered
    for state in STATES[2:4]:
        now += 1e-6  # far too soon for another save
        offer_all(keeper, [state])

    assert len(keeper._pace._disturbed_s) == len(keeper._pace._undisturbed_s) == 1
