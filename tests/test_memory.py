"""Free memory: what control groups, limits and the machine leave."""

from pathlib import Path

import pytest

from relume import memory
from relume.memory import free_memory_bytes, limits_of_cgroups, total_memory_bytes


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_every_group_above_a_process_counts(tmp_path: Path) -> None:
    group(tmp_path / "outer", memory__max="1000", memory__current="700", memory__stat="anon 700")
    group(tmp_path / "outer/inner", memory__max="5000", memory__current="100", memory__stat="")

    assert sorted(limits_of_cgroups("0::/outer/inner\n", tmp_path)) == [(1000, 700), (5000, 100)]


def test_the_page_cache_of_a_group_counts_as_free(tmp_path: Path) -> None:
    stat = "anon 100\ninactive_file 600\nactive_file 250\nshmem 50"
    group(tmp_path, memory__max="1000", memory__current="1000", memory__stat=stat)

    assert limits_of_cgroups("0::/\n", tmp_path) == [(1000, 150)]


def test_groups_of_version_1_count(tmp_path: Path) -> None:
    group(
        tmp_path / "memory",
        memory__limit_in_bytes="1000",
        memory__usage_in_bytes="900",
        memory__stat="inactive_file 1\ntotal_inactive_file 300\ntotal_active_file 0",
    )

    # In a container the group's own folder is not below the mount.
    assert limits_of_cgroups("8:pids:/x\n4:cpu,memory:/docker/1\n", tmp_path) == [(1000, 600)]


@pytest.mark.parametrize("limit", ["max", "", "garbage"])
def test_a_group_without_a_limit_leaves_everything(limit: str, tmp_path: Path) -> None:
    group(tmp_path, memory__max=limit, memory__current="5", memory__stat="")

    assert limits_of_cgroups("0::/\n", tmp_path) == []


def test_there_is_free_memory_here() -> None:
    assert 0 < free_memory_bytes() < 1 << 50


def test_a_group_limits_all_memory_whoever_uses_it_now(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "/proc/meminfo": "MemTotal: 4000 kB\nMemAvailable: 3000 kB\nSwapTotal: 8 kB\n",
        "/proc/self/cgroup": "0::/\n",
        "/sys/fs/cgroup/memory.max": "1000\n",
        "/sys/fs/cgroup/memory.current": "900\n",
        "/sys/fs/cgroup/memory.stat": "active_file 50\n",
    }
    monkeypatch.setattr(memory, "_text", lambda path: texts.get(path, ""))

    assert total_memory_bytes() == 1000 + 8 * 1024
    assert free_memory_bytes() == 150
