"""`relume replay`: the pictures of one iteration, exactly as it was or will be trained on."""

import math
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from relume.checkpoint.course import CHANGE, Meaning, differences
from relume.checkpoint.folder import newest_good
from relume.checkpoint.state import RecipeRecord, TrainState
from relume.command_table import Values
from relume.commands.outputs import Kind, Outputs
from relume.commands.training_flags import flags_of
from relume.contact_sheet import Tile, contact_sheet, format_sheet, is_sheet
from relume.data.batch import MiniBatch, mini_batches
from relume.data.patience import Patience
from relume.drawing import Label
from relume.errors import UsageError
from relume.formats.cfg import read_cfg
from relume.schedule import input_size, learning_rate
from relume.screen import Screen
from relume.spec import RunSpec, read_spec, run_name
from relume.train.batches import source_of
from relume.train.capture import PICTURES
from relume.train.start import in_todays_form

SHEET = Kind("sheet of replay", is_sheet)
MOST_TOLD = 3
MOST_TILES = 144
"""On one sheet: 12 by 12 can still be seen, and loaded in seconds."""
READ_AHEAD = 16
"""Pictures under way while one is waited for."""


def replay(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Write a contact sheet of iteration N's pictures; nothing else is trained or loaded."""
    data, cfg = arguments
    net = read_cfg(cfg, "train").net
    iteration = _within(flags, "-iteration", "one of the run's iterations", net.max_batches)
    pages = math.ceil(net.batch / MOST_TILES)
    page = _within(flags, "-page", f"a page of {MOST_TILES} pictures", pages)
    more = f"_page{page}" * (page > 1)
    out = _out(flags, f"replay_{run_name(cfg)}_{iteration}{more}.png")
    outputs = Outputs([data, cfg], flags)
    outputs.check(out, SHEET, "-out")
    spec = read_spec(data, cfg, flags_of(flags), screen.warn)
    run = _Run.of(spec)
    shown = range(net.batch)[(page - 1) * MOST_TILES : page * MOST_TILES]
    loaded = _loaded(spec, iteration, shown)
    width, height = input_size(spec.recipe.cfg, spec.recipe.seed, iteration)
    rate = learning_rate(net, iteration)
    what = f"{width}x{height}, rate {rate:g}, seed {spec.recipe.seed}"
    title = f"{spec.operation.name}, iteration {iteration} of {net.max_batches}: {what}"
    title += f", page {page} of {pages}" * (pages > 1)
    sheet = contact_sheet(_tiles(spec, loaded, shown.start), title)
    outputs.reads(spec.recipe.images.paths)
    outputs.write(out, SHEET, format_sheet(sheet))
    for text in run.doubts(spec, iteration, loaded):
        screen.warn(text)
    screen.line(
        f"iteration {iteration}, {run.tense(iteration)}: {net.batch} pictures, {what}; sheet: {out}"
    )
    if pages > 1:
        screen.line(
            f"the sheet shows pictures {shown.start + 1} to {shown.stop}: page {page} of {pages}; "
            "-page P shows others"
        )
    return 0


def _within(flags: Values, name: str, what: str, last: int) -> int:
    """Return a number of 1 to `last`; 1 if it is not given."""
    number = int(flags.get(name, 1))
    if not 1 <= number <= last:
        raise UsageError(name, str(number), f"{what}, 1 to {last}")
    return number


def _loaded(spec: RunSpec, iteration: int, shown: range) -> list[MiniBatch]:
    """Return some of an iteration's pictures, each in a mini-batch of its own."""
    recipe, operation = spec.recipe, spec.operation
    net, size = recipe.cfg.net, input_size(recipe.cfg, recipe.seed, iteration)
    first = (iteration - 1) * net.batch
    batches = mini_batches(
        # How many stand in a mini-batch changes none of them.
        replace(source_of(spec), net=replace(net, subdivisions=net.batch)),
        range(first + shown.start, first + shown.stop),
        lambda position: size,
        workers=operation.workers,
        read_ahead=READ_AHEAD,
        patience=Patience(),
    )
    with closing(batches):
        return list(batches)


def _out(flags: Values, usual: str) -> Path:
    """Return the file to write."""
    out = Path(str(flags.get("-out", usual)))
    if out.suffix.lower() != ".png":
        raise UsageError("-out", str(out), "a name that ends in .png")
    return out


def _tiles(spec: RunSpec, loaded: list[MiniBatch], before: int) -> list[Tile]:
    names, images = spec.recipe.names, spec.recipe.images
    tiles: list[Tile] = []
    for mini_batch in loaded:
        height, width = mini_batch.images.shape[1:3]
        for row, picture in enumerate(mini_batch.images):
            rgb = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
            labels = [
                Label(names[kind], int(kind), _edges_px(box, width, height))
                for kind, box in zip(
                    mini_batch.classes[row], mini_batch.boxes_xywh_rel[row].tolist(), strict=True
                )
                if kind >= 0
            ]
            used = mini_batch.indices[mini_batch.pictures_of(row)]
            count = f"{before + len(tiles) + 1}: {len(labels)} box{'es' * (len(labels) != 1)}"
            lines = "+".join(str(images.lines[index]) for index in used)
            place = f"{Path(images.path).name}:{lines}"
            # The names of several pictures have no room; their lines in the list mostly have.
            caption = (f"{count}, {place}", str(images.paths[used[0]]))
            tiles.append(Tile(rgb, labels, caption if len(used) == 1 else (count, place)))
    return tiles


def _edges_px(box: list[float], width: int, height: int) -> tuple[float, float, float, float]:
    x, y, w, h = box
    left, right = ((x + side * w / 2) * width for side in (-1, 1))
    top, bottom = ((y + side * h / 2) * height for side in (-1, 1))
    return left, top, min(right, width - 1), min(bottom, height - 1)


@dataclass(frozen=True)
class _Run:
    """What the backup folder knows of this run."""

    path: Path | None = None
    state: TrainState | None = None

    @classmethod
    def of(cls, spec: RunSpec) -> "_Run":
        found, _ = newest_good(spec.operation.backup, spec.operation.name)
        return cls() if found is None else cls(found.path, in_todays_form(found.state, spec))

    def tense(self, iteration: int) -> str:
        done = self.state is not None and self.state.iteration >= iteration
        return "trained" if done else "not trained yet"

    def doubts(self, spec: RunSpec, iteration: int, loaded: list[MiniBatch]) -> list[str]:
        """Return why the sheet may not show what the run trained on, a line each."""
        if self.state is None:
            return []
        recipe = spec.recipe
        today = RecipeRecord(
            cfg_text=recipe.cfg.text,
            keys={**recipe.keys(), "start": self.state.recipe.keys["start"]},
            names=recipe.names,
            label_digests=recipe.label_digests(),
        )
        doubts = [
            f"{self.path} has another recipe: {difference}; the sheet shows today's"
            for difference in differences(self.state, today)
            if difference.meaning in (Meaning.COURSE, Meaning.IMPOSSIBLE)
        ]
        changes = [mark for mark in self.state.history.marks if mark.kind == CHANGE]
        if any(iteration <= mark.iteration for mark in changes):
            doubts.append(
                f"the recipe of this run was changed after iteration {changes[-1].iteration}; "
                "the sheet shows today's"
            )
        return doubts + self._changed_pictures(spec, loaded)

    def _changed_pictures(self, spec: RunSpec, loaded: list[MiniBatch]) -> list[str]:
        assert self.state is not None
        known, images = self.state.groups[PICTURES]["digests"], spec.recipe.images
        if len(known) != len(images.paths):
            return []
        changed = sorted(
            {
                int(index)
                for mini_batch in loaded
                for index, digest in zip(mini_batch.indices, mini_batch.digests, strict=True)
                if known[index] not in (0, digest)
            }
        )
        told = ", ".join(str(images.paths[index]) for index in changed[:MOST_TOLD])
        more = f" and {len(changed) - MOST_TOLD} more" if len(changed) > MOST_TOLD else ""
        return [f"changed since this run used them: {told}{more}"] if changed else []
