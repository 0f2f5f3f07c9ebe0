"""A cfg's network: which layer feeds which, its tensors by Darknet's names, its statistics.

Not covered: loss (`loss.py`), updates (`train/optimizer.py`), files (`formats/weights.py`).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from relume.formats import sections
from relume.formats.layer_shapes import IMAGE, layer_sources
from relume.formats.net_memory import check_memory, weights_bytes
from relume.formats.sections import Cfg
from relume.model.layers import BATCH_NORM_EPS, Convolutional, Dropout, Head, build_layer

FEWER_FILTERS = "lower filters or size of its layers"
Statistics = dict[int, tuple[Tensor, Tensor]]
"""Layer -> (mean, unbiased variance) of every batch norm in layer order, of one subdivision."""


@dataclass(frozen=True, eq=False)
class TrainedParameter:
    """A tensor that training changes, and how."""

    name: str
    """As in `formats.weights.layout`: "13.weights", "13.biases", "13.scales"."""
    tensor: nn.Parameter
    layer: int
    learning_rate: float
    """Factor of the layer on the net's rate."""
    decays: bool
    """Whether the net's decay holds: convolution weights only."""


class Network(nn.Module):
    """The layers of a cfg, run in order.

    Args of the constructor:
        seed: determines the initial weights and the masks of [dropout]; None leaves the
            weights zero, for a network that is filled at once and never trained.
    Raises:
        CfgError: the weights alone need more memory than there is.
    """

    def __init__(self, cfg: Cfg, seed: int | None = 0) -> None:
        check_memory(cfg, weights_bytes(cfg), "the weights", FEWER_FILTERS)
        super().__init__()
        self.cfg = cfg
        self._sources = layer_sources(cfg)
        self._done_with = _done_with(self._sources)
        self.layers = nn.ModuleList()
        for index, section in enumerate(cfg.layers):
            source = self._sources[index][0]
            channels = cfg.net.channels if source == IMAGE else cfg.channels[source]
            layer = build_layer(section, channels, seed or 0, index)
            if isinstance(layer, Convolutional) and seed is not None:
                layer.draw_weights(seed, index)
            self.layers.append(layer)

    def forward(self, images: Tensor, positions: Sequence[int] = ()) -> list[Tensor]:
        """Return what every head sees, before any activation.

        Args:
            images: [B, C, H, W] float32 in 0..1.
            positions: of the images in the sample stream; needed to train with [dropout].
        Returns:
            Per head [B, A * (5 + K), H / stride, W / stride], in order of the heads.
        """
        outputs = {IMAGE: images.contiguous(memory_format=torch.channels_last)}
        heads = []
        for index, layer in enumerate(self.layers):
            inputs = [outputs[source] for source in self._sources[index]]
            for source in self._done_with[index]:
                del outputs[source]
            drawn = (positions,) if isinstance(layer, Dropout) else ()
            output: Tensor = layer(*inputs, *drawn)
            outputs[index] = output
            if isinstance(layer, Head):
                heads.append(output)
        return heads

    def darknet_arrays(self) -> dict[str, Tensor]:
        """Return the live tensors under the names and in the order of a weights file."""
        arrays: dict[str, Tensor] = {}
        for index, layer in self._convolutions():
            arrays[f"{index}.biases"] = layer.bias.detach()
            if layer.section.batch_normalize:
                arrays[f"{index}.scales"] = layer.scale.detach()
                arrays[f"{index}.rolling_mean"] = layer.running_mean
                arrays[f"{index}.rolling_variance"] = layer.running_variance
            arrays[f"{index}.weights"] = layer.weight.detach()
        return arrays

    def trained_parameters(self) -> list[TrainedParameter]:
        """Return every tensor that training changes, in the order of a weights file."""
        trained = []
        for index, layer in self._convolutions():
            named = [("biases", layer.bias)]
            if layer.section.batch_normalize:
                named.append(("scales", layer.scale))
            named.append(("weights", layer.weight))
            rate = layer.section.learning_rate
            trained += [
                TrainedParameter(f"{index}.{name}", tensor, index, rate, name == "weights")
                for name, tensor in named
            ]
        return trained

    def take_statistics(self) -> Statistics:
        """Return the batch statistics of the last forward pass, which then are gone here."""
        taken: Statistics = {}
        for index, layer in self.batch_norms():
            if layer.batch_statistics is None:
                raise ValueError("there was no forward pass in training mode since the last call")
            taken[index] = layer.batch_statistics
            layer.batch_statistics = None
        return taken

    def fold_statistics(self, subdivisions: Sequence[Statistics]) -> None:
        """Fold batch statistics into the running ones: r = .99 * r + .01 * s, in order.

        Each product and the sum are rounded on their own, so that neither threads nor
        instruction sets (fused multiply-add) show in the result.

        Source: AlexeyAB src/convolutional_kernels.cu (cuDNN's exponentialAverageFactor .01).
        """
        with torch.no_grad():
            for statistics in subdivisions:
                for index, layer in self.batch_norms():
                    mean, variance = statistics[index]
                    layer.running_mean.mul_(0.99).add_(mean * 0.01)
                    layer.running_variance.mul_(0.99).add_(variance * 0.01)

    def _convolutions(self) -> list[tuple[int, Convolutional]]:
        return [
            (i, layer) for i, layer in enumerate(self.layers) if isinstance(layer, Convolutional)
        ]

    def batch_norms(self) -> list[tuple[int, Convolutional]]:
        """Return index and module of every layer with batch norm."""
        return [(i, layer) for i, layer in self._convolutions() if layer.section.batch_normalize]


def fold_batch_norm(network: Network) -> Network:
    """Return a network for detection only, with every batch norm worked into its convolution.

    Its numbers agree with the original's within float32 rounding.

    Source: AlexeyAB src/network.c fuse_conv_batchnorm (in double, as there).
    """
    cfg = network.cfg
    plain = tuple(
        dataclasses.replace(section, batch_normalize=False)
        if isinstance(section, sections.Convolutional)
        else section
        for section in cfg.layers
    )
    folded = Network(dataclasses.replace(cfg, layers=plain), seed=None).eval()
    pairs = zip(network._convolutions(), folded._convolutions(), strict=True)
    with torch.no_grad():
        for (_, layer), (_, target) in pairs:
            weight, bias = layer.weight.double(), layer.bias.double()
            if layer.section.batch_normalize:
                deviation = (layer.running_variance.double() + BATCH_NORM_EPS).sqrt()
                factor = layer.scale.double() / deviation
                weight = weight * factor[:, None, None, None]
                bias = bias - factor * layer.running_mean.double()
            target.weight.copy_(weight)
            target.bias.copy_(bias)
    return folded


def _done_with(sources: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Return per layer the outputs that it is the last to read."""
    last_reader = {source: reader for reader, read in enumerate(sources) for source in read}
    done: list[list[int]] = [[] for _ in sources]
    for source, reader in last_reader.items():
        done[reader].append(source)
    return tuple(map(tuple, done))
