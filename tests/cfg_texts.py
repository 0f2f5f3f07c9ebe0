"""Cfg texts for tests, made section by section: small nets, and YOLOv3 in its three sizes."""

from collections.abc import Sequence

SMALL_ANCHORS = "6,8, 12,10, 20,22, 30,24, 24,36, 44,44"
YOLOV3_ANCHORS = "10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326"
TINY_ANCHORS = "10,14, 23,27, 37,58, 81,82, 135,169, 344,319"


def section(kind: str, **options: object) -> str:
    """Return one section; a keyword with a trailing underscore loses it (`from_`)."""
    lines = [f"{key.rstrip('_')}={value}" for key, value in options.items()]
    return "\n".join((f"[{kind}]", *lines, ""))


def net(width: int, height: int, batch: int, subdivisions: int, **options: object) -> str:
    """Return a [net] section with neutral augmentation; `options` replace or add keys."""
    keys: dict[str, object] = {
        "batch": batch,
        "subdivisions": subdivisions,
        "width": width,
        "height": height,
        "channels": 3,
        "momentum": 0.9,
        "decay": 0.0005,
        "learning_rate": 0.001,
        "max_batches": 20,
    }
    return section("net", **(keys | options))


def convolution(
    filters: int, size: int = 3, stride: int = 1, batch_normalize: int = 1, **options: object
) -> str:
    """Return a [convolutional] section as YOLOv3 has them."""
    keys: dict[str, object] = {"batch_normalize": 1} if batch_normalize else {}
    shape: dict[str, object] = {
        "filters": filters,
        "size": size,
        "stride": stride,
        "pad": 1,
        "activation": "leaky",
    }
    return section("convolutional", **(keys | shape | options))


def head(mask: Sequence[int], anchors: str, classes: int, **options: object) -> list[str]:
    """Return the linear convolution in front of a [yolo] section, and that section."""
    keys: dict[str, object] = {
        "mask": ",".join(map(str, mask)),
        "anchors": anchors,
        "classes": classes,
        "num": anchors.count(",") // 2 + 1,
        "jitter": 0,
        "ignore_thresh": 0.7,
        "truth_thresh": 1,
        "random": 0,
    }
    filters = len(mask) * (classes + 5)
    last = convolution(filters, 1, batch_normalize=0, activation="linear")
    return [last, section("yolo", **(keys | options))]


def small_cfg(
    *,
    size: int = 64,
    batch: int = 4,
    subdivisions: int = 2,
    classes: int = 3,
    batch_normalize: int = 1,
    dropout: float = 0.0,
    yolo: dict[str, object] | None = None,
    **net_options: object,
) -> str:
    """Return yolov3-tiny's shape in small: two heads, strides 16 and 8, both kinds of maxpool."""

    def block(filters: int, kernel: int = 3) -> str:
        return convolution(filters, kernel, batch_normalize=batch_normalize)

    pool = section("maxpool", size=2, stride=2)
    own = yolo or {}
    parts = [net(size, size, batch, subdivisions, **net_options)]
    for filters in (4, 6, 8):
        parts += [block(filters), pool]
    parts += [block(10), pool, block(12), section("maxpool", size=2, stride=1), block(8, 1)]
    if dropout:
        parts.append(section("dropout", probability=dropout))
    parts += [block(12), *head((3, 4, 5), SMALL_ANCHORS, classes, **own)]
    parts += [section("route", layers=-4), block(6, 1), section("upsample", stride=2)]
    parts += [section("route", layers="-1,6"), block(10)]
    parts += head((0, 1, 2), SMALL_ANCHORS, classes, **own)
    return "\n".join(parts)


def small_residual_cfg(
    *,
    size: int = 64,
    batch: int = 4,
    subdivisions: int = 2,
    classes: int = 3,
    yolo: dict[str, object] | None = None,
    **options: object,
) -> str:
    """Return yolov3's shape in small: strided convolutions, shortcuts, two heads."""
    own = yolo or {}
    parts = [net(size, size, batch, subdivisions, **options), convolution(4)]
    for filters in (6, 8, 10, 12):
        parts.append(convolution(filters, stride=2))
        parts += _residual(filters)
    parts += [convolution(6, 1), convolution(12)]
    parts += head((3, 4, 5), SMALL_ANCHORS, classes, **own)
    parts += [section("route", layers=-4), convolution(4, 1), section("upsample", stride=2)]
    parts += [section("route", layers="-1,12"), convolution(8)]
    return "\n".join(parts + head((0, 1, 2), SMALL_ANCHORS, classes, **own))


def yolov3_tiny_cfg(width: int = 416, height: int = 416, classes: int = 80) -> str:
    """Return the whole yolov3-tiny."""
    parts = [net(width, height, 64, 8)]
    for filters in (16, 32, 64, 128, 256, 512):
        stride = 2 if filters < 512 else 1
        parts += [convolution(filters), section("maxpool", size=2, stride=stride)]
    parts += [convolution(1024), convolution(256, 1), convolution(512)]
    parts += head((3, 4, 5), TINY_ANCHORS, classes)
    parts += [section("route", layers=-4), convolution(128, 1), section("upsample", stride=2)]
    parts += [section("route", layers="-1,8"), convolution(256)]
    return "\n".join(parts + head((0, 1, 2), TINY_ANCHORS, classes))


def yolov3_cfg(
    width: int = 416, height: int = 416, classes: int = 80, spp: bool = False, divide: int = 1
) -> str:
    """Return the whole yolov3, or yolov3-spp; `divide` makes every layer that much narrower."""

    def block(filters: int, size: int = 3, stride: int = 1) -> str:
        return convolution(filters // divide, size, stride)

    parts = [net(width, height, 64, 16), block(32)]
    for filters, count in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        parts.append(block(filters, stride=2))
        parts += _residual(filters // divide) * count
    for filters, mask, join in ((512, (6, 7, 8), 61), (256, (3, 4, 5), 36), (128, (0, 1, 2), 0)):
        parts += [block(filters, 1), block(filters * 2), block(filters, 1)]
        if spp and filters == 512:
            parts += [*_spatial_pyramid(), block(filters, 1)]
        parts += [block(filters * 2), block(filters, 1), block(filters * 2)]
        parts += head(mask, YOLOV3_ANCHORS, classes)
        if join:
            parts += [section("route", layers=-4), block(filters // 2, 1)]
            parts += [section("upsample", stride=2), section("route", layers=f"-1,{join}")]
    return "\n".join(parts)


def _residual(filters: int) -> list[str]:
    halved = convolution(filters // 2, 1)
    return [halved, convolution(filters), section("shortcut", from_=-3, activation="linear")]


def _spatial_pyramid() -> list[str]:
    pools = [section("maxpool", size=size, stride=1) for size in (5, 9, 13)]
    routes = [section("route", layers=layers) for layers in ("-2", "-4", "-1,-3,-5,-6")]
    return [text for pair in zip(pools, routes, strict=True) for text in pair]
