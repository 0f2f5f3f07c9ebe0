"""The exclusive lock of an open file, of the strongest kind that the system has."""

import errno
import fcntl
import os
import struct
import sys

HAS_OFD_LOCKS = sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")
"""Locks that belong to an open file; elsewhere struct flock has another layout."""


def lock_file(descriptor: int) -> None:
    """Lock a whole file for this open file alone, or where the system cannot, for this process.

    The first kind is kept until the open file is closed, the second is lost when this process
    closes any descriptor of the file. Each excludes the other in all other processes.
    """
    if HAS_OFD_LOCKS:
        # struct flock: type, whence, start, length (0: to the end), and a process, here 0.
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            return
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
