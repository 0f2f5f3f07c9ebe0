"""What a net takes at the very least, from its cfg alone: looked at before memory is taken.

A cfg of a few lines can ask for terabytes. What is known to be larger than all memory of the
machine is refused by name; what may fit is tried.
"""

from math import prod

from relume.errors import CfgError
from relume.formats.layer_shapes import layer_sizes
from relume.formats.sections import Cfg, Convolutional
from relume.formats.weights import layout
from relume.memory import total_memory_bytes

_FLOAT_BYTES = 4


def weights_bytes(cfg: Cfg) -> int:
    """Return the bytes of all arrays of a weights file."""
    return sum(spec.size_bytes for spec in layout(cfg))


def least_training_bytes(cfg: Cfg, images: int, width: int, height: int) -> int:
    """Return what training takes at the very least.

    Weights, gradients and momentum; and the output of every convolution, kept for backward, or
    that of the largest layer.

    Args:
        cfg: of the net.
        images: in one mini-batch.
        width: of the input, in pixels.
        height: of the input, in pixels.
    """
    outputs = [prod(size) for size in layer_sizes(cfg, width, height)]
    kept = cfg.net.channels * width * height
    for layer, output in zip(cfg.layers, outputs, strict=True):
        kept += output * isinstance(layer, Convolutional)
    return 3 * weights_bytes(cfg) + _FLOAT_BYTES * images * max(kept, *outputs)


def least_detecting_bytes(cfg: Cfg) -> int:
    """Return what detecting in one picture takes at the very least: one layer after another."""
    net = cfg.net
    sizes = [(net.channels, net.height, net.width), *layer_sizes(cfg, net.width, net.height)]
    return weights_bytes(cfg) + _FLOAT_BYTES * max(map(prod, sizes))


def check_memory(
    cfg: Cfg, needed_bytes: int, what: str, remedy: str, there_bytes: int | None = None
) -> None:
    """See to it that a net can fit into memory.

    Args:
        cfg: of the net.
        needed_bytes: at the very least.
        what: it is needed for.
        remedy: for the message.
        there_bytes: memory of the device; None: that of this machine.
    Raises:
        CfgError: it cannot.
    """
    there_bytes = total_memory_bytes() if there_bytes is None else there_bytes
    if needed_bytes > there_bytes:
        found = f"at least {needed_bytes / 1e9:,.1f} GB of memory for {what}"
        raise CfgError(cfg.path, found, f"{there_bytes / 1e9:,.1f} GB are there", remedy)
