"""Whether the run in a backup folder is finished: for scripts that start it again until it is."""

from pathlib import Path

from relume.checkpoint import container
from relume.checkpoint.folder import newest_good
from relume.errors import Damaged


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
    try:
        final = (folder / f"{name}_final.weights").read_bytes()
    except OSError:
        return False
    return final == container.plain(found.state)
