"""The side file of tensor digests: where two runs part, by iteration and by tensor."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relume.checkpoint import storage
from relume.checkpoint.state import TrainState
from relume.checkpoint.tensor_digests import (
    TensorDigests,
    digests_of,
    first_tensor_difference,
    is_digest_file,
    read_digest_file,
)
from relume.errors import StorageError, WeightsError
from tests.checkpoint.states import tiny_state


def changed(state: TrainState, group: str, name: str) -> TrainState:
    """Return the state with one bit of one tensor flipped."""
    arrays = dict(state.weights if group == "weights" else state.groups[group])
    array = np.array(arrays[name])
    array.view(np.uint8).reshape(-1)[-1] ^= 1
    arrays[name] = array
    if group == "weights":
        return replace(state, weights=arrays)
    return replace(state, groups={**state.groups, group: arrays})


def written(path: Path, *states: TrainState) -> Path:
    """Write the lines of one start; the first state is the one it goes on from."""
    file = TensorDigests(path, pytest.fail)
    for number, state in enumerate(states):
        file.append(state, start=number == 0)
    file.close()
    return path


def test_a_line_holds_the_digest_of_every_tensor(tmp_path: Path) -> None:
    state = tiny_state(3)
    path = written(tmp_path / "digests", tiny_state(2), state)
    start, line = (json.loads(text) for text in path.read_text().splitlines())

    names = {f"weights/{name}" for name in state.weights}
    names |= {f"{group}/{name}" for group in state.groups for name in state.groups[group]}
    assert (start["iteration"], start["start"]) == (2, True)
    assert line == {"iteration": 3, "tensors": digests_of(state)}
    assert set(line["tensors"]) == names
    assert all(len(digest) == 32 for digest in line["tensors"].values())
    assert is_digest_file(path)


def test_every_bit_of_every_tensor_type_and_shape_count() -> None:
    state = tiny_state()
    plain = digests_of(state)
    for group, name in (
        ("weights", "1.weights"),
        ("momentum", "0.biases"),
        ("pictures", "digests"),
    ):
        other = digests_of(changed(state, group, name))
        assert {key for key in plain if plain[key] != other[key]} == {f"{group}/{name}"}
    reshaped = {**state.weights, "0.biases": state.weights["0.biases"].reshape(1, -1)}
    retyped = {**state.weights, "0.biases": state.weights["0.biases"].view(np.int32)}
    for weights in (reshaped, retyped):
        other = digests_of(replace(state, weights=weights))
        assert other["weights/0.biases"] != plain["weights/0.biases"]


def test_partial_sums_belong_to_the_iteration_after() -> None:
    state = tiny_state()
    inside = replace(state, groups={**state.groups, "partial": {"0.biases": np.zeros(3)}})

    assert digests_of(inside) == digests_of(state)


def test_the_first_iteration_and_tensor_that_differ_are_named(tmp_path: Path) -> None:
    states = [tiny_state(iteration) for iteration in range(6)]
    other = [changed(changed(s, "weights", "1.weights"), "momentum", "1.biases") for s in states]
    one = read_digest_file(written(tmp_path / "one", *states))
    two = read_digest_file(written(tmp_path / "two", *states[:4], *other[4:]))
    difference = first_tensor_difference(one, two)

    assert difference is not None
    assert (difference.iteration, difference.tensor) == (4, "momentum/1.biases")
    names = [f"{group}/{name}" for group in ("momentum",) for name in states[0].groups[group]]
    assert str(difference) == (
        "iteration 4: momentum/1.biases is the first tensor that differs "
        f"(momentum 1 of {len(names)}, weights 1 of {len(states[0].weights)})"
    )
    assert (
        first_tensor_difference(one, read_digest_file(written(tmp_path / "again", *states))) is None
    )


def test_layers_are_counted_not_spelled(tmp_path: Path) -> None:
    state = tiny_state(1)
    more = {f"{layer}.weights": np.zeros(layer, np.float32) for layer in range(1, 12)}
    state = replace(state, weights=more)
    other = changed(changed(state, "weights", "2.weights"), "weights", "10.weights")
    files = [read_digest_file(written(tmp_path / n, s)) for n, s in (("a", state), ("b", other))]
    difference = first_tensor_difference(*files)

    assert difference is not None
    assert difference.tensor == "weights/2.weights"


def test_a_tensor_that_one_run_does_not_have_is_named(tmp_path: Path) -> None:
    state = tiny_state(1)
    without = replace(state, groups={"pictures": state.groups["pictures"]})
    one, two = (tmp_path / name for name in ("one", "two"))
    files = read_digest_file(written(one, state)), read_digest_file(written(two, without))

    assert (
        str(first_tensor_difference(*files))
        == f"iteration 1: momentum/0.biases is there only in {one}"
    )


def test_of_an_iteration_computed_twice_the_later_line_counts_and_a_difference_is_told(
    tmp_path: Path,
) -> None:
    states = [tiny_state(iteration) for iteration in range(5)]
    path = written(tmp_path / "one", *states[:4])
    same = read_digest_file(written(path, *states[2:]))
    assert (same.computed_again, same.repeated, sorted(same.offsets)) == (1, None, [0, 1, 2, 3, 4])

    other = changed(states[3], "momentum", "0.weights")
    file = read_digest_file(written(path, states[2], other, states[4]))

    assert file.tensors(3) == digests_of(other)
    assert file.repeated is not None
    assert (file.repeated.iteration, file.repeated.tensor) == (3, "momentum/0.weights")


def test_a_line_that_a_kill_cut_at_any_byte_is_passed_over(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", tiny_state(0), tiny_state(1)).read_bytes()
    first = whole.index(b"\n") + 1
    path = tmp_path / "cut"
    for length in range(first, len(whole), 97):
        path.write_bytes(whole[:length])
        file = read_digest_file(written(path, tiny_state(0), tiny_state(1)))

        assert (sorted(file.offsets), file.repeated) == ([0, 1], None)
        assert file.tensors(1) == digests_of(tiny_state(1))


def test_a_full_disk_ends_the_digests_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    file = TensorDigests(tmp_path / "digests", said.append)
    file.append(tiny_state(0), start=True)

    def full(file: storage.AppendFile, line: str) -> None:
        raise StorageError(file.path, f"cannot be written ({os.strerror(errno.ENOSPC)})")

    monkeypatch.setattr(storage.AppendFile, "append", full)
    file.append(tiny_state(1))
    file.append(tiny_state(2))
    file.close()

    place = tmp_path / "digests"
    expected = f"{place}: cannot be written (No space left on device)"
    assert said == [f"the tensor digests end here, training goes on: {expected}"]
    assert sorted(read_digest_file(place).offsets) == [0]


@pytest.mark.parametrize("contents", [b"", b"\n", b'{"iteration":1', b"[1]\n", b"\xff\0"])
def test_a_file_without_digests_is_an_error(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(contents)

    with pytest.raises(WeightsError, match="holds no tensor digests; a file of -tensor_digests"):
        read_digest_file(path)


def test_a_file_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        TensorDigests(tmp_path / "no" / "file", pytest.fail)
