"""The whole yolov3 and yolov3-spp, as Darknet has them, train and go on exactly.

Takes some minutes and 5 GB of memory: make prove
"""

from pathlib import Path

import pytest

from tests.cfg_texts import yolov3_cfg
from tests.contract.small_runs import copied_run, promised_files, train_until, write_run

pytestmark = pytest.mark.long


@pytest.mark.parametrize("spp", [False, True], ids=["yolov3", "yolov3-spp"])
def test_the_whole_net_trains_and_goes_on_exactly(tmp_path: Path, spp: bool) -> None:
    text = yolov3_cfg(96, 96, classes=3, spp=spp)
    text = text.replace("batch=64\n", "batch=2\n", 1).replace("subdivisions=16", "subdivisions=2")
    straight = write_run(tmp_path / "straight", text.replace("max_batches=20", "max_batches=3"))
    cut = copied_run(straight, tmp_path / "cut")
    train_until(straight)
    train_until(cut, 2)

    train_until(cut)

    assert promised_files(cut) == promised_files(straight)
