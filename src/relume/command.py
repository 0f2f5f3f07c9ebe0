"""What a command of the command line is: its words, arguments and flags, and its function."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Value = str | int | float | bool
Values = Mapping[str, Value]
"""The flags of a command line that were given, by name."""
Kind = type[str] | type[int] | type[float] | type[bool]


@dataclass(frozen=True)
class Flag:
    """A flag: its kind, and what -h says about it."""

    kind: Kind
    text: str
    value: str = ""
    """What stands for the value in -h."""
    needed: bool = False
    """Whether the command does nothing without it."""


@dataclass(frozen=True)
class Command:
    """A command: its words, arguments and flags, and the function that does it."""

    words: str
    arguments: tuple[str, ...]
    """Names; one in brackets may be left out, one that ends in dots repeated."""
    text: str
    example: str
    function: str
    """module:function, imported only when the command runs."""
    flags: Mapping[str, Flag] = field(default_factory=dict)
    more: str = ""
    """What -h says behind the flags."""
    before: str = ""
    """module:function called first in a process of its own, before libraries are loaded."""

    @property
    def needed(self) -> int:
        """Arguments that must be given."""
        return sum(not name.startswith("[") for name in self.arguments)

    def takes(self, count: int) -> bool:
        """Tell whether so many arguments fit."""
        endless = any("..." in name for name in self.arguments)
        return self.needed <= count and (endless or count <= len(self.arguments))
