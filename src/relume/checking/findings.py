"""Findings: what was found, where, how bad it is and what to do; and their table."""

import enum
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from relume.control_characters import escape_controls
from relume.errors import RelumeError

MOST_PLACES = 3
"""That the table names of one kind of finding."""
NARROWEST = 40


class Verdict(enum.Enum):
    """What a finding means for the run."""

    ERROR = "error"
    """The run does not start, or stops when it comes there."""
    WARNING = "warning"
    """It trains, but perhaps not what was meant."""
    NOTE = "note"
    """Good to know."""


@dataclass(frozen=True)
class Finding:
    """One thing, at one place."""

    verdict: Verdict
    what: str
    """The same words for all findings of a kind."""
    place: str
    """`file:line`, or the file."""
    detail: str = ""
    """What it is at this place."""
    remedy: str = ""
    """What to do, the same for all of a kind."""


@dataclass(frozen=True)
class Group:
    """All findings of a kind."""

    verdict: Verdict
    what: str
    remedy: str
    where: tuple[tuple[str, str], ...]
    """Place and detail of each."""


def of_error(what: str, error: RelumeError, verdict: Verdict = Verdict.ERROR) -> Finding:
    """Return what a reader raised as a finding; it goes on to the next."""
    detail = "; ".join(part for part in (error.found, error.needed) if part)
    return Finding(verdict, what, error.place, detail, error.remedy)


def grouped(findings: Iterable[Finding]) -> list[Group]:
    """Return the kinds of findings, the worst first, each in the order it was found."""
    kinds: dict[tuple[Verdict, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.verdict, finding.what), []).append(finding)
    return [
        Group(verdict, what, found[0].remedy, tuple((f.place, f.detail) for f in found))
        for wanted in Verdict
        for (verdict, what), found in kinds.items()
        if verdict is wanted
    ]


def table_lines(groups: Sequence[Group], width: int | None) -> list[str]:
    """Return the table: verdict, how many (but of a single note), and what, where, what to do.

    Args:
        groups: in order.
        width: columns; None breaks no line, for programs that read them.
    """
    lines = []
    for group in groups:
        is_once = group.verdict is Verdict.NOTE and len(group.where) == 1
        head = f"{group.verdict.value:<7} {'' if is_once else len(group.where):>6}  "
        lines += wrapped(group.what, head, width)
        indent = " " * len(head)
        for place, detail in group.where[:MOST_PLACES]:
            lines += wrapped(": ".join(part for part in (place, detail) if part), indent, width)
        if len(group.where) > MOST_PLACES:
            more = f"and {len(group.where) - MOST_PLACES} more; -json names all"
            lines += wrapped(more, indent, width)
        if group.remedy:
            lines += wrapped(f"-> {group.remedy}", indent, width)
    return lines


def wrapped(text: str, before: str, width: int | None) -> list[str]:
    """Return a text in lines of so many columns, `before` in front of the first.

    A newline in it is shown as its escape and begins no line.
    """
    shown = " ".join(escape_controls(text).split())
    if not shown:
        return []
    if width is None:
        return [before + shown]
    room = max(width - len(before), NARROWEST)
    first, *rest = textwrap.wrap(shown, room, break_on_hyphens=False)
    return [before + first, *(" " * len(before) + line for line in rest)]
