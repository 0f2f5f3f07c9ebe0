"""Small data sets as users have them: pictures, labels beside them, a list, names, a data file."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np

Box = tuple[float, ...]
"""class, x, y, width, height"""


def write_picture(path: Path, number: int, width: int = 40, height: int = 30) -> None:
    """Write a picture that no other number has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((height, width, 3), number % 256, np.uint8)
    pixels[0, :8, 0] = [255 * (number >> bit & 1) for bit in range(8)]
    assert cv2.imwrite(str(path), pixels)


def write_labels(path: Path, boxes: Iterable[Box]) -> None:
    """Write a label file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{' '.join(map(str, box))}\n" for box in boxes))


def write_set(
    folder: Path, pictures: Mapping[str, Iterable[Box]], names: tuple[str, ...] = ("a", "b")
) -> Path:
    """Write pictures `img/NAME.png` with their boxes, all in train.txt; return the data file."""
    for number, (name, boxes) in enumerate(pictures.items()):
        write_picture(folder / "img" / f"{name}.png", number)
        write_labels(folder / "img" / f"{name}.txt", boxes)
    (folder / "train.txt").write_text("".join(f"img/{name}.png\n" for name in pictures))
    (folder / "obj.names").write_text("".join(f"{name}\n" for name in names))
    data = folder / "obj.data"
    data.write_text(f"classes = {len(names)}\ntrain = train.txt\nnames = obj.names\n")
    return data
