"""`relume make-cfg`: a cfg, and a data file, for classes and pictures of one's own."""

import re
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from relume.command_table import Values
from relume.commands.anchors import LARGEST_SIDE_PX, shapes_px, training_boxes
from relume.commands.outputs import Kind, Outputs
from relume.datasets.anchors import cluster_shapes, distinct_shapes, nearest_anchors
from relume.datasets.boxes import seen_from
from relume.datasets.make_cfg import NETS, Architecture, CfgValues, cfg_text
from relume.errors import DataFileError, UsageError
from relume.formats.cfg import parse_cfg
from relume.formats.data_files import (
    DataFile,
    parse_data_file,
    read_data_file,
    read_names,
    resolve,
)
from relume.formats.places import is_url, local_path
from relume.screen import Screen
from relume.spec import run_name

SEE = "see relume make-cfg -h"
SETTINGS = Kind("cfg or data file", is_compared=True, makes_folder=True)
STRIDE = 32
"""Pixels to a cell of the coarsest head; width and height are multiples of it."""

FEWEST_ITERATIONS = 10
"""Of a run: the rate must rise, and fall twice."""


@dataclass(frozen=True)
class _Inputs:
    """What a cfg is made for."""

    names: Path
    classes: int
    data: DataFile
    """There already, or to be written."""
    data_text: bytes | None
    """Of a data file to be written."""

    @property
    def images(self) -> str:
        """The list to train on, which need not be there yet."""
        text = self.data.text("train")
        return text if is_url(text) else str(resolve(text, self.data.path))

    @property
    def has_images(self) -> bool:
        """The list is there; of an object store that is not asked."""
        return is_url(self.images) or Path(self.images).exists()


def make_cfg(arguments: list[str], flags: Values, screen: Screen) -> int:
    """Write NET-NAME.cfg and, unless -data names one, NAME.data."""
    like = str(flags.get("-like", ""))
    if like not in NETS:
        found = "is missing"
        if like:
            is_other = re.match(r"yolov?[247]", like, re.IGNORECASE)
            found = f"'{like}'" + ", which relume does not train yet" * bool(is_other)
        raise UsageError("-like", found, f"one of {', '.join(NETS)}", SEE)
    inputs = _inputs(flags)
    settings = _settings(NETS[like], inputs.classes, flags)
    data_path = Path(inputs.data.path)
    path = data_path.parent / f"{like}-{run_name(data_path.name)}.cfg"
    remedy = "-force replaces it"
    if inputs.data_text is not None:
        yours = f"-data {data_path} takes yours as it is; " * data_path.exists()
        remedy = f"{yours}{remedy}; or -out FOLDER"
    given: list[str | Path] = [inputs.names, inputs.images]
    given += [data_path] * (inputs.data_text is None)
    outputs = Outputs(given, flags, remedy)
    outputs.check([path, *([] if inputs.data_text is None else [data_path])], SETTINGS)
    said = "anchors of Darknet's own cfg"
    if inputs.has_images:
        seed = int(flags.get("-seed", inputs.data.integer("seed", 0)))
        settings, said = _fitted(NETS[like], settings, inputs, seed, screen)
    title = f"{like} for {inputs.classes} classes ({inputs.names.name}), by relume make-cfg\n{said}"
    text = cfg_text(like, settings, title)
    parse_cfg(text, str(path), "train")
    files = {} if inputs.data_text is None else {data_path: inputs.data_text}
    files[path] = text.encode("utf-8", "surrogateescape")
    deque(outputs.write_each(files, SETTINGS), maxlen=0)
    if inputs.data_text is not None:
        screen.line(f"{data_path}: {inputs.classes} classes, trains on {inputs.images}")
    steps = ",".join(map(str, settings.steps))
    screen.line(
        f"{path}: {settings.width}x{settings.height}, batch {settings.batch} in "
        f"{settings.subdivisions} subdivisions, max_batches {settings.max_batches}, steps {steps}, "
        f"filters {settings.filters}"
    )
    screen.line(said)
    if not inputs.has_images:
        screen.warn(f"{inputs.images}: not there yet; relume split makes lists of pictures")
    screen.line(f"train: relume detector train {data_path} {path} {NETS[like].start}")
    return 0


def _inputs(flags: Values) -> _Inputs:
    """Read what -data names, or else -names, -images and -valid."""
    if ("-data" in flags) == ("-names" in flags):
        needed = "-names NAMES (a data file is written), or -data DATA (yours is taken)"
        raise UsageError("relume make-cfg", "one of the two is needed", needed, SEE)
    if "-data" in flags:
        if more := [name for name in ("-images", "-valid", "-out") if name in flags]:
            raise UsageError(more[0], "is given with -data, which says that itself", "", SEE)
        data_file = read_data_file(str(flags["-data"]))
        names = resolve(data_file.text("names"), data_file.path)
        classes = len(read_names(names))
        if data_file.integer("classes", classes) != classes:
            place = f"{data_file.path}:{data_file.lines['classes']}"
            found = f"classes={data_file.text('classes')}"
            raise DataFileError(place, found, f"{classes}, the names in {names}")
        return _Inputs(names, classes, data_file, None)
    names = local_path(str(flags["-names"]), "-names")
    classes = len(read_names(names))
    folder = local_path(str(flags.get("-out", names.parent)), "-out")
    lists = {}
    for key, flag in (("train", "-images"), ("valid", "-valid")):
        given = str(flags.get(flag, folder / f"{key}.txt"))
        if flag in flags and not (is_url(given) or Path(given).is_file()):
            raise UsageError(flag, f"{given} does not exist", "a list of pictures", SEE)
        lists[key] = given if is_url(given) else seen_from(folder, Path(given))
    values = {
        "classes": str(classes),
        **lists,
        "names": seen_from(folder, names),
        "backup": "backup",
        "seed": str(flags.get("-seed", 0)),
    }
    lines = [f"{key} = {value}" for key, value in values.items()]
    data = parse_data_file(enumerate(lines, 1), folder / f"{run_name(names.name)}.data")
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    return _Inputs(names, classes, data, text)


def _settings(net: Architecture, classes: int, flags: Values) -> CfgValues:
    standard = {
        "-width": net.side_px,
        "-height": net.side_px,
        "-batch": 64,
        "-subdivisions": min(net.subdivisions, int(flags.get("-batch", 64))),
    }
    width, height, batch, subdivisions = (int(flags.get(f, n)) for f, n in standard.items())
    for flag, value in (("-width", width), ("-height", height)):
        if not STRIDE <= value <= LARGEST_SIDE_PX or value % STRIDE:
            needed = f"a multiple of {STRIDE}, at most {LARGEST_SIDE_PX}"
            raise UsageError(flag, str(value), needed, SEE)
    if batch < 1 or subdivisions < 1 or batch % subdivisions:
        found = f"-batch {batch} -subdivisions {subdivisions}"
        raise UsageError(found, "do not fit", "a batch that is a multiple of subdivisions", SEE)
    iterations = int(flags["-max_batches"]) if "-max_batches" in flags else None
    if iterations is not None and iterations < FEWEST_ITERATIONS:
        raise UsageError("-max_batches", str(iterations), f"{FEWEST_ITERATIONS} or more", SEE)
    return CfgValues(classes, net.anchors_px, 0, width, height, batch, subdivisions, iterations)


def _fitted(
    net: Architecture, settings: CfgValues, inputs: _Inputs, seed: int, screen: Screen
) -> tuple[CfgValues, str]:
    """Return the settings with anchors for the listed pictures, and a line about them."""
    images, labels = training_boxes(inputs.data, inputs.classes, screen)
    settings = replace(settings, pictures=len(images.paths))
    shapes = shapes_px(labels, settings.width, settings.height)
    count, distinct = len(net.anchors_px), distinct_shapes(shapes)
    if distinct < count:
        return settings, (
            f"anchors of Darknet's own cfg: {inputs.images} has boxes of {distinct} different "
            f"shapes only, and {count} anchors are needed"
        )
    clusters = cluster_shapes(shapes, count, seed)
    own = nearest_anchors(shapes, np.array(net.anchors_px, np.float64)).average_iou
    anchors = tuple((width, height) for width, height in clusters.anchors_px.tolist())
    return replace(settings, anchors_px=anchors), (
        f"anchors by k-means on {inputs.images}, seed {seed}: avg IoU "
        f"{100 * clusters.average_iou:.2f} %; Darknet's own have {100 * own:.2f} %"
    )
