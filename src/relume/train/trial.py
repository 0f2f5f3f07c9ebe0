"""One subdivision, trained for nothing: how long it takes here, and what it holds in memory."""

import math
import time

import numpy as np
import torch
from torch import Tensor

from relume.data.batch import MiniBatch
from relume.draws import draw_words
from relume.formats.sections import Cfg
from relume.model.network import Network
from relume.train.partial import Share
from relume.train.step import train_subdivision

SHORT_S = 1.0
"""A subdivision of one image that took less is measured again with all its images."""
MOST_TRIES = 4
LONG_S = 1.5
"""After which a measurement is not done again."""
MOST_HELD_BYTES = 2e9
"""That a subdivision may hold to be tried whole."""


def tried(cfg: Cfg, device: torch.device) -> tuple[int, float, int]:
    """Train one subdivision of noise at the cfg's own size.

    Args:
        cfg: of the run.
        device: where it would train.
    Returns:
        Images of the subdivision, its seconds, and the bytes that forward left for backward.
    """
    network = Network(cfg, 0).to(device).train()
    held_bytes = _held_bytes(network, cfg)  # and the libraries have chosen their kernels
    seconds, images = _seconds(network, _mini_batch(cfg, 1)), 1
    whole = cfg.net.mini_batch
    if whole > 1 and seconds < SHORT_S and held_bytes * whole < MOST_HELD_BYTES:
        held_bytes, images = held_bytes * whole, whole
        seconds = _seconds(network, _mini_batch(cfg, whole))
    return images, seconds, held_bytes


def _held_bytes(network: Network, cfg: Cfg) -> int:
    """Return the bytes of what one image leaves for backward, the parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        train_subdivision(network, Share(range(1)), _mini_batch(cfg, 1))
    return sum(held.values())


def _seconds(network: Network, mini_batch: MiniBatch) -> float:
    """Return the shortest of a few tries: others on the machine only make them longer."""
    taken_s: list[float] = []
    while len(taken_s) < MOST_TRIES and sum(taken_s) < LONG_S:
        began_s = time.perf_counter()
        share = Share(range(1))
        train_subdivision(network, share, mini_batch)
        float(share.done[0].losses.sum())  # a GPU is waited for
        taken_s.append(time.perf_counter() - began_s)
    return min(taken_s)


def _mini_batch(cfg: Cfg, images: int) -> MiniBatch:
    net = cfg.net
    shape = (images, net.height, net.width, net.channels)
    words = draw_words(0, "trial", (), math.prod(shape))
    return MiniBatch(
        images=(words >> np.uint64(56)).astype(np.uint8).reshape(shape),
        boxes_xywh_rel=np.full((images, 1, 4), 0.5, np.float32),
        classes=np.zeros((images, 1), np.int64),
        positions=tuple(range(images)),
        pictures=(1,) * images,
        indices=(0,) * images,
        digests=np.zeros(images, np.uint64),
    )
