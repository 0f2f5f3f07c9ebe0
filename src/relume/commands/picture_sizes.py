"""The size of a picture file, as training sees it: upright."""

from pathlib import Path

from relume.data.image import read_picture
from relume.errors import ImageError
from relume.formats.picture_size import HEADER_BYTES, picture_size


def picture_size_px(path: Path) -> tuple[int, int]:
    """Return (width, height); from the file's beginning if that says it, else by decoding.

    Raises:
        ImageError: the file cannot be read, or is no picture.
    """
    try:
        with path.open("rb") as file:
            size = picture_size(file.read(HEADER_BYTES))
    except OSError as error:
        raise ImageError(path, f"cannot be read ({error.strerror})") from error
    if size is not None:
        return size
    width, height = read_picture(path, 1).size_px
    return width, height
