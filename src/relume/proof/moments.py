"""When the kills of a proof strike: drawn from (seed, number of the kill), spread over the run.

The undisturbed run tells how long each iteration takes, and how long the end. Its time is cut
into as many equal parts as there are kills, and each kill is drawn uniformly from its part, so
every one comes later in the run than the one before, however much that has thrown back. A moment
is told in whole iterations, and seconds after the last of them: so it means the same on a machine
that has become faster or slower meanwhile.
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

    def moment(self, done: int, kills: int, seed: int, number: int) -> Moment:
        """Return when kill `number` strikes a start that has `done` iterations behind it.

        Args:
            done: iterations of this run, 0 to all.
            kills: all of them.
            seed: of the moments.
            number: of the kill, 0 to kills - 1.
        """
        (draw,) = draw_uniforms(seed, PURPOSE, (number,), 1)
        drawn_s = self.ends_s[-1] * (number + float(draw)) / kills
        struck_s = max(drawn_s, self.ends_s[done])  # a start may already be further
        before = bisect_right(self.ends_s, struck_s, lo=done + 1, hi=len(self.ends_s) - 1) - 1
        return Moment(before - done, struck_s - self.ends_s[before])
