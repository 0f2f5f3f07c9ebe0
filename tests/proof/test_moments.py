"""When kills strike: uniform over what is left, the same for the same seed, never too late."""

import pytest

from relume.draws import draw_uniforms
from relume.proof.moments import PURPOSE, Moment, Timeline

STEADY = Timeline(tuple(float(s) for s in range(11)))  # nine iterations and an end of 1 s each


def test_the_moment_is_the_draw_of_seed_and_number() -> None:
    for seed in range(20):
        (draw,) = draw_uniforms(seed, PURPOSE, (0,), 1)
        moment = STEADY.moment(done=0, kills=1, seed=seed, number=0)

        assert moment.iterations + moment.seconds == pytest.approx(10 * float(draw))
        assert 0 <= moment.seconds < 1
        assert moment == STEADY.moment(0, 1, seed, 0)


@pytest.mark.parametrize("done", [0, 2, 4])
def test_each_kill_has_its_part_of_the_run_whatever_the_one_before_has_thrown_back(
    done: int,
) -> None:
    for seed in range(100):
        moment = STEADY.moment(done, kills=2, seed=seed, number=1)

        assert 5 <= done + moment.iterations + moment.seconds < 10


def test_every_iteration_and_the_end_are_struck() -> None:
    struck = {STEADY.moment(0, 2, seed, seed % 2).iterations for seed in range(300)}

    assert struck == set(range(10))


def test_slow_iterations_are_struck_more_often() -> None:
    timeline = Timeline((0.0, 9.0, 10.0, 10.0))
    first = sum(timeline.moment(0, 1, seed, 0).iterations == 0 for seed in range(500))

    assert 400 < first < 500


def test_a_start_that_is_further_than_the_draw_is_killed_at_once() -> None:
    for done in (6, 9):
        assert STEADY.moment(done, kills=2, seed=1, number=0) == Moment(0, 0.0)


def test_behind_the_last_iteration_only_the_end_is_left() -> None:
    for seed in range(20):
        moment = STEADY.moment(done=9, kills=1, seed=seed, number=0)

        assert moment.iterations == 0
        assert moment.seconds < 1


def test_a_moment_reads_as_iterations_and_seconds() -> None:
    assert str(Moment(3, 0.256)) == "3 iterations and 0.26 s"
