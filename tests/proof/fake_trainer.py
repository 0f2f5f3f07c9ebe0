"""Stands in for `relume`: trains nothing, but leaves the files of a run, and can be killed.

    python -m tests.proof.fake_trainer MODE detector train DATA CFG ... -tensor_digests FILE

It starts in a tenth of a second, since it needs no PyTorch. MODE: sound; forgetful (what it
computes after a restart is wrong); restless (no two runs are the same); failing; struck (dies by a
signal); silent (tells no iteration); endless.
"""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from relume.checkpoint import container
from relume.checkpoint.own_files import remove_temporaries
from relume.checkpoint.state import TrainState
from relume.checkpoint.storage import locked, write_durably
from relume.checkpoint.tensor_digests import TensorDigests
from relume.formats.cfg import read_cfg
from relume.formats.data_files import read_data_file
from tests.checkpoint.states import tiny_state

ITERATION_S = 0.02


def say(text: str) -> None:
    print(text, flush=True)


def state_after(iteration: int, mode: str, resumed: bool) -> TrainState:
    """Return the state after an iteration, wrong in one tensor if the mode says so."""
    state = tiny_state(iteration)
    wrong = mode == "restless" and iteration == 3
    if not (wrong or (mode == "forgetful" and resumed)):
        return state
    noise = os.urandom(1)[0] / 256 if wrong else 0.0
    momentum = dict(state.groups["momentum"])
    momentum["1.biases"] = np.full_like(momentum["1.biases"], noise)
    return replace(state, groups={**state.groups, "momentum": momentum})


def main() -> int:
    """Play a start of a run."""
    mode, _, _, data, cfg, *words = sys.argv[1:]
    backup = Path(read_data_file(data).text("backup"))
    end = read_cfg(cfg, "train").net.max_batches
    last = backup / f"{Path(cfg).stem}_last.weights"
    backup.mkdir(exist_ok=True)
    (backup / f"{Path(cfg).stem}.log").write_text(f"{os.getpid()}\n")
    if mode == "failing":
        say("relume: error: a.jpg: cannot be read; a picture")
        return 2
    with locked(backup, Path(cfg).stem):
        remove_temporaries(backup, Path(cfg).stem, say)
        return train(mode, last, end, Path(words[words.index("-tensor_digests") + 1]))


def train(mode: str, last: Path, end: int, digest_file: Path) -> int:
    """Go on from `last`, if it is there, to the end."""
    done = 0
    if last.exists():
        done = container.unpack(last.read_bytes(), last).iteration
        say(f"relume: goes on from {last} (iteration {done})")
    say("relume: start.weights: fills all layers")
    say("relume: seed 0, 1 thread, backup x")
    digests = TensorDigests(digest_file, say)
    resumed = done > 0
    state = state_after(done, mode, resumed=False)
    digests.append(state, start=True)
    for iteration in range(done + 1, end + 1):
        time.sleep(ITERATION_S)
        if mode == "struck" and iteration == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        state = state_after(iteration, mode, resumed)
        write_durably(last, container.pack(state))
        digests.append(state)
        if mode != "silent":
            say(f" {iteration}: 1.0, 1.0 avg loss, 0.1 rate, 0.1 seconds, 2 images, 0 hours left")
        while mode == "endless" and iteration == 5:
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
