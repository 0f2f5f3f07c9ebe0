"""Flags whose values are fractions: confidences and overlaps."""

from relume.command_table import Values
from relume.errors import UsageError


def fraction_of(flags: Values, name: str, default: float) -> float:
    """Return the value of a flag, a number from 0 to 1.

    Raises:
        UsageError: it is none.
    """
    value = float(flags.get(name, default))
    if not 0 <= value <= 1:
        raise UsageError(name, f"{value:g}", "a number from 0 to 1", f"for example {name} .5")
    return value
