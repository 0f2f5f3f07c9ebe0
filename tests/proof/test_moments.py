"""When kills strike: uniform over what is left, the same for the same seed, never too late."""

import pytest

from relume.draws import draw_uniforms
from relume.proof.moments import PURPOSE, Moment, Timeline

STEADY = Timeline(tuple(float(s) for s in range(11)))  # nine iterations and an end of 1 s each


def test_the_moment_is_the_draw_of_seed_and_number() -> None:
    for number in range(20):
        (draw,) = draw_uniforms(7, PURPOSE, (number,), 1)
        moment = STEADY.moment(done=0, kills_left=1, seed=7, number=number)

        assert moment.iterations + moment.seconds == pytest.approx(10 * float(draw))
        assert 0 <= moment.seconds < 1
        assert moment == STEADY.moment(0, 1, 7, number)


def test_the_kills_that_are_left_share_what_is_left() -> None:
    for number in range(200):
        moment = STEADY.moment(done=4, kills_left=2, seed=1, number=number)

        assert 0 <= moment.iterations + moment.seconds < 4  # two thirds of the six seconds left


def test_every_iteration_and_the_end_are_struck() -> None:
    struck = {STEADY.moment(3, 1, 5, number).iterations for number in range(200)}

    assert struck == set(range(7))


def test_slow_iterations_are_struck_more_often() -> None:
    timeline = Timeline((0.0, 9.0, 10.0, 10.0))
    first = sum(timeline.moment(0, 1, 3, number).iterations == 0 for number in range(500))

    assert 400 < first < 500


def test_behind_the_last_iteration_only_the_end_is_left() -> None:
    for number in range(20):
        moment = STEADY.moment(done=9, kills_left=1, seed=2, number=number)

        assert moment.iterations == 0
        assert moment.seconds < 1


def test_a_moment_reads_as_iterations_and_seconds() -> None:
    assert str(Moment(3, 0.256)) == "3 iterations and 0.26 s"
