"""The file laid out in memory: the same bytes as packed at once, whoever does the work."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relume.checkpoint import container, file_image, storage
from relume.checkpoint.archive import Seal
from relume.checkpoint.container import pack
from relume.checkpoint.disk import Buffer, Disk
from relume.checkpoint.file_image import FileImage
from relume.checkpoint.hands import Hands
from relume.checkpoint.state import TrainState
from tests.checkpoint.states import history_of, tiny_state


@pytest.fixture(name="hands")
def some_hands() -> Iterator[Hands]:
    hands = Hands(2)
    yield hands
    hands.close()


def held(state: TrainState, hands: Hands | None = None) -> FileImage:
    held_image = FileImage()
    held_image.hold(state, state.digest(), hands)
    return held_image


@settings(max_examples=40, deadline=None)
@given(
    iteration=st.integers(0, 40),
    piece_bytes=st.sampled_from([1, 7, 33, 1000, 4096, 1 << 20]),
    helped=st.booleans(),
    name=st.text(max_size=3),
)
def test_the_file_is_the_one_that_is_packed_at_once(
    iteration: int, piece_bytes: int, helped: bool, name: str
) -> None:
    state = replace(tiny_state(3), history=history_of(iteration))
    state = replace(state, recipe=replace(state.recipe, names=(name,)))
    hands = Hands(2) if helped else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_image, "PIECE_BYTES", piece_bytes)

        found = b"".join(bytes(piece) for piece in held(state, hands).pieces(hands))

    assert found == pack(state)
    if hands is not None:
        hands.close()


def test_a_piece_that_has_been_given_out_does_not_change(
    monkeypatch: pytest.MonkeyPatch, hands: Hands
) -> None:
    monkeypatch.setattr(file_image, "PIECE_BYTES", 512)
    held_image = held(tiny_state())
    given_out = [(piece, bytes(piece)) for piece in held_image.pieces(hands)]

    assert len(given_out) > 10
    assert all(piece == then for piece, then in given_out)


def test_a_held_state_does_not_follow_the_network(hands: Hands) -> None:
    state = tiny_state()
    expected = pack(state)
    held_image = held(state, hands)
    for array in (state.weights["0.weights"], state.groups["pictures"]["digests"]):
        array[...] = 0

    assert held_image.file(hands) == expected != pack(state)


def test_memory_is_used_again_and_grows_with_the_history() -> None:
    held_image = held(tiny_state(2))
    place = np.frombuffer(held_image.file(), np.uint8).ctypes.data
    held_image.hold(tiny_state(5), tiny_state(5).digest())
    again = np.frombuffer(held_image.file(), np.uint8).ctypes.data
    long = replace(tiny_state(5), history=history_of(100_000))
    held_image.hold(long, long.digest())

    assert again == place
    assert held_image.file() == pack(long)


def test_the_file_is_made_once_however_often_it_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A milestone is written twice, then once more as `_last`."""
    made: list[container.Contents] = []
    seals_of = container.seals_of

    def counted(contents: container.Contents) -> dict[str, Seal]:
        made.append(contents)
        return seals_of(contents)

    monkeypatch.setattr(container, "seals_of", counted)
    held_image = held(tiny_state())
    expected = bytes(held_image.file())
    storage.write_stream_durably(tmp_path / "last", held_image.pieces())

    assert (tmp_path / "last").read_bytes() == held_image.file() == expected
    assert len(made) == 1


def test_a_file_that_the_disk_refused_leaves_nothing_in_the_next_one(
    monkeypatch: pytest.MonkeyPatch, hands: Hands
) -> None:
    """The thread that seals may still be at it when the next state is copied."""
    may_seal = threading.Event()
    seals_of = container.seals_of

    def slow(contents: container.Contents) -> dict[str, Seal]:
        assert may_seal.wait(10)
        return seals_of(contents)

    monkeypatch.setattr(file_image, "PIECE_BYTES", 512)
    held_image = held(tiny_state(2))
    monkeypatch.setattr(container, "seals_of", slow)
    refused = held_image.pieces(hands)
    next(refused)
    refused.close()
    threading.Timer(0.05, may_seal.set).start()
    held_image.hold(tiny_state(3), tiny_state(3).digest(), hands)

    assert held_image.file(hands) == pack(tiny_state(3))


def test_the_memory_is_written_without_another_copy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written: list[int] = []

    class Watched(Disk):
        def write(self, descriptor: int, data: Buffer) -> None:
            written.append(np.frombuffer(data, np.uint8).ctypes.data)
            super().write(descriptor, data)

    monkeypatch.setattr(file_image, "PIECE_BYTES", 8192)
    monkeypatch.setattr(storage, "DISK", Watched())
    held_image = held(replace(tiny_state(), history=history_of(1000)))
    storage.write_stream_durably(tmp_path / "last", held_image.pieces())

    begin = np.frombuffer(held_image.file(), np.uint8).ctypes.data
    assert len(written) > 5
    # All but the end, which is shorter than a block.
    assert written[:-1] == [begin + 8192 * number for number in range(len(written) - 1)]
