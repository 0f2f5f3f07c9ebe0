"""Memory that a training needs: looked at before it is taken, and named where it runs out."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from relume.errors import TrainingError
from relume.formats.net_memory import check_memory, least_training_bytes
from relume.formats.sections import Cfg
from relume.memory import is_out_of_memory
from relume.schedule import input_size
from relume.train.environment import device_memory_bytes

REMEDY = "raise subdivisions, or lower width, height or random"


def check_training_memory(cfg: Cfg, seed: int, device: torch.device) -> None:
    """See to it that mini-batches of the largest input can fit into memory.

    Raises:
        CfgError: they cannot, whatever else runs on this machine.
    """
    images, (width, height) = cfg.net.mini_batch, input_size(cfg, seed, 1)
    what = f"a mini-batch of {images:,} pictures of {width}x{height}"
    of_device = device_memory_bytes(device)
    check_memory(cfg, least_training_bytes(cfg, images, width, height), what, REMEDY, of_device)
    # Their bytes, put together by the processor wherever the net is.
    check_memory(cfg, images * width * height * cfg.net.channels, what, REMEDY)


@contextmanager
def memory_errors_named(place: str) -> Iterator[None]:
    """Turn the errors of Python and of libraries that are short of memory into one of ours.

    Raises:
        TrainingError: memory ran out.
    """
    try:
        yield
    except Exception as error:  # each library has a class of its own
        if not is_out_of_memory(error):
            raise
        found = f"memory ran out ({str(error).partition(chr(10))[0][:200] or 'MemoryError'})"
        again = f"{REMEDY}; then give the same command again"
        raise TrainingError(place, found, "more memory", again) from error
