"""A file that a command is to write: checked before there is any work for it."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from relume.checkpoint.disk import check_replaceable, check_writable
from relume.command_table import Values
from relume.errors import UsageError


def new_file(out: str, inputs: Sequence[str], flags: Values) -> Path:
    """Return the path of `out`, which is none of the inputs, and not there unless -force says.

    Raises:
        UsageError: it is; or its folder is missing.
        StorageError: it cannot be written, or is no regular file.
    """
    path = Path(out)
    if path.exists():
        for given in inputs:
            if Path(given).exists() and path.samefile(given):
                raise UsageError(out, f"is {given} itself", "another file to write")
        if path.is_dir():
            raise UsageError(out, "is a folder", "a file to write", f"{path / 'NAME'}")
        check_replaceable(path)
        if not flags.get("-force"):
            raise UsageError(out, "there already", "", "-force replaces it")
    elif not path.parent.is_dir():
        remedy = f"mkdir -p {shlex.quote(str(path.parent))}"
        raise UsageError(out, f"{path.parent} does not exist", "an existing folder", remedy)
    check_writable(path.parent)
    return path
