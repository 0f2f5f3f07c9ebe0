"""-gpus: no process of a run can be reached from outside, and none needs a network.

A rendezvous of PyTorch's launcher listened on all interfaces and unpickled what it was sent.
Needs nothing but this checkout; network namespaces need root and iproute2.
"""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks.listeners import Listeners, listeners
from tests.contract.launched import RELUME, Launched
from tests.contract.small_runs import copied_run, promised_files, sgd_cfg, train_until, write_run

TRAIN = ("detector", "train", "obj.data", "net.cfg", "-threads", "1", "-workers", "1")
SIZE = 2
ANOTHER_INTERFACE = """
set -e
ip link add other type veth peer name end
ip address add 10.99.99.1/24 dev other
ip link set other up
ip link set end up
exec "$@"
"""
"""A shell script that gives its network an interface beside loopback, which stays down."""


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nobody disturbed."""
    folder = write_run(
        tmp_path_factory.mktemp("straight") / "run",
        sgd_cfg(max_batches=4, batch=8, subdivisions=4),
    )
    train_until(folder)
    return folder


def watched(folder: Path, *before: str) -> Listeners:
    """Train in two processes to the end; return what could be reached meanwhile."""
    launched = Launched(folder, *before, *RELUME, *TRAIN, "-gpus", "0,1", "-nogpu")
    with Listeners(launched.process.pid) as seen:
        status = launched.ended()
    assert status == 0, launched.said
    assert f"{SIZE} processes with 1 thread" in launched.said
    assert len(seen.processes) > SIZE
    return seen


def test_a_run_of_several_processes_listens_nowhere(straight: Path, tmp_path: Path) -> None:
    folder = copied_run(straight, tmp_path / "run")

    assert watched(folder).found == set()
    assert promised_files(folder) == promised_files(straight)


def test_a_run_of_several_processes_needs_no_network_and_uses_no_interface(
    straight: Path, tmp_path: Path
) -> None:
    folder = copied_run(straight, tmp_path / "run")
    before = ("unshare", "--net", "sh", "-c", ANOTHER_INTERFACE, "sh")
    if not all(map(shutil.which, ("unshare", "ip"))):
        pytest.skip("needs util-linux and iproute2")
    tried = subprocess.run([*before, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no network namespace can be made here: {tried.stderr.strip()}")

    assert watched(folder, *before).found == set()
    assert promised_files(folder) == promised_files(straight)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("tcp", "s = socket.create_server(('0.0.0.0', 0))"),
        ("tcp6", "s = socket.create_server(('::1', 0), family=socket.AF_INET6)"),
        ("udp", "s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('127.0.0.1', 0))"),
        ("unix", "s = socket.socket(socket.AF_UNIX); s.bind('\\0' + str(os.getpid())); s.listen()"),
    ],
)
def test_a_process_that_can_be_reached_is_found(kind: str, code: str) -> None:
    """The negative control: what is looked for above is seen where it is."""
    if kind == "tcp6" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    program = f"import os, socket; {code}; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = listeners({process.pid})
        process.communicate(b"\n")

    assert [name for name, _ in found] == [kind]


def test_a_pair_of_connected_sockets_is_no_listener() -> None:
    before = listeners({os.getpid()})
    ends = socket.socketpair()

    assert listeners({os.getpid()}) == before
    for one in ends:
        one.close()
