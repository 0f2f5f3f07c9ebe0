"""Small runs that differ in everything that could matter to a run that is interrupted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relume.demo_pictures import write_data_set
from tests.cfg_texts import small_cfg, small_residual_cfg
from tests.contract.processes import Relume

VARIANTS = 26


@dataclass(frozen=True)
class Variant:
    """The inputs of a run, and how many threads load its pictures."""

    cfg_text: str
    data_keys: str
    workers: int

    @property
    def words(self) -> Sequence[str]:
        """The command line that trains it."""
        train = ("detector", "train", "obj.data", "net.cfg")
        return (*train, "-threads", "1", "-workers", str(self.workers))


def variant(number: int, max_batches: int) -> Variant:
    """Return the variant of this number: VARIANTS of them, no two alike.

    The lists are of different lengths, so their members meet in ever other combinations.
    """
    subdivisions = (1, 2, 4, 5, 2)[number % 5]
    options: dict[str, object] = {
        "max_batches": max_batches,
        "batch": 5 if subdivisions == 5 else 4,
        "subdivisions": subdivisions,
        "burn_in": 3,
        "policy": "steps",
        "steps": f"{max_batches // 3},{max_batches // 2}",
        "scales": ".5,.1",
        "saturation": 1.5,
        "exposure": 1.5,
        "hue": 0.1,
        "resize_step": 16,
        "yolo": {"jitter": 0.3, "random": (1, 1, 0)[number % 3]},
    }
    mixed: tuple[dict[str, object], ...] = (
        {},
        {"mosaic": 1, "mosaic_bound": 1, "blur": 3},
        {"mixup": 1, "letter_box": 1, "gaussian_noise": 20},
    )
    options |= mixed[number // 4 % 3]
    if number % 2:
        options |= {"adam": 1, "B1": 0.9, "B2": 0.999}
    if number // 2 % 2:
        cfg_text = small_residual_cfg(**options)  # type: ignore[arg-type]
    else:
        cfg_text = small_cfg(dropout=(0.2, 0.0)[number // 4 % 2], **options)  # type: ignore[arg-type]
    savelast = ("savelast = 1\n", "savelast = auto\n", "savelast = 3\n")[number // 2 % 3]
    keepstate = ("", "keepstate = 1\n", "", "keepstate = 2\n")[number % 4]
    sampling = ("", "sampling = replacement\n")[number // 5 % 2]
    keys = f"saveweights = {(4, 7, 5)[number % 3]}\n{savelast}{keepstate}{sampling}"
    keys += f"seed = {number}\n"
    return Variant(cfg_text, keys, workers=(0, 1, 3)[number // 3 % 3])


def write_variant(folder: Path, variant: Variant) -> Path:
    """Write its pictures, data file and cfg into a new folder and return it."""
    write_data_set(folder, seed=3, train=7, valid=1, side_px=72)
    data = folder / "obj.data"
    data.write_text(data.read_text() + variant.data_keys)
    (folder / "net.cfg").write_text(variant.cfg_text)
    return folder


def trained(folder: Path, variant: Variant) -> Path:
    """Train to the end, or on to it, and return the folder."""
    process = Relume(folder, *variant.words)
    status = process.ended()
    assert status == 0, f"exit status {status}: {process.output[-2000:]}"
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Return all files of a run by name, but its log and its lock; also any moved aside."""
    backup = folder / "backup"
    paths = [path for path in backup.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(backup)): path.read_bytes()
        for path in paths
        if path.suffix not in (".log", ".lock")
    }


def differences(folder: Path, straight: Path) -> list[str]:
    """Name the files in which a finished run differs from an undisturbed one."""
    files, expected = files_of(folder), files_of(straight)
    found = []
    for name in sorted(files.keys() | expected.keys()):
        if name not in files or name not in expected:
            found.append(f"{name} is {'missing' if name in expected else 'one too many'}")
        elif files[name] != expected[name]:
            found.append(f"{name} differs")
    return found
