"""The mini-batches of a run, from any position on, and that no picture has changed meanwhile."""

from collections.abc import Generator, Iterator

import numpy as np
import numpy.typing as npt

from relume.data.batch import MiniBatch, Source, mini_batches
from relume.data.patience import Patience
from relume.errors import ImageError
from relume.schedule import input_size
from relume.spec import Recipe, RunSpec


def source_of(recipe: Recipe) -> Source:
    """Return what the samples of a run are made of."""
    return Source(
        net=recipe.cfg.net,
        head=recipe.cfg.heads[-1],
        seed=recipe.seed,
        image_paths=recipe.images.paths,
        places=[f"{recipe.images.path}:{line}" for line in recipe.images.lines],
        labels=recipe.labels,
    )


def batches_of(spec: RunSpec, first_position: int, patience: Patience) -> Generator[MiniBatch]:
    """Yield the mini-batches from `first_position` on: a pure function of the recipe."""
    recipe, operation = spec.recipe, spec.operation
    cfg = recipe.cfg

    def size_of(position: int) -> tuple[int, int]:
        return input_size(cfg, recipe.seed, position // cfg.net.batch + 1)

    return mini_batches(
        source_of(recipe),
        first_position,
        size_of,
        workers=operation.workers,
        read_ahead=operation.read_ahead,
        end_position=cfg.net.max_batches * cfg.net.batch,
        patience=patience,
    )


def unchanged(
    batches: Iterator[MiniBatch], pictures: npt.NDArray[np.uint64], recipe: Recipe
) -> Iterator[MiniBatch]:
    """Pass mini-batches on, but stop at a picture that differs from when it was last used."""
    for mini_batch in batches:
        known = pictures[list(mini_batch.indices)]
        changed = np.flatnonzero((known != 0) & (known != mini_batch.digests))
        if changed.size:
            index = mini_batch.indices[int(changed[0])]
            raise ImageError(
                recipe.images.paths[index],
                "the picture has changed since this run used it",
                "the pictures the run began with",
                "restore it, or go on with today's pictures by -allow-change",
            )
        yield mini_batch
