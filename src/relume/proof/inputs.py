"""What the runs of a proof are trained on: the user's cfg and data file, with few lines changed.

In the cfg `max_batches`; in the data file `backup`, the intervals of saving where a run so short
would never save, and every path as it was found, since the copy lies in another folder.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from relume.checkpoint import storage
from relume.formats.cfg import parse_cfg
from relume.formats.data_files import DataFile, ImageList, resolve
from relume.formats.lexer import decode_text, split_sections
from relume.formats.places import is_url, read_regular
from relume.formats.sections import Cfg
from relume.formats.weights import layout
from relume.schedule import input_size, learning_rate
from relume.spec import AUTO, RunSpec

STRAIGHT, INTERRUPTED, AGAIN = "straight", "interrupted", "again"
"""The runs of a proof: undisturbed, killed, and undisturbed once more if the two differ."""
GENERATIONS = 3
"""Files of a whole state that a save can need at once: the new one, the last, the one before."""


@dataclass(frozen=True)
class ProofPlan:
    """What is proven: the user's run, over the iterations from `start` to `end`."""

    spec: RunSpec
    data_file: DataFile
    start: int
    """Iterations that WEIGHTS have behind them."""
    end: int
    kills: int
    folder: Path
    """Of the proof, absolute."""

    @property
    def iterations(self) -> int:
        """Iterations that every run of the proof trains."""
        return self.end - self.start

    @property
    def name(self) -> str:
        """NAME of the runs, that of the user's."""
        return self.spec.operation.name

    @property
    def cfg(self) -> Path:
        """The copy of the cfg."""
        return self.folder / f"{self.name}.cfg"

    def data(self, run: str) -> Path:
        """Return the data file of one run."""
        return self.folder / f"{run}.data"

    def backup(self, run: str) -> Path:
        """Return the folder that one run leaves its files in."""
        return self.folder / run

    def digests(self, run: str) -> Path:
        """Return the file of one run's tensor digests."""
        return self.folder / f"{run}.digests.jsonl"

    def log(self, run: str) -> Path:
        """Return the file that holds what one run printed."""
        return self.folder / f"{run}.log"

    @property
    def savelast(self) -> int:
        """An interval at which a start that is killed has mostly saved something."""
        return max(1, self.iterations // (2 * (self.kills + 1)))

    @property
    def savelast_of_starts(self) -> tuple[str, ...]:
        """savelast of the interrupted run's starts, in turn.

        The user's own, if so short a run saves by it; `auto` takes turns with an interval, since
        it may save once a start; what is longer than a start makes room for an interval.
        """
        own = self.spec.operation.savelast
        if own is None:
            return (AUTO, str(self.savelast))
        return (str(own),) if own <= self.iterations // (self.kills + 1) else (str(self.savelast),)

    @property
    def saveweights(self) -> int:
        """The user's own, if a milestone falls into the run; else one in the middle."""
        return min(self.spec.operation.saveweights, max(1, self.iterations // 2))


def write_inputs(plan: ProofPlan) -> None:
    """Write the cfg and the lists of pictures, the same for all runs.

    Raises:
        StorageError: the folder cannot be written.
    """
    text = shortened(read_regular(plan.spec.recipe.cfg.path), plan.end)
    storage.write_durably(plan.cfg, text)
    # As found from the current folder, in which the trainers work too.
    for key, images in _lists(plan).items():
        lines = "".join(f"{path}\n" for path in images.paths)
        storage.write_durably(_list(plan, key), lines.encode("utf-8", "surrogateescape"))


def write_data_file(plan: ProofPlan, run: str, savelast: str) -> None:
    """Write the data file of one run.

    Raises:
        StorageError: the folder cannot be written.
    """
    values = dict(plan.data_file.values)
    for key in ("names", "valid", "map"):
        if key in values and not is_url(values[key]):
            values[key] = str(resolve(values[key], plan.data_file.path))
    values |= {
        **{key: str(_list(plan, key)) for key in _lists(plan)},
        "backup": str(plan.backup(run)),
        "savelast": savelast,
        "saveweights": str(plan.saveweights),
        "cache": str(plan.spec.operation.cache),
    }
    text = "".join(f"{key} = {value}\n" for key, value in values.items())
    storage.write_durably(plan.data(run), text.encode("utf-8", "surrogateescape"))


def _lists(plan: ProofPlan) -> dict[str, ImageList]:
    """Return the lists that the runs read, by the keys that name them."""
    recipe = plan.spec.recipe
    if recipe.evaluations is None:
        return {"train": recipe.images}
    valid = recipe.evaluations.valid
    lists = {"train": recipe.images, "valid": valid.images}
    return lists if valid.difficult is None else {**lists, "difficult": valid.difficult}


def _list(plan: ProofPlan, key: str) -> Path:
    return plan.folder / f"{key}.txt"


def shortened(cfg: bytes, max_batches: int) -> bytes:
    """Return the cfg with another max_batches; every other byte stays."""
    (net, *_) = split_sections(decode_text(cfg), "cfg")
    lines = cfg.split(b"\n")
    written = b"max_batches=%d" % max_batches
    if "max_batches" in net.options:
        line = net.options["max_batches"].line - 1
        lines[line] = written + b"\r" * lines[line].endswith(b"\r")
    else:
        lines.insert(net.line, written + b"\r" * lines[net.line - 1].endswith(b"\r"))
    return b"\n".join(lines)


def schedule_changes(plan: ProofPlan) -> str:
    """Say where the copy of the cfg trains otherwise than the user's; empty: nowhere.

    Some things in a cfg are counted from its end, so max_batches moves them.
    """
    cfg, seed = plan.spec.recipe.cfg, plan.spec.recipe.seed
    text = shortened(read_regular(cfg.path), plan.end)
    short = parse_cfg(decode_text(text), cfg.path, "train")
    iterations = range(plan.start + 1, plan.end + 1)
    rates = [i for i in iterations if learning_rate(cfg.net, i) != learning_rate(short.net, i)]
    sizes = [i for i in iterations if input_size(cfg, seed, i) != input_size(short, seed, i)]
    found = [(rates, "another rate"), (sizes, "another input size")]
    return " and ".join(f"{len(which)} have {what}" for which, what in found if which)


def needed_bytes(plan: ProofPlan) -> int:
    """Return about how much disk the two runs fill."""
    weights, state = _size_bytes(plan.spec.recipe.cfg)
    first = plan.start // plan.saveweights
    milestones = plan.end // plan.saveweights - first
    copies = 2 if milestones else 0  # of the newest milestone, and of the one before it
    best = plan.spec.recipe.evaluations is not None
    return 2 * ((GENERATIONS + milestones + copies + best) * state + weights)


def _size_bytes(cfg: Cfg) -> tuple[int, int]:
    """Return the sizes of plain weights and of a state."""
    weights = sum(array.size_bytes for array in layout(cfg))
    return weights, weights * (3 if cfg.net.adam else 2)


def in_folder(spec: RunSpec, folder: Path) -> RunSpec:
    """Return the run with its files in another folder."""
    return replace(spec, operation=replace(spec.operation, backup=folder))
