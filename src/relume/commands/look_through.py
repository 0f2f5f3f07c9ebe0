"""Before a run with a long list trains: its labels and pictures are looked through, once.

What is wrong with one of ten million label files is told before the first iteration and not
days later. It takes minutes the first time, may be interrupted, and is kept in the cache folder.
"""

from collections.abc import Callable
from contextlib import closing

from relume.errors import StorageError
from relume.formats.places import RemoteFile
from relume.lists import label_index
from relume.lists.label_files import LabelFiles
from relume.screen import Screen
from relume.spec import RunSpec
from relume.training_set import check_labels


def look_through(
    spec: RunSpec,
    data_file_path: str,
    processes: int,
    screen: Screen,
    stopped: Callable[[], bool],
    say: Callable[[str], None],
) -> bool:
    """See to it that the labels of a long list are known; return False if stopped before.

    Args:
        spec: of the run.
        data_file_path: of its data file.
        processes: that read at once.
        screen: for the progress bar.
        stopped: tells whether the run is to end.
        say: takes a line for what a person should know.
    Raises:
        LabelError, DataFileError: labels that cannot be used, pictures that do not exist.
    """
    labels, images = spec.recipe.labels, spec.recipe.images
    if not isinstance(labels, LabelFiles) or images.digest is None:
        return True
    if isinstance(images.paths[0], RemoteFile):
        return True  # two requests for every picture would take hours: they are read when used
    place = label_index.place_of(
        images, images.digest, data_file_path, labels.classes, spec.operation.cache
    )
    found = label_index.read_summary(place)
    if found is None:
        say(f"{images.path}: looks through {len(labels)} pictures and their labels, once")
        with closing(screen.progress(place.rows)) as bar:
            try:
                found = label_index.build(
                    place, processes, lambda done, total: bar.at(done, "labels"), stopped
                )
            except StorageError as error:
                say(f"labels are read when they are used, and not before: {error}")
                return True
    if found is None:
        return False
    check_labels(images, found, say)
    return True
