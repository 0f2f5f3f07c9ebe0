"""Connections to other machines, so set that the system itself notices when one is cut.

A cable that is pulled out and a machine that loses its power say nothing: whoever waits for them
would wait as long as for a process that computes. So the system is asked to try every connection
while nothing comes, which costs a process nothing, whatever it computes and however long.
"""

import os
import socket
import stat
from pathlib import Path

OPEN_FILES = Path("/proc/self/fd")


def notice_cuts(after_s: int) -> None:
    """Let every TCP connection of this process fail that has been without answer for so long.

    It is for Linux; elsewhere nothing is done.

    Args:
        after_s: 6 or more.
    """
    if not hasattr(socket, "TCP_USER_TIMEOUT") or not OPEN_FILES.is_dir():
        return
    settings = (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, after_s // 3),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, after_s // 6),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * after_s),
    )
    for connection in _connections():
        with connection:
            for level, option, value in settings:
                connection.setsockopt(level, option, value)


def _connections() -> list[socket.socket]:
    """Return the TCP connections of this process, each under a number of its own."""
    found = []
    for number in [int(path.name) for path in OPEN_FILES.iterdir()]:
        try:
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            connection = socket.socket(fileno=os.dup(number))
        except OSError:  # closed meanwhile, as the one that listed the folder is
            continue
        internet = connection.family in (socket.AF_INET, socket.AF_INET6)
        if internet and connection.type == socket.SOCK_STREAM:
            found.append(connection)
        else:
            connection.close()
    return found
