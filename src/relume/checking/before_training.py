"""What training looks at before every start: all of `relume check` that costs next to nothing.

Arithmetic on the boxes and settings that are read anyway, and what an earlier check found out
about pictures; nothing is decoded but what is known to be bad.
"""

from collections.abc import Iterator
from pathlib import Path

from relume.checking.boxes import findings_of_boxes, findings_of_sizes
from relume.checking.findings import Finding, Group, Verdict, grouped
from relume.checking.known import known_path, read_known
from relume.checking.label_lines import box_set_of_arrays
from relume.checking.pictures import findings_of_picture, look_at
from relume.checking.settings import findings_of_cfg
from relume.errors import Undecodable
from relume.lists.label_files import LabelFiles
from relume.spec import SKIP, RunSpec


def warnings_before_training(spec: RunSpec) -> list[str]:
    """Return a line for every kind of warning; read_spec has said what it says itself."""
    found = grouped(_of_settings_and_boxes(spec))
    return [_line(group) for group in found if group.verdict is Verdict.WARNING]


def told_of_known_pictures(spec: RunSpec) -> list[str]:
    """Return a line about the pictures that a check found to be bad, where they are skipped.

    Raises:
        Undecodable: they stop the run, so they do it now.
    """
    found = grouped(_of_known_pictures(spec))
    for group in found:
        if group.verdict is Verdict.ERROR:
            place, detail = group.where[0]
            more = f" (and {len(group.where) - 1} more)" * (len(group.where) > 1)
            raise Undecodable(place, f"{group.what}: {detail}{more}", "", group.remedy)
    return [_line(group) for group in found]


def _line(group: Group) -> str:
    place, detail = group.where[0]
    count = f" ({len(group.where):,} times, first here)" * (len(group.where) > 1)
    parts = (f"{place}: {group.what}{count}", detail, group.remedy)
    return "; ".join(part for part in parts if part)


def _of_settings_and_boxes(spec: RunSpec) -> Iterator[Finding]:
    recipe, images = spec.recipe, spec.recipe.images
    yield from findings_of_cfg(recipe.cfg, recipe.names, len(images.paths))
    if isinstance(recipe.labels, LabelFiles):
        return  # of a long list: they are read when they are used
    boxes = box_set_of_arrays(recipe.labels, tuple(images.paths))
    yield from findings_of_boxes(boxes, recipe.names, images.path)
    yield from findings_of_sizes(boxes, recipe.cfg, images.path)


def _of_known_pictures(spec: RunSpec) -> Iterator[Finding]:
    """Yield the pictures that a check has found to be bad, if they still are."""
    recipe, operation, images = spec.recipe, spec.operation, spec.recipe.images
    if isinstance(recipe.labels, LabelFiles):
        return
    channels = recipe.cfg.net.channels
    known = read_known(known_path(operation.cache, operation.name), channels)
    for row in known.bad_among(tuple(images.paths)):
        place = f"{images.path}:{images.lines[row]}"
        path, most = Path(images.paths[row]), operation.max_pixels
        looked = look_at(path, place, channels, most, lambda digest: None)
        if looked.facts is not None and looked.facts.is_bad:
            yield from findings_of_picture(looked, channels, operation.bad == SKIP)
