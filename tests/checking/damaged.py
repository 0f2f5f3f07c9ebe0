"""A data set with every defect that `relume check` knows, made on the spot."""

import os
import shutil
import struct
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np

from relume.demo_pictures import write_data_set
from tests.cfg_texts import small_cfg

GOOD = "0 .5 .5 .4 .4\n1 .3 .3 .2 .2\n2 .7 .7 .2 .2\n"
CFG = small_cfg(max_batches=50)


def encoded(picture: np.ndarray, ending: str = ".jpg") -> bytes:
    done, data = cv2.imencode(ending, picture)
    assert done
    return bytes(data.tobytes())


def drawn(seed: int, channels: int = 3) -> np.ndarray:
    rows, columns = np.mgrid[0:48, 0:64]
    planes = [(rows * (3 + seed) + columns * (k + 2)) % 256 for k in range(channels)]
    return np.stack(planes, axis=2).astype(np.uint8)


def turned(jpeg: bytes, orientation: int = 6) -> bytes:
    """Return a JPEG with a block of EXIF that says how it is turned."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    block = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


def cmyk() -> bytes:
    """Return a JPEG of four channels: each a grey one of 8x8 with the same tables."""
    grey = encoded(np.full((8, 8), 128, np.uint8))
    frame = grey.index(b"\xff\xc0")
    scan = grey.index(b"\xff\xda")
    (frame_length,) = struct.unpack_from(">H", grey, frame + 2)
    components = b"".join(bytes([k, 0x11, 0]) for k in (1, 2, 3, 4))
    new_frame = b"\xff\xc0" + struct.pack(">HBHHB", 8 + 12, 8, 8, 8, 4) + components
    chosen = b"".join(bytes([k, 0]) for k in (1, 2, 3, 4))
    new_scan = b"\xff\xda" + struct.pack(">HB", 6 + 8, 4) + chosen + b"\x00\x3f\x00"
    middle = grey[frame + 2 + frame_length : scan]
    # The grey block is a difference of 0 and an end of block: 00 1010, four times, then ones.
    return grey[:frame] + new_frame + middle + new_scan + bytes([0x28, 0xA2, 0x8A]) + b"\xff\xd9"


def with_bad_chunk(png: bytes) -> bytes:
    at = png.index(b"IDAT")
    (length,) = struct.unpack_from(">I", png, at - 4)
    end = at + 4 + length
    checksum = struct.pack(">I", crc32(png[at:end]) ^ 1)
    return png[:end] + checksum + png[end + 4 :]


def write_damaged(folder: Path) -> Path:
    """Write the data set into a folder and return it; its data file is obj.data."""
    write_data_set(folder, seed=3, train=4, valid=1, side_px=72)
    good = (folder / "train.txt").read_text().split()
    images = folder / "img"
    listed = list(good)

    def add(name: str, content: bytes, labels: str | bytes | None = GOOD) -> None:
        (images / name).write_bytes(content)
        listed.append(f"img/{name}")
        if labels is not None:
            data = labels.encode() if isinstance(labels, str) else labels
            (images / name).with_suffix(".txt").write_bytes(data)

    jpeg = [encoded(drawn(seed)) for seed in range(40)]
    add("none.jpg", b"no picture at all")
    add("empty.jpg", b"")
    add("cut.jpg", jpeg[0][: len(jpeg[0]) // 2])
    add("cut.png", encoded(drawn(1), ".png")[:-20])
    add("checksum.png", with_bad_chunk(encoded(drawn(2), ".png")))
    bitmap = encoded(drawn(2), ".bmp")
    add("size.bmp", bitmap[:2] + struct.pack("<I", len(bitmap) + 9) + bitmap[6:])
    add("cmyk.jpg", cmyk())
    add("deep.png", encoded(drawn(3).astype(np.uint16) * 200, ".png"))
    add("deep.tiff", encoded(drawn(4).astype(np.uint16) * 200, ".tiff"))
    add("turned.jpg", turned(jpeg[5]))
    add("grey.jpg", encoded(drawn(6, 1)[:, :, 0]))
    add("tiny.png", encoded(drawn(7)[:8, :8], ".png"))
    add("other_form.png", jpeg[8])
    add("unlabelled.jpg", jpeg[9], None)
    add("no_object.jpg", jpeg[10], "")
    add("words.jpg", jpeg[11], "0 .5 .5 .2 .2\nstop .5 .5 .2 .2\n0 .5 .5\n0 .5 .5 nan .2\n")
    add("binary.jpg", jpeg[12], b"\x00\xff\xfe 1 2 3 4\n")
    add("class.jpg", jpeg[13], "7 .5 .5 .2 .2\n-1 .4 .4 .2 .2\n0.5 .4 .4 .2 .2\n")
    add("pixels.jpg", jpeg[14], "0 320 240 50 60\n" + GOOD)
    add("no_size.jpg", jpeg[15], "\n0 .5 .5 0 .2\n0 .5 .5 .2 -.1\n" + GOOD)
    add("corner.jpg", jpeg[16], "0 0 0 .5 .5\n" + GOOD)
    add("over.jpg", jpeg[17], "0 .95 .5 .4 .2\n" + GOOD)
    add("twice.jpg", jpeg[18], "0 .5 .5 .2 .2\n1 .5 .5 .1 .1\n0 .5 .5 .2 .2\n")
    add("two_classes.jpg", jpeg[19], "0 .5 .5 .2 .2\n1 .5 .5 .2 .2\n")
    add("small.jpg", jpeg[20], "0 .5 .5 .001 .2\n" + GOOD)
    add("many.jpg", jpeg[21], "".join(f"0 .5 .{k:03} .2 .2\n" for k in range(300, 520)))
    add("same.jpg", jpeg[22])
    add("same_again.jpg", jpeg[22])
    add("a_space.jpg", jpeg[23])
    add("Capital.jpg", jpeg[24])
    add("windows.jpg", jpeg[25])
    add("elsewhere.jpg", jpeg[26])
    add("ending.jpeg", jpeg[27])
    listed[-5:] = [
        *("img/a_space.jpg ", "img/capital.jpg", "C:\\data\\img\\windows.jpg"),
        *("/home/me/set/img/elsewhere.jpg", "img/ending.jpg"),
    ]
    listed += ["img/nowhere.jpg", "img/words.txt", good[0]]
    (images / "folder.jpg").mkdir()
    (images / "folder.txt").write_text(GOOD)
    listed.append("img/folder.jpg")
    valid = (folder / "valid.txt").read_text().split()
    shutil.copy(folder / good[1], images / "copy.jpg")
    shutil.copy((folder / good[1]).with_suffix(".txt"), images / "copy.txt")
    (folder / "valid.txt").write_text("\n".join([*valid, good[2], "img/copy.jpg", "img/no.jpg"]))
    text = "\r\n".join(["", *listed, ""])
    (folder / "train.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (folder / "net.cfg").write_text(CFG)
    return folder


def line_of(folder: Path, entry: str, name: str = "train.txt") -> int:
    """Return the line of an entry of a list."""
    lines = (folder / name).read_text(encoding="utf-8-sig").split("\n")
    return lines.index(entry) + 1


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {
        os.path.relpath(path, folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
