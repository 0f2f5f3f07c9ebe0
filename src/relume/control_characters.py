"""Show the characters of a text that would act on a terminal, or end a line, as escapes.

Names, paths and what else comes from outside may hold any character. A terminal obeys some of
them, and an editor breaks lines or turns letters around at others. Every text that a person
reads passes through here: the screen, NAME.log, the messages of errors and the titles of charts.

Not covered: data for programs. JSON has escapes of its own, and the results of `detector valid`,
lists and label files keep the bytes of names, as Darknet's do.
"""

import re

_ACTING = re.compile(
    "["
    "\\x00-\\x08\\n-\\x1f"  # C0 but for the tab, which moves nothing that is written already
    "\\x7f-\\x9f"  # DEL, C1
    "\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u206f"  # direction of writing
    "\\u2028\\u2029"  # ends of lines and paragraphs
    "\\ud800-\\udfff"  # bytes that are no text, and halves of characters
    "]"
)


def escape_controls(text: str) -> str:
    r"""Return `text` on one line: what would act is written as in Python, `\x1b` or `\u202e`.

    Any other text comes back as it is: letters of all languages, joined emoji, tabs.
    """
    return _ACTING.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
