"""Cut the text of a .cfg into sections of options, each with its line number.

Darknet's rules (AlexeyAB): all spaces, tabs and CRs of a line vanish, lines that begin with
`#` or `;` are comments, an option is split at its first `=`, and of two options of one key
in a section the first counts. Deliberate differences, each an error where Darknet is silent:
a line without `=` or without a value, and a space between two values (`10,14 23,27` would
become `10,1423,27`). A comment behind a value or a section header is dropped, in strings too.

Not covered: what keys and values mean (keys.py).
"""

import re
from dataclasses import dataclass

from relume.errors import CfgError

_BLANKS = str.maketrans("", "", " \t\r\n")
_COMMENT = re.compile(r"[#;].*", re.DOTALL)
MOST_SECTIONS = 10_000
"""Of a cfg; the longest of Darknet's has 300."""
LONGEST_PATH_SHOWN = 300
"""Letters of a path in a message; a longer one is hardly a path."""
_SPACE_BETWEEN_VALUES = re.compile(r"[\w.][ \t]+[\w.+-]")


@dataclass(frozen=True)
class Option:
    """One `key=value` line; the value is never empty."""

    key: str
    value: str
    line: int


@dataclass(frozen=True)
class Section:
    """One `[kind]` header and its options by key."""

    kind: str
    line: int
    options: dict[str, Option]

    def line_of(self, key: str) -> int:
        """Return the line of `key`, or of the section header if the key is absent."""
        return self.options[key].line if key in self.options else self.line


def decode_text(data: bytes) -> str:
    """Decode UTF-8, drop a byte order mark, replace what is no UTF-8."""
    return data.decode("utf-8-sig", errors="replace")


def excerpt(text: str, length: int = 80) -> str:
    """Return text of a file as a message can show it: short."""
    return text if len(text) <= length else text[:length] + "..."


def split_sections(text: str, path: str) -> list[Section]:
    """Return the sections of a cfg in order.

    Raises:
        CfgError: a line is neither section, comment nor option; an option has no section; or
            there are more than MOST_SECTIONS.
    Source:
        AlexeyAB/darknet src/parser.c read_cfg, src/option_list.c read_option, src/utils.c strip.
    """
    sections: list[Section] = []
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = _COMMENT.sub("", raw)
        bare = line.translate(_BLANKS)
        if not bare:
            continue
        place, shown = f"{path}:{number}", excerpt(bare)
        if bare.startswith("["):
            if not bare.endswith("]"):
                raise CfgError(place, f"'{shown}' is no section", "a section is written [name]")
            if len(sections) == MOST_SECTIONS:
                raise CfgError(place, "one more section", f"at most {MOST_SECTIONS:,} in a cfg")
            sections.append(Section(bare[1:-1], number, {}))
            continue
        option = _split_option(line, bare, number, place)
        if not sections:
            found = f"'{shown}' stands before the first section"
            # A data file, most likely: it has none at all.
            remedy = "" if "[" in text else "is it the data file? That one stands before the cfg"
            raise CfgError(place, found, "a cfg begins with [net]", remedy)
        sections[-1].options.setdefault(option.key, option)
    return sections


def _split_option(line: str, bare: str, number: int, place: str) -> Option:
    key, equals, value = bare.partition("=")
    if not (key and equals and value):
        raise CfgError(place, f"'{excerpt(bare)}' has no value", "an option is written key=value")
    if _SPACE_BETWEEN_VALUES.search(line.partition("=")[2]):
        raise CfgError(
            place,
            f"a space stands inside the value of {excerpt(key)}",
            "Darknet deletes spaces, which joins the numbers around them",
            "separate values by commas",
        )
    return Option(key, value, number)
