"""Weights from a file that may be a checkpoint or a plain Darknet file. Reading only."""

import errno
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from relume.checkpoint import container
from relume.checkpoint.reading import read_bytes
from relume.errors import RelumeError, Unavailable, WeightsError
from relume.formats.sections import Cfg
from relume.formats.weights import DarknetWeights, Floats, parse_weights


def read_weights_file(path: str | Path) -> bytes:
    """Return all bytes of a file.

    Raises:
        WeightsError: it cannot be read.
        Unavailable: there is not enough memory for it.
        Damaged, CheckpointError: as reading.read_bytes.
    """
    try:
        return read_bytes(Path(path))
    except OSError as error:
        raise cannot_be_read(path, error) from error


def cannot_be_read(path: str | Path, error: OSError) -> RelumeError:
    """Return what to raise where a file that was named cannot be read."""
    found = f"cannot be read ({error.strerror or error})"
    if error.errno == errno.ENOMEM:
        return Unavailable(path, found, "", "see that there is more memory, or name another file")
    return WeightsError(path, found, "a weights file")


def read_whole_weights(cfg: Cfg, path: str) -> DarknetWeights:
    """Return the weights of a file that fills the whole network and is intact.

    Raises:
        WeightsError: the file cannot be read, or does not fill this network, and this only.
        Damaged: it is a checkpoint, and not as it was written.
    """
    data = read_weights_file(path)
    if container.holds_state(data, path):
        container.unpack(data, path)
        data = data[: container.read_manifest(data)["darknet"]["bytes"]]
    weights = parse_weights(data, cfg, path)
    if weights.end != "whole" or weights.trailing:
        raise WeightsError(
            path,
            f"fills {weights.layers_filled} of {len(cfg.layers)} layers"
            if weights.end != "whole"
            else f"{weights.trailing:,} bytes follow the last layer",
            f"the weights of {cfg.path}",
            "give the CFG that these weights were trained with, or a whole file",
        )
    return weights


def check_finite(arrays: Mapping[str, Floats], path: str) -> None:
    """Raise WeightsError if an array of a file holds NaN or an infinity, and name its layer.

    A network with one of them finds nothing in any picture, which looks like a bad one.
    """
    for name, array in arrays.items():
        if np.isfinite(array.sum(dtype=np.float64)):
            continue  # a sum of float32 does not overflow there
        count, layer = int((~np.isfinite(array)).sum()), name.partition(".")[0]
        raise WeightsError(
            path,
            f"layer {layer}: {count:,} of {array.size:,} numbers in {name} are NaN or infinite",
            "finite weights",
            "the training has diverged, or the file is damaged: take an earlier one",
        )
