"""JSON in a checkpoint, read with the types that it must have.

What is not as it must be is a Malformed: no other exception follows from the bytes.
"""

import json
import re
from collections.abc import Set
from typing import Any, NoReturn

from relume.checkpoint.archive import Malformed

MOST_BYTES = 16 << 20
"""Of the JSON and of the cfg in an entry: parsed they take up to twelve times as much memory."""
LARGEST = (1 << 63) - 1
_HEX = re.compile(r"[0-9a-f]{32}")


def parsed(data: bytes | memoryview, most_bytes: int = MOST_BYTES) -> Any:
    """Return what a JSON text holds.

    Raises:
        Malformed: it is longer, is no JSON, holds NaN or an infinity, or is nested too deeply.
    """
    if len(data) > most_bytes:
        raise Malformed(f"{len(data):,} bytes of JSON; at most {most_bytes:,} are read")
    try:
        return json.loads(str(data, "utf-8"), parse_constant=_refuse)
    except ValueError as error:
        raise Malformed(f"no JSON ({error})") from error
    except RecursionError:
        raise Malformed("JSON that is nested too deeply") from None


def _refuse(constant: str) -> NoReturn:
    raise Malformed(f"{constant} in JSON")


def fields_of(value: Any, needed: Set[str], possible: Set[str] = frozenset()) -> dict[str, Any]:
    """Return an object that has all fields that are needed, and no others than are possible."""
    if not isinstance(value, dict) or not needed <= value.keys() <= needed | possible:
        raise Malformed(f"no object of {', '.join(sorted(needed))}")
    return value


def list_of(value: Any) -> list[Any]:
    """Return a list."""
    if not isinstance(value, list):
        raise Malformed("no list")
    return value


def count_of(value: Any, most: int = LARGEST) -> int:
    """Return a whole number from 0 on."""
    if type(value) is not int or not 0 <= value <= most:
        raise Malformed(f"no whole number from 0 to {most}")
    return value


def text_of(value: Any) -> str:
    """Return a text."""
    if not isinstance(value, str):
        raise Malformed("no text")
    return value


def digest_of_json(value: Any) -> str:
    """Return a digest of 128 bits: 32 hexadecimal digits."""
    if not _HEX.fullmatch(text_of(value)):
        raise Malformed("no digest of 32 hexadecimal digits")
    return str(value)


def texts_of(value: Any) -> dict[str, str]:
    """Return an object whose values are texts; neither keys nor values have a NUL."""
    if not isinstance(value, dict):
        raise Malformed("no object of texts")
    for key, text in value.items():
        if "\0" in key or "\0" in text_of(text):
            raise Malformed(f"a NUL in the text of {key!a}")
    return value
