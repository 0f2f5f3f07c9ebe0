"""The files of a run in its folder."""

from pathlib import Path

import pytest

from relume.checkpoint.folder import set_aside


@pytest.mark.parametrize(
    ("count", "end"), [(20, "net_19.weights"), (23, "net_19.weights and 3 more")]
)
def test_the_line_about_files_moved_aside_has_a_longest_length(
    count: int, end: str, tmp_path: Path
) -> None:
    paths = [tmp_path / f"net_{number}.weights" for number in range(count)]
    for path in paths:
        path.write_bytes(b"")
    said: list[str] = []

    target = set_aside(paths, tmp_path, "net", said.append)

    assert said[0].startswith(f"moved to {target}: net_0.weights, net_1.weights, ")
    assert said[0].endswith(f", {end}")
    assert len(list(target.iterdir())) == count
