"""The text of a cfg for given classes: YOLOv3, its SPP form and its tiny form, laid out by rule.

A net is a backbone and heads; a head is the same few layers at each of its sizes. What Darknet's
own files say for training is said here as well, so that their weights fit.

Source:
    The layers of AlexeyAB/darknet 59596d78 cfg/yolov3.cfg, yolov3-spp.cfg, yolov3-tiny.cfg;
    max_batches and steps as its README advises.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

WrittenSection = tuple[str, dict[str, object]]
Anchors = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class CfgValues:
    """What differs from one cfg of a net to another."""

    classes: int
    anchors_px: Anchors
    """As many as the net has, the smallest area first."""
    pictures: int = 0
    """Listed for training; 0: not known."""
    width: int = 416
    height: int = 416
    batch: int = 64
    subdivisions: int = 16
    iterations: int | None = None
    """Of the run; None: as many as Darknet advises."""

    @property
    def max_batches(self) -> int:
        """2000 iterations per class, but at least 6000, and one for each picture."""
        return self.iterations or max(6000, 2000 * self.classes, self.pictures)

    @property
    def burn_in(self) -> int:
        """Iterations in which the rate rises: Darknet's 1000, of a short run a fifth."""
        return min(1000, self.max_batches // 5)

    @property
    def steps(self) -> tuple[int, int]:
        """Where the rate falls: at 80 and 90 percent."""
        return self.max_batches * 8 // 10, self.max_batches * 9 // 10

    @property
    def filters(self) -> int:
        """Of the layer before each head: box, objectness and classes for three anchors."""
        return PER_HEAD * (5 + self.classes)


@dataclass(frozen=True)
class Architecture:
    """A net of Darknet's: its layers, and the values its own cfg has."""

    layers: Callable[[CfgValues], Iterator[WrittenSection]]
    anchors_px: Anchors
    side_px: int
    subdivisions: int
    """For a batch of 64."""
    start: str
    """The file of trained first layers that trainings begin with."""


PER_HEAD = 3
"""Anchors of one head."""


def cfg_text(name: str, settings: CfgValues, title: str) -> str:
    """Return the cfg of the net `name` of NETS.

    Args:
        title: lines of a comment at its beginning.
    """
    steps = ",".join(map(str, settings.steps))
    net: WrittenSection = (
        "net",
        {
            "batch": settings.batch,
            "subdivisions": settings.subdivisions,
            "width": settings.width,
            "height": settings.height,
            "channels": 3,
            "momentum": 0.9,
            "decay": 0.0005,
            "saturation": 1.5,
            "exposure": 1.5,
            "hue": 0.1,
            "learning_rate": 0.001,
            "burn_in": settings.burn_in,
            "max_batches": settings.max_batches,
            "policy": "steps",
            "steps": steps,
            "scales": ".1,.1",
        },
    )
    comment = "".join(f"# {line}\n" for line in title.splitlines())
    return comment + "".join(_text(section) for section in (net, *NETS[name].layers(settings)))


def _text(section: WrittenSection) -> str:
    kind, options = section
    return f"\n[{kind}]\n" + "".join(f"{key}={value}\n" for key, value in options.items())


def _convolution(filters: int, size: int, stride: int = 1) -> WrittenSection:
    options = {"batch_normalize": 1, "filters": filters, "size": size, "stride": stride}
    return "convolutional", {**options, "pad": 1, "activation": "leaky"}


def _maxpool(size: int, stride: int) -> WrittenSection:
    return "maxpool", {"size": size, "stride": stride}


def _route(*layers: int) -> WrittenSection:
    return "route", {"layers": ",".join(map(str, layers))}


def _detector(settings: CfgValues, first: int) -> Iterator[WrittenSection]:
    """Yield the last convolution of a head and its [yolo]; `first` is its smallest anchor."""
    options = {"filters": settings.filters, "size": 1, "stride": 1, "pad": 1}
    yield "convolutional", {**options, "activation": "linear"}
    anchors = ", ".join(f"{pixel_text(w)},{pixel_text(h)}" for w, h in settings.anchors_px)
    yield (
        "yolo",
        {
            "mask": ",".join(str(first + i) for i in range(PER_HEAD)),
            "anchors": anchors,
            "classes": settings.classes,
            "num": len(settings.anchors_px),
            "jitter": 0.3,
            "ignore_thresh": 0.7,
            "truth_thresh": 1,
            "random": 1,
        },
    )


def _finer(filters: int, layer: int) -> Iterator[WrittenSection]:
    """Yield the way from a head to the next: twice its size, with a layer of the backbone."""
    yield _route(-4)
    yield _convolution(filters, 1)
    yield "upsample", {"stride": 2}
    yield _route(-1, layer)


def _tiny(settings: CfgValues) -> Iterator[WrittenSection]:
    for filters in (16, 32, 64, 128, 256):
        yield _convolution(filters, 3)
        yield _maxpool(2, 2)
    yield _convolution(512, 3)
    yield _maxpool(2, 1)
    yield _convolution(1024, 3)
    yield _convolution(256, 1)
    yield _convolution(512, 3)
    yield from _detector(settings, first=3)
    yield from _finer(128, layer=8)
    yield _convolution(256, 3)
    yield from _detector(settings, first=0)


def _darknet53() -> Iterator[WrittenSection]:
    yield _convolution(32, 3)
    for filters, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        yield _convolution(filters, 3, stride=2)
        for _ in range(blocks):
            yield _convolution(filters // 2, 1)
            yield _convolution(filters, 3)
            yield "shortcut", {"from": -3, "activation": "linear"}


def _pyramid() -> Iterator[WrittenSection]:
    """Yield spatial pyramid pooling: the layer before, seen through three windows at once."""
    yield _maxpool(5, 1)
    yield _route(-2)
    yield _maxpool(9, 1)
    yield _route(-4)
    yield _maxpool(13, 1)
    yield _route(-1, -3, -5, -6)
    yield _convolution(512, 1)


def _yolov3(settings: CfgValues, pyramid: bool = False) -> Iterator[WrittenSection]:
    yield from _darknet53()
    for filters, layer, first in ((512, 0, 6), (256, 61, 3), (128, 36, 0)):
        if layer:
            yield from _finer(filters, layer)
        for part in range(3):
            yield _convolution(filters, 1)
            if pyramid and not layer and part == 1:
                yield from _pyramid()
            yield _convolution(2 * filters, 3)
        yield from _detector(settings, first)


def _yolov3_spp(settings: CfgValues) -> Iterator[WrittenSection]:
    yield from _yolov3(settings, pyramid=True)


def pixel_text(pixels: float) -> str:
    """Return a length in pixels as a person writes it."""
    return f"{pixels:.0f}" if pixels >= 10 else f"{pixels:.2g}"


_NINE = (
    *((10, 13), (16, 30), (33, 23)),
    *((30, 61), (62, 45), (59, 119)),
    *((116, 90), (156, 198), (373, 326)),
)
_SIX = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))

NETS = {
    "yolov3-tiny": Architecture(_tiny, _SIX, 416, 2, "yolov3-tiny.conv.15"),
    "yolov3": Architecture(_yolov3, _NINE, 416, 16, "darknet53.conv.74"),
    "yolov3-spp": Architecture(_yolov3_spp, _NINE, 608, 16, "darknet53.conv.74"),
}
