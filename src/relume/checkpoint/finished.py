"""Whether the run in a backup folder is finished: for scripts that start it again until it is."""

from pathlib import Path

from relume.checkpoint import container
from relume.checkpoint.folder import newest_good
from relume.errors import Damaged
from relume.formats.places import open_regular


def is_finished_in(folder: Path, name: str) -> bool:
    """Tell whether NAME_final.weights holds the weights of the newest checkpoint.

    It is the last file that a finished run writes; one that has gone on since has newer ones.

    Raises:
        Damaged: there are checkpoints, and none of them is intact.
        Unavailable, CheckpointError: the disk does not give a file.
    """
    found, rejected = newest_good(folder, name)
    if found is None:
        if rejected:
            raise Damaged(folder, f"no checkpoint of '{name}' is intact", rejected[0].reason)
        return False
    plain = container.plain(found.state)
    try:
        with open_regular(folder / f"{name}_final.weights") as file:
            return file.read(len(plain) + 1) == plain
    except OSError:  # whatever it holds, the run writes it again
        return False
