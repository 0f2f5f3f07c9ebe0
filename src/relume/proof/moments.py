"""When the kills of a proof strike: drawn from (seed, number of the kill), spread over the run.

The undisturbed run tells how long each iteration takes, and how long the end. A kill is drawn
uniformly from the time that is left, divided among the kills that are left, and expressed in
whole iterations and seconds after the last of them, so that it means the same on a machine that
has become faster or slower meanwhile.
"""

from bisect import bisect_right
from dataclasses import dataclass

from relume.draws import draw_uniforms

PURPOSE = "kill"


@dataclass(frozen=True)
class Moment:
    """A moment in a start: after so many of its iterations, and then so many seconds."""

    iterations: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.iterations} iterations and {self.seconds:.2f} s"


@dataclass(frozen=True)
class Timeline:
    """How the undisturbed run went."""

    ends_s: tuple[float, ...]
    """Seconds after its first iteration began: 0, the end of each iteration, the end of all."""

    def moment(self, done: int, kills_left: int, seed: int, number: int) -> Moment:
        """Return when kill `number` strikes a start that has `done` iterations behind it.

        Args:
            done: iterations of this run, 0 to all.
            kills_left: this one included, 1 or more; the last may fall anywhere in what is left.
            seed: of the moments.
            number: of the kill.
        """
        (draw,) = draw_uniforms(seed, PURPOSE, (number,), 1)
        left_s = self.ends_s[-1] - self.ends_s[done]
        struck_s = self.ends_s[done] + float(draw) * left_s * 2 / (kills_left + 1)
        before = bisect_right(self.ends_s, struck_s, lo=done + 1, hi=len(self.ends_s) - 1) - 1
        return Moment(before - done, struck_s - self.ends_s[before])
