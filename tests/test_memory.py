"""Free memory: what control groups, limits and the machine leave."""

from pathlib import Path

import pytest

from relume.memory import free_memory_bytes, left_in_cgroups


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_the_tightest_of_the_groups_above_a_process_counts(tmp_path: Path) -> None:
    group(tmp_path / "outer", memory__max="1000", memory__current="700", memory__stat="anon 700")
    group(tmp_path / "outer/inner", memory__max="5000", memory__current="100", memory__stat="")

    assert sorted(left_in_cgroups("0::/outer/inner\n", tmp_path)) == [300, 4900]


def test_the_page_cache_of_a_group_counts_as_free(tmp_path: Path) -> None:
    stat = "anon 100\ninactive_file 600\nactive_file 250\nshmem 50"
    group(tmp_path, memory__max="1000", memory__current="1000", memory__stat=stat)

    assert left_in_cgroups("0::/\n", tmp_path) == [850]


def test_groups_of_version_1_count(tmp_path: Path) -> None:
    group(
        tmp_path / "memory",
        memory__limit_in_bytes="1000",
        memory__usage_in_bytes="900",
        memory__stat="inactive_file 1\ntotal_inactive_file 300\ntotal_active_file 0",
    )

    # In a container the group's own folder is not below the mount.
    assert left_in_cgroups("8:pids:/x\n4:cpu,memory:/docker/1\n", tmp_path) == [400]


@pytest.mark.parametrize("limit", ["max", "", "garbage"])
def test_a_group_without_a_limit_leaves_everything(limit: str, tmp_path: Path) -> None:
    group(tmp_path, memory__max=limit, memory__current="5", memory__stat="")

    assert left_in_cgroups("0::/\n", tmp_path) == []


def test_there_is_free_memory_here() -> None:
    assert 0 < free_memory_bytes() < 1 << 50
