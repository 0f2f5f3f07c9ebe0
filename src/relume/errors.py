"""The exception tree; every message is one line a user can act on.

RelumeError
├── InputError              a file or argument the user gave
│   ├── UsageError          the command line
│   ├── DataFileError       .data, .names, image lists
│   ├── LabelError          a label file
│   ├── ImageError          a picture
│   │   ├── Undecodable     its bytes are no picture
│   │   └── TooLarge        it has more pixels than may be decoded
│   ├── CfgError            a .cfg
│   └── WeightsError        a Darknet weights file
├── CheckpointError         a relume checkpoint, or the folder of a run
│   ├── Damaged             contents do not match their digest, or are cut
│   ├── Mismatch            tensors of another network
│   ├── OtherRecipe         settings that change the course of the run
│   ├── OtherEnvironment    the run's numeric environment cannot be re-created
│   ├── Locked              another process trains in this folder
│   └── LockLost            the lock file or the folder of this run was removed or replaced
├── StorageError            the file system refused a write
├── Unavailable             a disk does not give what the run needs: the same command, later
├── TrainerEnded            a trainer that `relume prove` watches ended in trouble of its own
└── TrainingError
    ├── NotFinite           loss, gradient or statistics are NaN or infinite
    ├── PeerLost            another process that trains this run has ended
    └── Unconfirmed         the processes of one run were not found to hold the same state

`cli.main` turns a RelumeError into one line and exit status 2 (TrainingError: 1, Unavailable:
75, that of a stopped run); anything else is our own bug and shows its traceback.
"""

from relume.control_characters import escape_controls

TEMPORARY_FAILURE = 75
"""Exit status of a stopped run (EX_TEMPFAIL): give the same command again."""
INTERRUPTED = 130
"""Exit status of what SIGINT ended at once, as a shell reports it."""


class RelumeError(Exception):
    """An error that a user can act on: `place: what was found; what is needed; what to do`."""

    def __init__(self, place: object, found: str, needed: str = "", remedy: str = "") -> None:
        self.place = str(place)
        self.found = found
        self.needed = needed
        self.remedy = remedy
        parts = "; ".join(part for part in (found, needed, remedy) if part)
        self.is_told = False
        """Whether another process says it, so that this one need not."""
        self.is_passed_on = False
        """Whether it has come from another process."""
        super().__init__(escape_controls(f"{self.place}: {parts}"))


class InputError(RelumeError):
    """A file or an argument that the user gave cannot be used."""


class UsageError(InputError):
    """The command line cannot be understood."""


class DataFileError(InputError):
    """A .data, .names or image-list file cannot be used."""


class LabelError(InputError):
    """A label file cannot be used."""


class ImageError(InputError):
    """A picture cannot be used."""


class Undecodable(ImageError):
    """The bytes of a picture file, whatever they are, are no picture."""

    digest: int = 0
    """XXH3-64 of those bytes."""


class TooLarge(ImageError):
    """A picture has more pixels than `max_pixels`; that is never a reason to skip it."""


class CfgError(InputError):
    """A .cfg file cannot be used."""


class WeightsError(InputError):
    """A Darknet weights file cannot be used."""


class CheckpointError(RelumeError):
    """A relume checkpoint, or the folder of a run, cannot be used."""


class Damaged(CheckpointError):
    """Contents do not match their digest, or the file is cut."""


class Mismatch(CheckpointError):
    """A checkpoint holds tensors of another network or optimizer."""


class OtherRecipe(CheckpointError):
    """Settings differ from the checkpoint's in a way that changes the course of the run."""


class OtherEnvironment(CheckpointError):
    """The run's numeric environment cannot be re-created here."""


class Locked(CheckpointError):
    """Another process trains under this name in this folder."""


class LockLost(CheckpointError):
    """The lock of this run is not in its folder any more; nothing was written there since."""


class StorageError(RelumeError):
    """The file system refused a write; nothing that was durable before is lost."""


class TrainerEnded(RelumeError):
    """A trainer that `relume prove` watches ended in trouble of its own."""


class Unavailable(RelumeError):
    """A disk does not give what the run needs, however often it is asked; the run is saved."""


class TrainingError(RelumeError):
    """Training cannot go on."""


class NotFinite(TrainingError):
    """Loss, gradient or statistics are NaN or infinite; the state before the update is intact."""


class PeerLost(TrainingError):
    """Another of the processes that train this run has ended, or does not answer."""


class Unconfirmed(TrainingError):
    """What an update left was not found to be the same in all processes, and is not saved."""
