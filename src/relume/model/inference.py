"""A network as it runs for detection on a processor: weights laid out once, activations fused.

oneDNN, PyTorch's library of convolutions, lays the weights out anew in every call unless it is
handed them as it wants them; and a pooling that also keeps where each maximum was takes four
times as long, one that writes over what it has read a fifth less. Together that is a third of the
time of yolov3-tiny.

Not covered: GPUs, training, saving; a network changed by `run_fused` only detects.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from relume.formats import sections
from relume.formats.layer_shapes import layer_sources
from relume.model.layers import ACTIVATIONS, Convolutional, Maxpool
from relume.model.network import Network

FUSED: dict[str, tuple[str, list[float]]] = {
    "linear": ("none", []),
    "leaky": ("leaky_relu", [0.1]),
    "relu": ("relu", []),
    "logistic": ("sigmoid", []),
    "swish": ("swish", []),
}
"""What oneDNN computes with the convolution: its name for it, and its numbers."""


def run_fused(network: Network) -> Network:
    """Let the convolutions and poolings of a network on the CPU run fused; return the network.

    Its numbers agree with the original's within float32 rounding. On a GPU, and where PyTorch
    was built without oneDNN, the network stays as it is.

    Args:
        network: for detection, batch norm folded.
    """
    device = next(network.parameters()).device
    # PyTorch gives no types to its functions about oneDNN.
    has_one_dnn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if device.type != "cpu" or not has_one_dnn:
        return network
    sources = layer_sources(network.cfg)
    readers = Counter(source for read in sources for source in read)
    for index, layer in enumerate(network.layers):
        if isinstance(layer, Convolutional) and not layer.section.batch_normalize:
            network.layers[index] = FusedConvolution(layer)
        elif isinstance(layer, Maxpool) and _is_of_pairs(layer.section):
            # Only a convolution's output is surely no view of what others read.
            is_fresh = index > 0 and isinstance(network.layers[index - 1], FusedConvolution)
            is_free = is_fresh and readers[index - 1] == 1
            network.layers[index] = PairMaxpool(layer, writes_over_input=is_free)
    return network


class FusedConvolution(nn.Module):
    """Convolution, bias and activation in one call, its weights laid out at the first one.

    That is done for the size of its input then; others are as right, only slower.
    """

    def __init__(self, layer: Convolutional) -> None:
        super().__init__()
        section = layer.section
        self.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
        padding = section.padding * section.dilation
        self._padding = [padding, padding]
        self._stride = [section.stride_y, section.stride_x]
        self._dilation = [section.dilation, section.dilation]
        self._groups = section.groups
        self._fused = FUSED.get(section.activation, FUSED["linear"])
        self._activate = ACTIVATIONS[
            "linear" if section.activation in FUSED else section.activation
        ]
        self._weight = layer.weight.detach().contiguous()
        self._is_laid_out = False

    def forward(self, images: Tensor) -> Tensor:
        """Return [B, filters, out_height, out_width]."""
        operations: Any = torch.ops.mkldnn
        shape = (self._padding, self._stride, self._dilation, self._groups)
        if not self._is_laid_out:
            self._weight = operations._reorder_convolution_weight(
                self._weight, *shape, images.shape
            )
            self._is_laid_out = True
        x: Tensor = operations._convolution_pointwise(
            images, self._weight, self.bias, *shape, *self._fused, ""
        )
        return self._activate(x)


class PairMaxpool(nn.Module):
    """Largest value of each 2x2 square: squares side by side (stride 2), or at every place (1)."""

    def __init__(self, layer: Maxpool, *, writes_over_input: bool) -> None:
        super().__init__()
        self._layer = layer
        self._stride = layer.section.stride_y
        self._writes_over_input = writes_over_input

    def forward(self, images: Tensor) -> Tensor:
        """Return [B, C, ceil(H / 2), ceil(W / 2)], or the input's size where the stride is 1."""
        if self._stride == 1:
            return _with_next(_with_next(images, 2), 3)
        if images.shape[2] % 2 or images.shape[3] % 2:
            pooled: Tensor = self._layer(images)
            return pooled
        upper, lower = images[:, :, ::2], images[:, :, 1::2]
        rows = torch.maximum(upper, lower, out=upper if self._writes_over_input else None)
        return torch.maximum(rows[..., ::2], rows[..., 1::2])


def _with_next(images: Tensor, dim: int) -> Tensor:
    """Return of every value and the next along `dim` the larger; the last has no next."""
    count = images.shape[dim]
    first, last = images.narrow(dim, 0, count - 1), images.narrow(dim, count - 1, 1)
    return torch.cat((torch.maximum(first, images.narrow(dim, 1, count - 1)), last), dim)


def _is_of_pairs(section: sections.Maxpool) -> bool:
    """Return whether the window is 2x2, and lies as PairMaxpool has it."""
    s = section
    if s.size != 2 or s.stride_x != s.stride_y:
        return False
    return (s.stride_y == 2 and s.padding <= 1) or (s.stride_y == 1 and s.padding == 1)
