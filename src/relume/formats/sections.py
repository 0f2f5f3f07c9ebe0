"""The typed, frozen values a cfg is made of: one class per section, names as in the cfg.

Defaults and meanings are Darknet's (AlexeyAB), except where docs/darknet-differences.md says
otherwise. `formats/cfg.py` makes these values from text.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Net:
    """[net]: the input, the optimizer, the schedule and the augmentation."""

    line: int
    """Line of the section header, for error messages."""
    batch: int
    """Images per iteration, already (batch div subdivisions) * subdivisions."""
    written_batch: int
    """Images per iteration as the file says; differs from `batch` if not divisible."""
    subdivisions: int
    width: int
    """Width of the network's input in pixels, before multi-scale."""
    height: int
    channels: int
    learning_rate: float = 0.001
    learning_rate_min: float = 0.00001
    momentum: float = 0.9
    decay: float = 0.0001
    max_batches: int = 0
    burn_in: int = 0
    power: float = 4.0
    policy: str = "constant"
    """constant, step, steps, exp, poly, sigmoid or sgdr."""
    step: int = 1
    scale: float = 1.0
    steps: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    gamma: float = 1.0
    sgdr_cycle: int = 0
    """Defaults to max_batches."""
    sgdr_mult: int = 2
    adam: bool = False
    B1: float = 0.9
    B2: float = 0.999
    eps: float = 0.000001
    saturation: float = 1.0
    exposure: float = 1.0
    hue: float = 0.0
    flip: bool = True
    resize_step: int = 32
    letter_box: bool = False
    """Training and detection keep the picture's shape."""
    blur: int = 0
    """1 blurs the background of two pictures in three; k > 1 that of one in three and the whole
    of another, with a kernel of k pixels."""
    gaussian_noise: int = 0
    """Standard deviation of the noise on half of the pictures, in levels of 0 to 255."""
    mixup: bool = False
    """Half of the samples are two pictures blended."""
    mosaic: bool = False
    """Half of the samples are four pictures side by side."""
    mosaic_bound: bool = False
    """Boxes of a mosaic end at the border of their picture; False without mosaic."""
    ignored: tuple[str, ...] = ()
    """Of mixup and cutmix those that the file sets without effect."""

    @property
    def mini_batch(self) -> int:
        """Images per subdivision, the unit of one forward and backward pass."""
        return self.batch // self.subdivisions


@dataclass(frozen=True, kw_only=True)
class Convolutional:
    """[convolutional]: convolution, batch norm or bias, activation."""

    line: int
    filters: int = 1
    size: int = 1
    stride_x: int = 1
    stride_y: int = 1
    groups: int = 1
    dilation: int = 1
    padding: int = 0
    """Pixels on each side, already size // 2 where pad=1."""
    activation: str = "logistic"
    """linear, leaky, logistic, relu, mish or swish."""
    batch_normalize: bool = False
    learning_rate: float = 1.0
    """Factor on the net's rate for this layer."""


@dataclass(frozen=True, kw_only=True)
class Maxpool:
    """[maxpool]: `padding` is the total, of which padding // 2 lies left and above."""

    line: int
    size: int
    stride_x: int = 1
    stride_y: int = 1
    padding: int


@dataclass(frozen=True, kw_only=True)
class Upsample:
    """[upsample]: nearest neighbour."""

    line: int
    stride: int = 2


@dataclass(frozen=True, kw_only=True)
class Route:
    """[route]: channels of `layers` (absolute indices) one behind the other.

    Of every source only slice `group_id` of `groups` equal slices is taken.
    """

    line: int
    layers: tuple[int, ...]
    groups: int = 1
    group_id: int = 0


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """[shortcut]: previous layer plus the layers `sources` (absolute indices)."""

    line: int
    sources: tuple[int, ...]
    activation: str = "linear"


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """[dropout]: in training, zero with `probability`, scale the rest by 1 / (1 - probability)."""

    line: int
    probability: float = 0.2


@dataclass(frozen=True, kw_only=True)
class Yolo:
    """[yolo]: one detection head.

    jitter, resize, random and max of the LAST head hold for the whole net, as in Darknet.
    """

    line: int
    classes: int = 20
    num: int = 1
    mask: tuple[int, ...] = (0,)
    anchors_px: tuple[tuple[float, float], ...] = ()
    """(width, height) of all `num` anchors in pixels of the network's input."""
    max: int = 200
    jitter: float = 0.2
    resize: float = 1.0
    ignore_thresh: float = 0.5
    truth_thresh: float = 1.0
    random: float = 0.0
    """0 none; 1 multi-scale by 1.4; another number > 1: by that factor."""
    scale_x_y: float = 1.0
    iou_normalizer: float = 1.0
    obj_normalizer: float = 1.0
    nms_kind: str = "default"
    """default, greedynms or diounms."""
    beta_nms: float = 0.6


Layer = Convolutional | Maxpool | Upsample | Route | Shortcut | Dropout | Yolo


@dataclass(frozen=True, kw_only=True)
class Cfg:
    """A whole cfg: what it says, and the text it was read from."""

    path: str
    """As given, for messages; no meaning otherwise."""
    text: str
    net: Net
    layers: tuple[Layer, ...]
    channels: tuple[int, ...]
    """Output channels of every layer; a [yolo] layer passes its input on."""

    @property
    def heads(self) -> tuple[Yolo, ...]:
        """The [yolo] layers in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, Yolo))
