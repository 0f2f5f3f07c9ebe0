"""Where processes meet: a store in which an earlier start has left what looks like a new one."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

# Known as torch.distributed's, where type checkers do not find it.
from torch._C._distributed_c10d import HashStore

from relume.distributed import meeting
from relume.errors import PeerLost

LONGEST = timedelta(seconds=60)


def met(store: HashStore, size: int, late: threading.Event) -> list[str]:
    """Return the names that the processes of a start find, the first of which comes last."""

    def first() -> str:
        assert late.wait(LONGEST.total_seconds())
        return meeting._welcome_all(store, size)

    with ThreadPoolExecutor(size) as pool:
        others = [pool.submit(meeting._found, store, rank, size) for rank in range(1, size)]
        return [pool.submit(first).result(), *(other.result() for other in others)]


@pytest.fixture
def now() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def test_all_find_the_name_that_the_first_has_given(now: threading.Event) -> None:
    names = met(HashStore(), 4, now)

    assert len(set(names)) == 1


def test_the_start_before_in_the_same_store_is_not_taken_for_this_one(
    now: threading.Event,
) -> None:
    store = HashStore()
    before = met(store, 3, now)[0]

    names = [met(store, 3, now)[0] for _ in range(5)]

    assert len({before, *names}) == 6


def test_who_comes_before_the_first_waits_though_a_dead_start_has_welcomed_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, late, asked = HashStore(), threading.Event(), []
    stale = "relume/machine/7/1"
    store.set(meeting.CURRENT, stale)
    store.set(f"{stale}/welcome/1/machine/8/2", "")
    wait = time.sleep

    def looked(seconds: float) -> None:
        asked.append(store.check([f"{stale}/asks/1"]))
        if asked.count(True) > 3:  # it has asked the dead one, and looked for an answer again
            late.set()
        wait(seconds)

    monkeypatch.setattr(time, "sleep", looked)

    names = met(store, 2, late)

    assert names[0] == names[1] != stale


def test_a_process_that_never_comes_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "LONGEST", timedelta(seconds=0.1))
    monkeypatch.setattr(meeting, "POLL_S", 0.01)
    store = HashStore()

    with pytest.raises(PeerLost, match="process 0 of 2: has waited for 0 seconds for another"):
        meeting._welcome_all(store, 2)
    with pytest.raises(PeerLost, match="process 1 of 2"):
        meeting._found(store, 1, 2)
