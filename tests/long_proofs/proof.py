"""`make prove`: the long proofs. Interrupt it as you like; the same command goes on.

    python -m tests.long_proofs [-h] [--seed S] [--processes N] [--only PART]

What has been proven stands in .prove/ledger.jsonl, for this very source: a changed file, another
library or another seed begins anew. The folder of a piece that failed stays in .prove/failed/.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tests.long_proofs import (
    chain,
    controls,
    damage,
    folder_events,
    kills,
    power_cuts,
    processors,
    refusals,
    syscalls,
)
from tests.long_proofs.ledger import ROOT, Ledger, digest_of_source
from tests.long_proofs.piece import Outcome, Piece, leave

FOLDER = ROOT / ".prove"
LONG_TESTS = (
    *(
        f"tests/contract/test_{name}.py"
        for name in (
            *("bccd", "full_size", "launch", "machines", "portable", "processes", "prove"),
            *("torchrun", "workers"),
        )
    ),
    "tests/attacks/test_crafted_checkpoints.py",
    "tests/attacks/test_code_in_data_folder.py",
    "tests/checking/test_fuzz.py",
    "tests/data/test_order_of_every_size.py",
    "tests/distributed/test_plan.py",
    "tests/export/test_full_size.py",
)
"""All files that hold a test marked `long`."""
PROMISED = {
    "controls": {"controls": len(controls.CONTROLS)},
    "chain": {"resumes": 200},
    "kills": {"kills": 1000, "runs": 20, "kills of cold starts": 100},
    "system calls": {"kills at system calls": 450},
    "folder events": {"sequences": folder_events.SEQUENCES},
    "power cuts": {"states": 100_000},
    "refusals": {"refusals": 300},
    "damage": {"flips": 100_000},
    "processors": {"files of tests": 2 * len(processors.FILES)},
    "long tests": {},
}
"""What each part must have counted, at least."""


def long_test(folder: Path, path: str) -> Outcome:
    """Run a file of tests that are marked `long`."""
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-m", "long", path]
    command += ["--basetemp", str(folder / "tmp"), "-p", "no:cacheprovider"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    passed = ended.returncode == 0
    return Outcome({"files of tests": 1}, () if passed else (ended.stdout[-4000:],))


def all_pieces(seed: int) -> list[Piece]:
    """Return everything, the parts that take longest first."""
    made = [Piece("long tests", Path(path).stem, long_test, (path,)) for path in LONG_TESTS]
    parts = (processors, controls, chain, kills, syscalls, folder_events, power_cuts, refusals)
    for part in (*parts, damage):
        made += part.pieces(seed)
    return made


def done(piece: Piece) -> tuple[Outcome, float]:
    """Prove one piece, in a process of its own."""
    began_s = time.monotonic()
    name = re.sub(r"\W+", "_", f"{piece.part} {piece.name}")
    folder = FOLDER / "work" / f"{name}_{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        outcome = piece.prove(folder, *piece.arguments)
    except Exception:  # whatever it is, it is no proof
        outcome = Outcome({}, (traceback.format_exc(),))
    if outcome.failures:
        (FOLDER / "failed").mkdir(exist_ok=True)
        shutil.move(folder, FOLDER / "failed" / folder.name)
    shutil.rmtree(folder, ignore_errors=True)
    return outcome, time.monotonic() - began_s


def _begin_alone() -> None:
    """Keep Ctrl-C away from this process, and let it end at once when it is told to."""
    os.setpgrp()
    signal.signal(signal.SIGTERM, lambda number, frame: leave())


def proven(ledger: Ledger, pieces: list[Piece], processes: int) -> None:
    """Prove what the ledger does not hold yet, and say a line about each."""
    left = [piece for piece in pieces if not ledger.proven(piece)]
    print(f"{len(pieces) - len(left)} of {len(pieces)} pieces are proven already", flush=True)
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, spawn, initializer=_begin_alone)
    futures = {pool.submit(done, piece): piece for piece in left}
    for number, future in enumerate(as_completed(futures), start=1):
        piece = futures[future]
        entry = ledger.add(piece, *future.result())
        counts = ", ".join(f"{count:,} {name}" for name, count in entry.counts.items() if count)
        said = "FAILED" if entry.failures else "ok"
        line = f"{number}/{len(left)} {piece.part}: {piece.name}: {counts}"
        print(f"{line}; {entry.seconds:.0f} s: {said}", flush=True)
        for failure in entry.failures:
            print(f"    {failure}", flush=True)
    pool.shutdown()


def verdict(ledger: Ledger, pieces: list[Piece]) -> bool:
    """Print the final table; tell whether all that was promised has been shown."""
    whole = True
    print()
    for part in dict.fromkeys(piece.part for piece in pieces):
        entries = ledger.of_part(part)
        total = sum((Outcome(e.counts, tuple(e.failures)) for e in entries), Outcome())
        missing = [piece for piece in pieces if piece.part == part and not ledger.proven(piece)]
        short = [n for n, least in PROMISED[part].items() if total.counts.get(n, 0) < least]
        good = not missing and not short and not total.failures
        whole &= good
        counts = ", ".join(f"{count:,} {name}" for name, count in total.counts.items() if count)
        seconds = sum(entry.seconds for entry in entries)
        print(f"{part:13} {'proven' if good else 'NOT PROVEN':10} {seconds:6.0f} s  {counts}")
        for name in short:
            print(f"{'':13} too few {name}: {PROMISED[part][name]:,} are promised")
    return whole


def main() -> int:
    """Prove everything, or one part."""
    parser = argparse.ArgumentParser(prog="make prove", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of every draw")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", choices=PROMISED, action="append", help="leave out other parts")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    source = digest_of_source(options.seed)
    print(f"source {source}, seed {options.seed}, {options.processes} processes")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    pieces = all_pieces(options.seed)
    pieces = [p for p in pieces if options.only is None or p.part in options.only]
    ledger = Ledger(FOLDER / "ledger.jsonl", source)
    began_s = time.monotonic()
    try:
        proven(ledger, pieces, options.processes)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", flush=True)
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.killpg(child.pid, signal.SIGTERM)
        os._exit(128 + signal.SIGINT)  # waits for no piece
    whole = verdict(ledger, pieces)
    minutes = (time.monotonic() - began_s) / 60
    print(f"\n{'PROVEN' if whole else 'NOT PROVEN'}: source {source}, {minutes:.1f} minutes now")
    return 0 if whole else 1
