"""README.md, SECURITY.md and docs/: their commands are such, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

from relume import cli

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)]+)\)")


def anchors_of(text: str) -> set[str]:
    """Return what GitHub calls the headings."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_grammar_takes_every_command_line(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = [line for block in CODE.findall(text) for line in block.splitlines()]
    for line in lines:
        program, *words = line.partition(" #")[0].split() or [""]
        if program != "relume" or words == ["-h"]:
            continue
        positional, given = cli._separated(words)
        command, arguments = cli._find(positional)

        assert command is not None, line
        assert command.takes(len(arguments)), line
        assert given.keys() <= command.flags.keys(), line


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path

        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target.read_text(encoding="utf-8")), link


def test_the_table_of_attacks_names_every_file_of_attacks_and_no_other() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+\.py)`", text))

    assert named == {path.name for path in (ROOT / "tests/attacks").glob("test_*.py")}
