"""What the benchmarks train on: a data file and a cfg, with bccd's pictures or drawn ones."""

import re
from pathlib import Path

from relume.demo_pictures import write_data_set
from tests.cfg_texts import yolov3_cfg, yolov3_tiny_cfg

SHARED_PICTURES = Path(__file__).resolve().parents[2] / "shared" / "data" / "bccd"
AUGMENTATION = "saturation=1.5\nexposure=1.5\nhue=.1\n"
CLASSES = 3
NETS = {"yolov3": yolov3_cfg, "yolov3-tiny": yolov3_tiny_cfg}


def write_inputs(
    folder: Path, net: str, side: int, batch: int, subdivisions: int, max_batches: int = 1000
) -> int:
    """Write obj.data and net.cfg; return the number of classes. Pictures are 640x480 JPEGs."""
    if SHARED_PICTURES.is_dir():
        lines = (SHARED_PICTURES / "train.txt").read_text().split()
        entries = [str(SHARED_PICTURES / line) for line in lines]
        (folder / "train.txt").write_text("\n".join(entries) + "\n")
        (folder / "obj.data").write_text(
            f"train = {folder}/train.txt\nnames = {SHARED_PICTURES}/obj.names\n"
            f"backup = {folder}/backup\n"
        )
    else:
        write_data_set(folder, seed=1, train=64, valid=1, side_px=554)  # as many pixels
    text = NETS[net](side, side, classes=CLASSES)
    keys = {"batch": batch, "subdivisions": subdivisions, "max_batches": max_batches}
    for key, value in keys.items():
        text = re.sub(rf"^{key}=.*$", f"{key}={value}", text, flags=re.MULTILINE)
    text = text.replace("[net]\n", f"[net]\n{AUGMENTATION}", 1).replace("jitter=0", "jitter=.3")
    (folder / "net.cfg").write_text(text)
    return CLASSES
