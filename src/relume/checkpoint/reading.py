"""Checkpoints and weights files from a disk, and what it means where one cannot be read.

What is certainly damage is a Damaged. An OSError, and memory that does not suffice, leave unknown
what a file holds: nothing may be moved, and nothing older taken, for that.
"""

import errno
import os
from io import BufferedReader
from pathlib import Path

from relume.checkpoint import container
from relume.checkpoint.archive import Malformed
from relume.checkpoint.state import TrainState
from relume.checkpoint.stored import check_claims
from relume.errors import CfgError, CheckpointError, Damaged, RelumeError, Unavailable
from relume.formats.places import SOON_READ_BYTES, NotRegular, no_room, open_regular, read_rest

HEAD_BYTES = 64
TAIL_BYTES = 64
"""What is read at both ends of a file to tell a checkpoint from plain weights."""

NO_FILE = frozenset({errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""Errors that mean that there is no regular file."""
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})
"""Errors that last until someone changes permissions."""


def read_bytes(path: Path) -> bytes:
    """Return all bytes of a weights file or checkpoint.

    Raises:
        Damaged: it claims to be a checkpoint, and is larger than that can be.
        CheckpointError: a later version of relume has written it.
        WeightsError: it is large, and no weights file.
        OSError: it cannot be read; NotRegular: it is no regular file; ENOMEM: it does not fit into
            memory, and none has been taken.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > SOON_READ_BYTES and claims_state(file, path):
            try:
                check_claims(file)
            except (Malformed, CfgError) as error:
                if isinstance(error, Malformed) and error.is_newer:
                    raise container.refused(error, path) from error
                found = f"is damaged: {error}"  # its digest has not been computed
                raise Damaged(path, found, "a whole checkpoint") from error
        file.seek(0)
        return read_rest(file)


def claims_state(file: BufferedReader, path: Path) -> bool:
    """Tell whether an open file claims to be a checkpoint.

    Raises:
        WeightsError: not even a weights file.
        OSError: the disk does not give it.
    """
    head = file.read(HEAD_BYTES)
    file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
    return container.holds_state(head + file.read(TAIL_BYTES), path)


def read_checkpoint(path: Path) -> TrainState:
    """Return the state in a checkpoint.

    Raises:
        Damaged: it is not as relume wrote it.
        CheckpointError: a later version of relume has written it.
        WeightsError: it is large, and no weights file.
        OSError: it cannot be read, and may be good; ENOMEM: for want of memory.
    """
    size_bytes = 0
    try:
        data = read_bytes(path)
        size_bytes = len(data)
        return container.unpack(data, path)
    except MemoryError as error:
        raise no_room(size_bytes or path.stat().st_size) from error


def not_given(path: Path, error: OSError) -> RelumeError | None:
    """Return what to raise if the bytes of a file stay unknown; None: there are none to know."""
    if isinstance(error, NotRegular) or error.errno in NO_FILE:
        return None
    found = f"cannot be read ({error.strerror or error}), which is no damage"
    otherwise = f"or move {path.name} away to go on without it"
    if error.errno in FORBIDDEN:
        remedy = f"give yourself the right to read it, {otherwise}"
        return CheckpointError(path, found, "a file that can be read", remedy)
    whole = "there is more memory" if error.errno == errno.ENOMEM else "the disk answers"
    remedy = f"see that {whole}, then give the same command again, {otherwise}"
    return Unavailable(path, found, "", remedy)
