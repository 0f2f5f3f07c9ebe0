"""Small real runs for the contract tests: drawn pictures, a small net, everything in one folder."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from relume.checkpoint.keeper import Keeper
from relume.checkpoint.state import TrainState
from relume.data.batch import MiniBatch
from relume.demo_pictures import write_data_set
from relume.evaluate.average_precision import Evaluation
from relume.model.network import Network
from relume.spec import Flags, RunSpec, read_spec
from relume.train import loop, step
from relume.train.environment import declare
from relume.train.evaluation import evaluation_due
from relume.train.journal import Journal
from relume.train.loop import Stop
from relume.train.partial import Share
from relume.train.start import StartFlags, starting_state
from relume.train.step import Report
from tests.cfg_texts import small_cfg

CPU = torch.device("cpu")
AUGMENTED = {"saturation": 1.5, "exposure": 1.5, "hue": 0.1, "resize_step": 16}
MOVING = {"jitter": 0.3, "random": 1}


def sgd_cfg(max_batches: int = 200, **options: object) -> str:
    """Momentum, decay, burn-in, a step inside the run, augmentation, multi-scale, dropout."""
    return small_cfg(
        **{
            "dropout": 0.2,
            "yolo": MOVING,
            "burn_in": 3,
            "policy": "steps",
            "steps": "7,10",
            "scales": ".5,.1",
            "max_batches": max_batches,
            **AUGMENTED,
            **options,
        }  # type: ignore[arg-type]
    )


def adam_cfg(max_batches: int = 200, **options: object) -> str:
    """The same with Adam."""
    return sgd_cfg(max_batches, adam=1, B1=0.9, B2=0.999, **options)


def write_run(folder: Path, cfg_text: str) -> Path:
    """Write pictures, data file and net.cfg into `folder` and return it."""
    write_data_set(folder, seed=3, train=7, valid=1, side_px=72)
    (folder / "net.cfg").write_text(cfg_text)
    return folder


def copied_run(source: Path, target: Path) -> Path:
    """Copy the inputs of a run (not its backup folder) into `target` and return it."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("backup"))
    return target


def read_run(folder: Path, flags: Flags | None = None, **operation: int) -> RunSpec:
    """Read the run in `folder`."""
    files = (str(folder / "obj.data"), str(folder / "net.cfg"))
    spec = read_spec(*files, flags or Flags(), pytest.fail)
    return replace(spec, operation=replace(spec.operation, **operation))  # type: ignore[arg-type]


def train_until(
    folder: Path,
    iteration: int | None = None,
    start: StartFlags | None = None,
    said: list[str] | None = None,
    subdivision: int = 0,
    flags: Flags | None = None,
    evaluated: bool = False,
    **operation: int,
) -> TrainState:
    """Start or go on as the command does, in this process; stop after `iteration`.

    And, if `subdivision` is not 0, after so many subdivisions of the next one. An evaluation
    that is due there is begun, and done only if `evaluated`. What is said is added to `said`;
    without it, the training has nothing to say.
    """
    operation = {"workers": 0, "savelast": 1, **operation}
    spec = read_run(folder, flags, **operation)
    state = start_of(folder, start, said, flags)
    end = None if iteration is None else (iteration, subdivision)
    waits = evaluated and evaluation_due(spec.recipe, state)
    stop = Stop(requested=end is not None and state.reached >= end and not waits)
    done = list(state.reached)

    def watch(state: TrainState, report: Report | Evaluation) -> None:
        done[:] = state.reached
        waits = evaluated and evaluation_due(spec.recipe, state)
        stop.requested = state.reached == end and not waits

    def train_subdivision(network: Network, share: Share, mini_batch: MiniBatch) -> None:
        step.train_subdivision(network, share, mini_batch)
        done[1] += 1
        stop.requested = tuple(done) == end

    folder, name = spec.operation.backup, spec.operation.name
    warn = pytest.fail if said is None else said.append
    keeper = Keeper(folder, name, spec.operation.savelast, spec.operation.saveweights, warn)
    journal = Journal(folder / f"{name}.journal.jsonl", state.history, pytest.fail)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_subdivision", train_subdivision)
        try:
            return loop.train(spec, loop.begin(spec, state, CPU), keeper, journal, stop, watch)
        finally:
            journal.close()


def start_of(
    folder: Path,
    start: StartFlags | None = None,
    said: list[str] | None = None,
    flags: Flags | None = None,
) -> TrainState:
    """Return the state from which the run in `folder` goes on."""
    spec = read_run(folder, flags)
    spec.operation.backup.mkdir(exist_ok=True)
    environment = declare(torch.get_num_threads(), CPU)
    said = [] if said is None else said
    return starting_state(spec, start or StartFlags(), environment, said.append)


def promised_files(folder: Path) -> dict[str, bytes]:
    """Return the files under the promise by name: weights, backups, journal."""
    suffixes = (".weights", ".backup", ".jsonl")
    files = sorted((folder / "backup").iterdir())
    return {path.name: path.read_bytes() for path in files if path.suffix in suffixes}
