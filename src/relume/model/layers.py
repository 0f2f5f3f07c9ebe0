"""The layers of a cfg as modules: tensors in, one tensor out.

Every module takes the outputs of its source layers and gives its own. Tensors are
[B, C, H, W] in channels_last memory, which is part of the numerics: another memory format
sums in another order.

Not covered: which layers feed which; that is `network.py`.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relume.draws import draw_uniforms, draw_words
from relume.formats import sections

BATCH_NORM_EPS = 1e-5

# In place wherever the gradient is a function of the output, so the input need not be kept.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "leaky": lambda x: F.leaky_relu(x, 0.1, inplace=True),
    "logistic": torch.sigmoid_,
    "relu": torch.relu_,
    "mish": F.mish,
    "swish": F.silu,
}


class Convolutional(nn.Module):
    """Convolution, then batch norm or bias, then the activation.

    Batch norm is cuDNN's (eps 1e-5 inside the root). In training mode it uses the statistics
    of the given images and leaves them in `batch_statistics`; the running ones are untouched,
    so that they can be folded in the order of the subdivisions, whoever computed those.

    Source: AlexeyAB src/convolutional_kernels.cu forward_convolutional_layer_gpu,
        src/convolutional_layer.c make_convolutional_layer (the initial values).
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, section: sections.Convolutional, channels: int) -> None:
        super().__init__()
        self.section = section
        shape = (section.filters, channels // section.groups, section.size, section.size)
        # In Darknet's order, unlike the images: a checkpoint then takes it without a copy, and
        # the convolution is as fast.
        self.weight = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(section.filters))
        if section.batch_normalize:
            self.scale = nn.Parameter(torch.ones(section.filters))
            self.register_buffer("running_mean", torch.zeros(section.filters))
            self.register_buffer("running_variance", torch.zeros(section.filters))
        self.batch_statistics: tuple[Tensor, Tensor] | None = None
        self._activate = ACTIVATIONS[section.activation]

    def draw_weights(self, seed: int, layer: int) -> None:
        """Fill the weights with sqrt(2 / fan_in) * U(-1, 1), a function of (seed, layer)."""
        shape = self.weight.shape
        uniforms = draw_uniforms(seed, "weights", (layer,), self.weight.numel())
        spread = np.float32(math.sqrt(2.0 / math.prod(shape[1:])))
        values = spread * (np.float32(2) * uniforms - np.float32(1))
        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(values).reshape(shape))

    def forward(self, images: Tensor) -> Tensor:
        """Return [B, filters, out_height, out_width]."""
        x = self.convolve(images)
        if self.section.batch_normalize:
            x = self._normalize(x)
        return self._activate(x)

    def convolve(self, images: Tensor) -> Tensor:
        """Return the sums as they are before batch norm and activation."""
        s = self.section
        bias = None if s.batch_normalize else self.bias
        stride, padding = (s.stride_y, s.stride_x), s.padding * s.dilation
        return F.conv2d(images, self.weight, bias, stride, padding, s.dilation, s.groups)

    def _normalize(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_variance
        if self.training:
            # Momentum 1 writes the plain statistics. Fresh buffers, because 0 * NaN is NaN:
            # a buffer that has seen one would keep it.
            mean, variance = torch.zeros_like(mean), torch.zeros_like(variance)
            self.batch_statistics = (mean, variance)
        return F.batch_norm(
            x, mean, variance, self.scale, self.bias, self.training, 1.0, BATCH_NORM_EPS
        )


class Maxpool(nn.Module):
    """Largest value of each window; what lies outside the picture never wins.

    Windows start at -(padding // 2); the first of equal values gets the gradient. A window that
    lies wholly outside the picture gives the lowest finite number, as in Darknet on a
    CPU, and passes no gradient on, as in Darknet on a GPU.

    Source: AlexeyAB src/maxpool_layer.c forward_maxpool_layer,
        src/maxpool_layer_kernels.cu backward_maxpool_layer_kernel.
    """

    def __init__(self, section: sections.Maxpool) -> None:
        super().__init__()
        self.section = section

    def forward(self, images: Tensor) -> Tensor:
        """Return [B, C, (H + padding - size) // stride_y + 1, ...]."""
        s = self.section
        stride, before = (s.stride_y, s.stride_x), s.padding // 2
        sizes = (images.shape[2], images.shape[3])
        wanted = [
            (n + s.padding - s.size) // step + 1 for n, step in zip(sizes, stride, strict=True)
        ]
        if before <= s.size // 2:
            for ceil_mode in (False, True):
                given = [
                    _pooled_size(n, s.size, step, before, ceil_mode)
                    for n, step in zip(sizes, stride, strict=True)
                ]
                if given == wanted:
                    return F.max_pool2d(images, s.size, stride, before, ceil_mode=ceil_mode)
        after = s.padding - before
        lowest = torch.finfo(images.dtype).min
        framed = F.pad(images, (before, after, before, after), value=lowest)
        return F.max_pool2d(framed, s.size, stride)


def _pooled_size(size: int, window: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """Return how many windows torch's max_pool2d places along one axis."""
    room = size + 2 * padding - window
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    # torch drops a last window that would start behind the picture.
    return count - 1 if (count - 1) * stride >= size + padding else count


class Upsample(nn.Module):
    """Every value becomes a square of stride x stride equal values."""

    def __init__(self, section: sections.Upsample) -> None:
        super().__init__()
        self.stride = float(section.stride)

    def forward(self, images: Tensor) -> Tensor:
        """Return [B, C, H * stride, W * stride]."""
        return F.interpolate(images, scale_factor=self.stride, mode="nearest")


class Route(nn.Module):
    """Slice `group_id` of `groups` of every source, one behind the other."""

    def __init__(self, section: sections.Route) -> None:
        super().__init__()
        self.section = section

    def forward(self, *sources: Tensor) -> Tensor:
        """Return [B, sum of C / groups, H, W]."""
        s = self.section
        parts = sources
        if s.groups > 1:
            parts = tuple(source.chunk(s.groups, dim=1)[s.group_id] for source in sources)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class Shortcut(nn.Module):
    """The previous layer's output plus other layers'; a narrower one joins the first channels.

    Source: AlexeyAB src/blas.c shortcut_multilayer_cpu (without weights).
    """

    def __init__(self, section: sections.Shortcut) -> None:
        super().__init__()
        self._activate = ACTIVATIONS[section.activation]

    def forward(self, previous: Tensor, *sources: Tensor) -> Tensor:
        """Return the shape of `previous`."""
        channels = previous.shape[1]
        total = previous
        for source in sources:
            missing = channels - source.shape[1]
            total = total + (F.pad(source, (0, 0, 0, 0, 0, missing)) if missing else source)
        return self._activate(total)


class Dropout(nn.Module):
    """In training, zero with `probability` and scale the rest by 1 / (1 - probability).

    Image b's mask is drawn at (position of b, layer), so it depends neither on the other
    images of the mini-batch nor on who computes it.
    """

    def __init__(self, section: sections.Dropout, seed: int, layer: int) -> None:
        super().__init__()
        self.probability = section.probability
        self.seed = seed
        self.layer = layer

    def forward(self, images: Tensor, positions: Sequence[int]) -> Tensor:
        """Return the shape of `images`; `positions` has one entry per image (training)."""
        if not self.training:
            return images
        _, channels, height, width = images.shape
        count = channels * height * width
        masks = np.empty((images.shape[0], height, width, channels), np.float32)
        for mask, position in zip(masks, positions, strict=True):
            words = draw_words(self.seed, "dropout", (position, self.layer), (count + 1) // 2)
            halves = words.astype("<u8").view("<u4")[:count]
            kept = halves >= np.uint32(min(round(self.probability * 2.0**32), 2**32 - 1))
            mask[...] = kept.reshape(height, width, channels)
        masks *= np.float32(1.0 / (1.0 - self.probability))
        return images * torch.from_numpy(masks).permute(0, 3, 1, 2).to(images.device)


class Head(nn.Module):
    """[yolo] hands its input on; what it means is decided in `boxes.py` and `loss.py`."""

    def forward(self, raw: Tensor) -> Tensor:
        """Return `raw`."""
        return raw


def build_layer(section: sections.Layer, channels: int, seed: int, index: int) -> nn.Module:
    """Return the module of one section; `channels` is what its first source gives."""
    match section:
        case sections.Convolutional():
            return Convolutional(section, channels)
        case sections.Maxpool():
            return Maxpool(section)
        case sections.Upsample():
            return Upsample(section)
        case sections.Route():
            return Route(section)
        case sections.Shortcut():
            return Shortcut(section)
        case sections.Dropout():
            return Dropout(section, seed, index)
        case sections.Yolo():
            return Head()
