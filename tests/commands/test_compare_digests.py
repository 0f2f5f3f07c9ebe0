"""`relume compare` of two files of tensor digests: verdict, iteration, tensor, exit status."""

from pathlib import Path

import pytest

from tests.checkpoint.states import tiny_state
from tests.checkpoint.test_tensor_digests import changed, written
from tests.command_line import relume

STATES = [tiny_state(iteration) for iteration in range(5)]
OTHER = [changed(state, "momentum", "1.biases") for state in STATES]


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """The digests of a run of four iterations."""
    return written(tmp_path / "one", *STATES)


def test_equal_runs_are_status_0_however_often_one_was_started(one: Path, tmp_path: Path) -> None:
    two = written(written(tmp_path / "two", *STATES[:4]), *STATES[2:])
    ended = relume("compare", one, two)

    assert ended.status == 0
    assert ended.out == "same: the tensors of 5 states, iterations 0 to 4\n"


def test_the_first_iteration_and_tensor_are_named_with_status_1(one: Path, tmp_path: Path) -> None:
    two = written(tmp_path / "two", *STATES[:2], *OTHER[2:])
    ended = relume("compare", one, two)

    assert ended.status == 1
    assert ended.out.startswith(
        "different: iteration 2: momentum/1.biases is the first tensor that differs (momentum 1 of"
    )


def test_an_iteration_with_two_results_is_told_even_if_the_later_one_is_right(
    one: Path, tmp_path: Path
) -> None:
    two = written(written(tmp_path / "two", *STATES[:3], OTHER[3]), *STATES[2:])
    ended = relume("compare", one, two)

    assert ended.status == 1
    assert ended.out.startswith(
        f"different: {two}, computed twice: iteration 3: momentum/1.biases is the first tensor"
    )
    assert ended.out.count("\n") == 1


def test_what_only_one_file_holds_is_said_not_compared(one: Path, tmp_path: Path) -> None:
    two = written(tmp_path / "two", *STATES[:3])
    ended = relume("compare", two, one)

    assert ended.status == 0
    assert ended.out.splitlines() == [
        "same: the tensors of 3 states, iterations 0 to 2",
        f"not compared: 2 states that only {one} holds",
    ]


def test_trouble_is_status_2(one: Path, tmp_path: Path) -> None:
    later = written(tmp_path / "later", tiny_state(7))
    weights = tmp_path / "x.weights"
    weights.write_bytes(bytes(1000))
    for other, error in (
        (later, f"{later}: holds no iteration that {one} holds"),
        (weights, f"{weights}: holds no tensor digests; a file of -tensor_digests"),
        (tmp_path / "gone", f"{tmp_path / 'gone'}: cannot be read (No such file or directory); "),
    ):
        ended = relume("compare", one, other)

        assert ended.status == 2
        assert ended.error.startswith(error)
