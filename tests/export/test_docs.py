"""The program in docs/export.md, as it stands there, finds what relume finds."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import relume
from tests.shared import SHARED, needs_shared

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


@needs_shared
def test_the_program_of_the_page_finds_the_dog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = SHARED / "models" / "yolov3-tiny" / "yolov3-tiny"
    (shown,) = re.findall(r"```\nrelume (.*?)\n```", PAGE.read_text(), re.S)
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    for ending in ("cfg", "weights"):
        Path(f"yolov3-tiny.{ending}").symlink_to(f"{model}.{ending}")
    Path("coco.names").write_text("".join(f"class{number}\n" for number in range(80)))
    shutil.copy(SHARED / "images" / "dog.jpg", "dog.jpg")
    assert relume(*shown.split()).status == 0
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert {line.split(":")[0] for line in ended.stdout.splitlines()} >= {
        *("class1", "class2", "class7", "class16"),  # bicycle, car, truck, dog
    }
