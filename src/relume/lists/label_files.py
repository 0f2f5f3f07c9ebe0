"""The labels of a long list: read when a picture is used, and compared when it is used again.

The state of a run has 64 bits for every listed picture. For a short list they are the digest of
the picture's file; its labels were compared at the start. For a long one picture and labels share
them, half and half, so that a difference is noticed in either and says in which.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from relume.formats.data_files import Boxes, ImageList, label_path

PICTURE_BITS = np.uint64(0xFFFF_FFFF_0000_0000)
LABEL_BITS = ~PICTURE_BITS


@dataclass(frozen=True)
class LabelFiles:
    """The label files behind a long list."""

    images: ImageList
    classes: int
    """Of the network's heads."""

    def __len__(self) -> int:
        return len(self.images.paths)

    def path(self, row: int) -> Path:
        """Return where the labels of a picture are, if it has some.

        Raises:
            DataFileError: the picture's ending is none that Darknet knows.
        """
        return label_path(self.images.paths[row])


def label_digest(boxes: Boxes) -> int:
    """Return XXH3-64 of the numbers in a label file, [N, 5] float32."""
    return xxh3_64_intdigest(boxes.tobytes())


def shared_digest(picture: int, boxes: Boxes) -> int:
    """Return what stands for a picture and its labels in a run with a long list.

    Args:
        picture: XXH3-64 of its file.
        boxes: of its label file.
    """
    return (picture & int(PICTURE_BITS)) | (label_digest(boxes) & int(LABEL_BITS))


def shared_digests(
    pictures: npt.NDArray[np.uint64], labels: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Return the same for arrays of digests; 0, not used, stays 0."""
    shared: npt.NDArray[np.uint64] = (pictures & PICTURE_BITS) | (labels & LABEL_BITS)
    return np.where(pictures == 0, np.uint64(0), shared)


def never_used(boxes: Boxes) -> npt.NDArray[np.bool_]:
    """Return [N]: which boxes no augmentation can bring into the picture."""
    centres, halves = boxes[:, 1:3], boxes[:, 3:5] / 2
    outside = (centres + halves < 0) | (centres - halves > 1) | (halves <= 0)
    # Darknet takes a centre of exactly (0, 0) for "no box".
    return np.asarray(outside.any(axis=1) | (centres == 0).all(axis=1))
