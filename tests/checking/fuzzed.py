"""Texts and bytes that no one meant: mutations of good ones, from a seed."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from relume.checking.boxes import findings_of_boxes, findings_of_sizes, useless_boxes
from relume.checking.cost import findings_of_disk
from relume.checking.findings import Finding, grouped, table_lines
from relume.checking.known import read_known
from relume.checking.label_lines import box_set, read_all_lines
from relume.checking.lists import read_every_entry
from relume.checking.picture_forms import form_of
from relume.checking.pictures import facts_of
from relume.checking.settings import batch_made_smaller, findings_of_cfg, read_settings
from relume.control_characters import escape_controls
from relume.errors import RelumeError
from relume.formats.data_files import read_image_list, read_labels, read_names
from relume.formats.net_memory import least_training_bytes, weights_bytes
from relume.spec import Flags, read_spec
from tests.cfg_texts import small_cfg
from tests.checking.damaged import drawn, encoded, turned

LONGEST_S = 10.0
"""Of processor time, for one input; one that takes longer hangs, or nearly."""
LABELS = b"0 .5 .5 .2 .2\n1 0.25 0.25 0.1 0.1\r\n2 1 1 1e-3 .9\n"
DATA = (
    b"classes = 3\ntrain = train.txt\nvalid = valid.txt\nnames = obj.names\n"
    b"backup = backup\nseed=7\n"
)
NAMES = b"stop\nwarning\nlimit\n"
LIST = b"img/0001.jpg\nimg/0002.jpg\r\n./img/0003.jpg\nC:\\img\\0004.jpg\n/a/img/0005.jpg\n"
CFG = small_cfg(max_batches=50, policy="steps", steps="20,30", scales=".1,.1").encode()
TINY_CFG = (
    b"[net]\nwidth=64\nheight=64\nchannels=3\nbatch=4\nmax_batches=9\n"
    b"[convolutional]\nfilters=8\nsize=8\nstride=8\nactivation=linear\n"
    b"[yolo]\nclasses=3\nnum=1\nanchors=9,9\n"
)
"""For what is read beside it: it takes a tenth of the time."""
TOKENS = (
    *(b"", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b" ", b"\t", b"\x85", b"\x1c"),
    *(
        b"=",
        b"[",
        b"]",
        b"[net]",
        b"[yolo]",
        b"#",
        b";",
        b",",
        b"-",
        b".",
        b"/",
        b"\\",
        b"..",
        b"~",
    ),
    *(b"nan", b"inf", b"-1", b"0", b"1e999", b"9" * 400, b"0x10", b"1_0", b"1e-320", b"2147483648"),
    *(b"4294967296", b"99999999999999999999", b"-0", b"1.5", b"64.0", "\u0661".encode(), b"%s"),
    *(b"classes=3", b"train=train.txt", b"batch=0", b"subdivisions=7", b"width=100000000"),
    *(b"filters=2147483647", b"resize_step=1", b"random=1", b"stride=0", b"layers=-1", b"max=1"),
    *(
        b"a" * 300,
        b"/" * 5000,
        b"x/" * 200,
        b"img",
        b".jpg",
        b"'",
        b'"',
        b"bad=skip",
        b"savelast=1",
    ),
)


def mutated(draw: np.random.Generator, text: bytes, tokens: Sequence[bytes] = TOKENS) -> bytes:
    """Return a text with a few changes: at bytes, words, lines; now and then only noise."""
    if draw.random() < 0.05:
        return draw.integers(0, 256, int(draw.integers(0, 200)), np.uint8).tobytes()
    data = bytearray(text)
    for _ in range(int(draw.integers(1, 6))):
        at = int(draw.integers(0, len(data) + 1))
        end = min(len(data), at + int(draw.integers(0, 12)))
        kind = int(draw.integers(0, 6))
        if kind == 0 and at < len(data):
            data[at] = int(draw.integers(0, 256))
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:end] = tokens[int(draw.integers(0, len(tokens)))]
        elif kind == 3:
            data[at:at] = tokens[int(draw.integers(0, len(tokens)))]
        elif kind == 4:
            lines = bytes(data).split(b"\n")
            i, j = (int(k) for k in draw.integers(0, len(lines), 2))
            lines[i] = lines[j]
            data = bytearray(b"\n".join(lines))
        else:
            data[at:at] = bytes(data[at:end]) * int(draw.integers(1, 20))
    return bytes(data)


def refused_or_read(read: Callable[[], object]) -> None:
    """Call a reader; the only error that it may raise is one that a user can act on."""
    with suppress(RelumeError):
        read()


def told(findings: Iterator[Finding] | list[Finding]) -> None:
    """Make the table of what was found."""
    for line in table_lines(grouped(findings), 80):
        assert escape_controls(line) == line


class Reader:
    """A folder in which one file after another is replaced, and read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "img").mkdir()
        for i in range(1, 6):
            (folder / "img" / f"000{i}.jpg").write_bytes(encoded(drawn(i)))
            (folder / "img" / f"000{i}.txt").write_bytes(LABELS)
        for name, content in (("obj.data", DATA), ("obj.names", NAMES), ("net.cfg", CFG)):
            (folder / name).write_bytes(content)
        for name in ("train.txt", "valid.txt"):
            (folder / name).write_bytes(b"img/0001.jpg\nimg/0002.jpg\n")
        settings, findings = read_settings(str(folder / "obj.data"), str(folder / "net.cfg"))
        assert findings[:-1] == [] or findings == []
        assert settings.cfg is not None
        assert settings.data_file is not None
        self.cfg, self.data_file = settings.cfg, settings.data_file

    def labels(self, content: bytes) -> None:
        """Read a label file."""
        picture = self.folder / "img" / "0001.jpg"
        picture.with_suffix(".txt").write_bytes(content)
        refused_or_read(lambda: read_labels(picture.with_suffix(".txt"), 3))
        labels, findings = read_all_lines(picture, 3)
        found = box_set([labels], [picture])
        findings += useless_boxes(found)
        if len(found.boxes):
            findings += findings_of_boxes(found, ("a", "b", "c"), "train.txt")
            findings += findings_of_sizes(found, self.cfg, "train.txt")
        told(findings)

    def lists(self, content: bytes) -> None:
        """Read a list of pictures."""
        path = self.folder / "train.txt"
        path.write_bytes(content)
        refused_or_read(lambda: read_image_list(path, self.folder / "obj.data"))
        _, findings = read_every_entry("train", self.data_file)
        told(findings)

    def names(self, content: bytes) -> None:
        """Read a file of class names."""
        (self.folder / "net.cfg").write_bytes(TINY_CFG)
        (self.folder / "obj.names").write_bytes(content)
        refused_or_read(lambda: read_names(self.folder / "obj.names"))
        self._settings()

    def data(self, content: bytes) -> None:
        """Read a data file."""
        (self.folder / "net.cfg").write_bytes(TINY_CFG)
        (self.folder / "obj.data").write_bytes(content)
        self._settings()

    def cfgs(self, content: bytes) -> None:
        """Read a cfg."""
        (self.folder / "net.cfg").write_bytes(content)
        self._settings()

    def _settings(self) -> None:
        data, cfg = str(self.folder / "obj.data"), str(self.folder / "net.cfg")
        settings, findings = read_settings(data, cfg)
        for key in ("train", "valid"):
            if settings.data_file is not None:
                findings += read_every_entry(key, settings.data_file)[1]
        if settings.cfg is not None:
            findings += batch_made_smaller(settings.cfg)
            findings += findings_of_cfg(settings.cfg, settings.names, 5)
            net = settings.cfg.net
            least_training_bytes(settings.cfg, 1, net.width, net.height)
            weights_bytes(settings.cfg)
            if settings.operation is not None:
                findings += findings_of_disk(settings.cfg, settings.operation)
        told(findings)
        refused_or_read(lambda: read_spec(data, cfg, Flags(), lambda text: None))

    def pictures(self, content: bytes) -> None:
        """Look at the bytes of a picture, mostly without decoding them."""
        form_of(content)
        if len(content) % 50 == 0:
            facts_of(content, 3)

    def known(self, content: bytes) -> None:
        """Read what is known of pictures."""
        (self.folder / "known.json").write_bytes(content)
        read_known(self.folder / "known.json", 3)


PICTURES = (encoded(drawn(1)), turned(encoded(drawn(2))), encoded(drawn(3), ".png"))
TEXTS: dict[str, tuple[Callable[[Reader, bytes], None], tuple[bytes, ...]]] = {
    "labels": (Reader.labels, (LABELS,)),
    "lists": (Reader.lists, (LIST,)),
    "names": (Reader.names, (NAMES,)),
    "data": (Reader.data, (DATA,)),
    "cfgs": (Reader.cfgs, (CFG,)),
    "pictures": (Reader.pictures, PICTURES),
    "known": (Reader.known, (b'{"xxh3-128":"0","content":{"head":{},"facts":[],"files":{}}}',)),
}


def fuzz(folder: Path, kind: str, count: int, seed: int) -> int:
    """Read `count` mutations of a kind of file; return how many different ones they were."""
    draw = np.random.default_rng([seed, *kind.encode()])
    reader, (read, texts) = Reader(folder), TEXTS[kind]
    seen = set()
    for i in range(count):
        content = mutated(draw, texts[i % len(texts)])
        seen.add(hash(content))
        began_s = time.process_time()
        try:
            read(reader, content)
        except Exception as error:  # whatever it is, the input that led to it must be known
            raise AssertionError(f"{kind} {i} of seed {seed}: {content!r}") from error
        assert time.process_time() - began_s < LONGEST_S, content
    return len(seen)
