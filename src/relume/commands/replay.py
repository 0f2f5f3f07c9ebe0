"""`relume replay`: the pictures of one iteration, exactly as it was or will be trained on."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from relume.checkpoint import storage
from relume.checkpoint.course import CHANGE, Meaning, differences
from relume.checkpoint.folder import newest_good
from relume.checkpoint.state import RecipeRecord, TrainState
from relume.command_table import Values
from relume.contact_sheet import Tile, contact_sheet
from relume.data.batch import MiniBatch
from relume.data.patience import Patience
from relume.drawing import Label
from relume.errors import UsageError
from relume.schedule import input_size, learning_rate
from relume.screen import Screen
from relume.spec import Flags, RunSpec, read_spec
from relume.train.batches import batches_of
from relume.train.capture import PICTURES
from relume.train.start import in_todays_form

MOST_TOLD = 3


def replay(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Write a contact sheet of iteration N's pictures; nothing else is trained or loaded."""
    data, cfg = arguments
    spec = read_spec(data, cfg, _flags(flags), screen.warn)
    iteration = _iteration(flags, spec)
    net = spec.recipe.cfg.net
    out = _out(flags, f"replay_{spec.operation.name}_{iteration}.png")
    run = _Run.of(spec)
    first = (iteration - 1) * net.batch
    batches = batches_of(spec, first, Patience(), end_position=first + net.batch)
    with closing(batches):
        loaded = list(batches)
    width, height = input_size(spec.recipe.cfg, spec.recipe.seed, iteration)
    rate = learning_rate(net, iteration)
    what = f"{width}x{height}, rate {rate:g}, seed {spec.recipe.seed}"
    title = f"{spec.operation.name}, iteration {iteration} of {net.max_batches}: {what}"
    sheet = contact_sheet(_tiles(spec, loaded), title)
    _, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    storage.write_durably(out, png.tobytes())
    for text in run.doubts(spec, iteration, loaded):
        screen.warn(text)
    screen.line(
        f"iteration {iteration}, {run.tense(iteration)}: {net.batch} pictures, {what}; sheet: {out}"
    )
    return 0


def _flags(flags: Values) -> Flags:
    seed, workers = flags.get("-seed"), flags.get("-workers")
    return Flags(
        seed=None if seed is None else int(seed), workers=None if workers is None else int(workers)
    )


def _iteration(flags: Values, spec: RunSpec) -> int:
    last = spec.recipe.cfg.net.max_batches
    needed = f"one of the run's iterations, 1 to {last}"
    if "-iteration" not in flags:
        raise UsageError("-iteration", "is missing", needed)
    iteration = int(flags["-iteration"])
    if not 1 <= iteration <= last:
        raise UsageError("-iteration", str(iteration), needed)
    return iteration


def _out(flags: Values, usual: str) -> Path:
    """Return the file to write: a slip of the hand shall replace no cfg and no photograph."""
    out = Path(str(flags.get("-out", usual)))
    if out.suffix.lower() != ".png":
        raise UsageError("-out", str(out), "a name that ends in .png")
    return out


def _tiles(spec: RunSpec, loaded: list[MiniBatch]) -> list[Tile]:
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
            count = f"{len(tiles) + 1}: {len(labels)} box{'es' * (len(labels) != 1)}"
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
