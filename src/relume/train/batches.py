"""The mini-batches of a run, from any position on, and that no picture has changed meanwhile."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from relume.data.batch import MiniBatch, mini_batches
from relume.data.patience import Patience
from relume.data.sample import Source
from relume.distributed.group import ALONE, Group
from relume.distributed.tree import shares_of
from relume.errors import ImageError, LabelError, RelumeError
from relume.formats.data_files import ImageList
from relume.formats.rows import Listed, Rows
from relume.formats.sections import Net
from relume.lists.label_files import PICTURE_BITS, LabelFiles
from relume.schedule import input_size
from relume.spec import REPLACEMENT, SKIP, Recipe, RunSpec
from relume.train.partial import Partial

PICTURE = "picture"


def source_of(spec: RunSpec) -> Source:
    """Return what the samples of a run are made of."""
    recipe = spec.recipe
    return Source(
        net=recipe.cfg.net,
        head=recipe.cfg.heads[-1],
        seed=recipe.seed,
        image_paths=recipe.images.paths,
        places=places_of(recipe.images),
        labels=recipe.labels,
        skips_bad=spec.operation.bad == SKIP,
        max_pixels=spec.operation.max_pixels,
        with_replacement=recipe.sampling == REPLACEMENT,
    )


def places_of(images: ImageList) -> Listed[str]:
    """Return where each picture was named, for messages."""
    return Rows(len(images.lines), lambda row: f"{images.path}:{images.lines[row]}")


def batches_of(
    spec: RunSpec, first_position: int, patience: Patience, group: Group = ALONE
) -> Generator[MiniBatch]:
    """Yield the mini-batches from `first_position` on: a pure function of the recipe.

    Args:
        spec: what to train, and with how many hands.
        first_position: of a mini-batch.
        patience: with a disk that does not give a picture.
        group: only those that this process trains come.
    """
    recipe, operation = spec.recipe, spec.operation
    cfg = recipe.cfg

    def size_of(position: int) -> tuple[int, int]:
        return input_size(cfg, recipe.seed, position // cfg.net.batch + 1)

    return mini_batches(
        source_of(spec),
        _firsts(cfg.net, first_position, group),
        size_of,
        workers=operation.workers,
        read_ahead=operation.read_ahead,
        patience=patience,
    )


def _firsts(net: Net, first_position: int, group: Group) -> Iterator[int]:
    """Yield the first position of every mini-batch that this process trains."""
    begun, inside = divmod(first_position, net.batch)
    for iteration in range(begun, net.max_batches):
        done = inside // net.mini_batch if iteration == begun else 0
        for subdivision in shares_of(done, net.subdivisions, group.size)[group.rank]:
            yield iteration * net.batch + subdivision * net.mini_batch


def unchanged(
    batches: Iterator[MiniBatch],
    pictures: npt.NDArray[np.uint64],
    begun: Partial,
    spec: RunSpec,
    say: Callable[[str], None],
) -> Iterator[MiniBatch]:
    """Pass mini-batches on, but stop at a picture that differs from when it was last used.

    To skip one is to use it, so neither a good picture may turn bad in a run, nor a bad one good.
    A picture that is skipped for the first time is said.

    Args:
        batches: from the next subdivision on.
        pictures: digest of every picture used up to the last whole iteration, kept up to date.
        begun: what the iteration under way has used before.
        spec: of the run.
        say: takes a line of text.
    Raises:
        ImageError, LabelError: a picture, or its labels, have changed.
    """
    images, told = spec.recipe.images, set[int]()
    used = {**dict(zip(begun.rows, begun.digests, strict=True)), **begun.skipped}
    iteration = None
    for mini_batch in batches:
        before, iteration = iteration, mini_batch.positions[0] // spec.recipe.cfg.net.batch
        if before not in (None, iteration):
            used.clear()
        now = zip(mini_batch.indices, mini_batch.digests.tolist(), strict=True)
        for row, digest in (*now, *mini_batch.skipped.items()):
            known = int(pictures[row]) or used.setdefault(row, digest)
            if known != digest:
                raise changed(spec.recipe, row, np.uint64(known ^ digest))
        for row in mini_batch.skipped:
            if not (pictures[row] or row in told):
                place = f"{images.path}:{images.lines[row]}"
                say(f"{place}: {images.paths[row]} cannot be decoded; skipped, as bad=skip says")
                told.add(row)
        yield mini_batch


def changed(recipe: Recipe, index: int, difference: np.uint64) -> RelumeError:
    what, path = changed_file(recipe, index, difference)
    if what == PICTURE:
        return ImageError(
            path,
            "the picture has changed since this run used it",
            "the pictures the run began with",
            "restore it, or go on with today's pictures by -allow-change",
        )
    return LabelError(
        path,
        "the labels have changed since this run used them",
        "the labels the run began with",
        "restore them, or go on with today's by -allow-change",
    )


def changed_file(recipe: Recipe, index: int, difference: np.uint64) -> tuple[str, Path]:
    """Return "picture" or "labels of picture", and the file that is not as it was.

    Args:
        recipe: today's.
        index: row of the picture.
        difference: of the bits that the state had for it, and those of today.
    """
    if isinstance(recipe.labels, LabelFiles) and not difference & PICTURE_BITS:
        return f"labels of {PICTURE}", recipe.labels.path(index)
    return PICTURE, recipe.images.paths[index]
