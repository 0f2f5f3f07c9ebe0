"""The data file, the cfg and the names: every mistake in them, and settings that do not fit."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from relume.checking.findings import Finding, Verdict, of_error
from relume.checking.lists import text_findings
from relume.checking.paths import explained
from relume.errors import CfgError, DataFileError, RelumeError
from relume.formats.cfg import parse_cfg, parse_layers
from relume.formats.data_files import (
    ANY_CLASS,
    DataFile,
    numbered_lines,
    parse_data_file,
    read_names,
    resolve,
)
from relume.formats.layer_shapes import wrong_heads
from relume.formats.lexer import Section, decode_text, excerpt, split_sections
from relume.formats.places import is_url
from relume.formats.sections import Cfg
from relume.formats.text_files import read_text
from relume.spec import (
    Flags,
    Operation,
    check_classes,
    names_of,
    operation_of,
    patience_of,
    sampling_of,
)

ERROR, WARNING, NOTE = Verdict
MOST_ERRORS = 100
"""In one file; what has more is another kind of file."""
SIDES = ("left", "right")
NO_CFG = """[net]
width=32
height=32
channels=3
max_batches=1000
[convolutional]
filters=6
[yolo]
anchors=1,1
classes=1
"""
"""Stands for a cfg that cannot be read where the data file is looked at."""


@dataclass(frozen=True)
class Settings:
    """What could be read of data file, cfg and names; None where nothing could."""

    data_file: DataFile | None
    cfg: Cfg | None
    operation: Operation | None
    names: tuple[str, ...]
    """Of the classes; numbers where they are not known."""
    classes: int | None


def read_settings(data: str, cfg_path: str) -> tuple[Settings, list[Finding]]:
    """Read data file, cfg and names, and check them against each other."""
    data_file, findings = _data_file(data)
    cfg, found = _cfg(cfg_path)
    findings += found
    classes = cfg.heads[-1].classes if cfg else None
    operation: Operation | None = None
    names: tuple[str, ...] = ()
    if data_file is not None:
        operation, data_file, found = _operation(
            data_file, cfg or parse_cfg(NO_CFG, cfg_path, "train")
        )
        findings += found
        data_file, found = _with_meant_files(data_file)
        findings += found
        if cfg is not None:
            given, net = data_file, cfg
            findings += _refused("classes do not agree", lambda: check_classes(given, net))
        names, found = _names(data_file, cfg)
        findings += found
        if classes is None and "classes" in data_file.values:
            given = data_file
            findings += _refused("a value is wrong", lambda: given.integer("classes", 0))
            classes = _integer_or_none(data_file)
    if classes is not None:
        if cfg is None and names and len(names) != classes:
            what, detail = "names and classes differ", f"{len(names)} names, classes={classes}"
            findings.append(Finding(ERROR, what, data, detail, "make the two agree"))
        names = (*names[:classes], *(str(i) for i in range(len(names), classes)))
    return Settings(data_file, cfg, operation, names, classes), findings


def _integer_or_none(data_file: DataFile) -> int | None:
    try:
        classes = data_file.integer("classes", 0)
    except DataFileError:
        return None
    return classes if 0 < classes < ANY_CLASS else None


def _refused(what: str, check: Callable[[], object]) -> list[Finding]:
    try:
        check()
    except RelumeError as error:
        return [of_error(what, error)]
    return []


def _line_of(error: RelumeError) -> int | None:
    line = error.place.rpartition(":")[2]
    return int(line) if line.isascii() and line.isdigit() else None


def _data_file(path: str) -> tuple[DataFile | None, list[Finding]]:
    what = "the data file has a line that cannot be used"
    findings: list[Finding] = []
    try:
        numbered = list(numbered_lines(path))
    except DataFileError as error:
        return None, [of_error("the data file cannot be read", error)]
    while len(findings) < MOST_ERRORS:
        try:
            return parse_data_file(numbered, path), findings
        except DataFileError as error:
            findings.append(of_error(what, error))
            bad = _line_of(error)
            numbered = [(line, text) for line, text in numbered if line != bad]
    return None, findings


def _with_meant_files(data_file: DataFile) -> tuple[DataFile, list[Finding]]:
    """Put files that are there in the place of paths that lead nowhere, to go on with them."""
    findings, values = [], dict(data_file.values)
    for key in ("train", "valid", "names"):
        text = values.get(key)
        if text is None or is_url(text) or os.path.exists(resolve(text, data_file.path)):
            continue
        reason, meant = explained(text, Path(data_file.path).parent)
        if meant is not None:
            values[key] = str(meant)
            what = "a path of the data file leads nowhere; its check goes on with what it may mean"
            verdict = WARNING if key == "valid" else ERROR
            place, detail = (
                f"{data_file.path}:{data_file.lines[key]}",
                f"{excerpt(text)} ({reason})",
            )
            findings.append(Finding(verdict, what, place, detail, "correct it"))
    return replace(data_file, values=values), findings


def _operation(data_file: DataFile, cfg: Cfg) -> tuple[Operation | None, DataFile, list[Finding]]:
    """Return the data file without the values that were refused, too."""
    findings: list[Finding] = []
    for _ in range(len(data_file.values) + 1):
        try:
            sampling_of(data_file)
            patience_of(data_file)
            data_file.integer("seed", 0)
            return operation_of(data_file, cfg, Flags()), data_file, findings
        except RelumeError as error:
            findings.append(of_error("a value of the data file cannot be used", error))
            bad = _line_of(error)
            lines = data_file.lines
            values = {k: v for k, v in data_file.values.items() if lines[k] != bad}
            data_file = replace(data_file, values=values)
    return None, data_file, findings


def _cfg(path: str) -> tuple[Cfg | None, list[Finding]]:
    """Read a cfg; each line that is refused is taken out, to see what else is wrong."""
    what, dropped = "the cfg cannot be used", set[int]()
    findings: list[Finding] = []
    try:
        lines = decode_text(read_text(path)).split("\n")
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        return None, [Finding(ERROR, what, path, f"cannot be read ({found})")]
    while len(findings) < MOST_ERRORS:
        try:
            sections, net, layers = parse_layers("\n".join(lines), path, "train")
        except CfgError as error:
            line = _line_of(error)
            if line is None or lines[line - 1].lstrip().startswith("["):
                # Of a whole section; after a line was taken out of it, that may be the reason.
                if not dropped or line is None:
                    findings.append(of_error(what, error))
                return None, findings
            findings.append(of_error(what, error))
            dropped.add(line)
            lines[line - 1] = ""
            continue
        if dropped and max(dropped) > sections[1].line:  # it may have decided about shapes
            return None, findings
        try:
            return parse_cfg("\n".join(lines), path, "train"), findings
        except CfgError as error:
            with suppress(CfgError):  # layers that do not fit each other: that is the error
                wrong = wrong_heads(net, layers, sections[1:], path)
                return None, findings + [of_error(what, one) for one in wrong or [error]]
            return None, [*findings, of_error(what, error)]
    return None, findings


def _names(data_file: DataFile, cfg: Cfg | None) -> tuple[tuple[str, ...], list[Finding]]:
    if "names" not in data_file.values:
        what = "the data file names no file of class names; they are numbers then"
        return (), [Finding(NOTE, what, data_file.path, "", "add 'names = ...'")]
    try:
        path = resolve(data_file.values["names"], data_file.path)
        names = read_names(path)
    except DataFileError as error:
        return (), [of_error("the class names cannot be used", error)]
    findings = list(text_findings(path, str(path)))
    if cfg is not None:
        findings += _refused("names and classes differ", lambda: names_of(data_file, cfg))
    for name, count in Counter(names).items():
        lines = [str(i + 1) for i, other in enumerate(names) if other == name]
        if not name:
            what = "an empty line among the class names counts as a class"
            findings += [Finding(WARNING, what, f"{path}:{n}", "", "remove it") for n in lines]
        elif count > 1:
            what, detail = "a class name stands twice", f"{name}, in lines {', '.join(lines)}"
            findings.append(Finding(WARNING, what, f"{path}:{lines[1]}", detail, "rename one"))
    return names, findings


def findings_of_cfg(cfg: Cfg, names: tuple[str, ...], pictures: int) -> Iterator[Finding]:
    """Yield settings that can be used but may not be meant.

    Args:
        cfg: of the run.
        names: of its classes.
        pictures: in the list.
    """
    net, section = cfg.net, split_sections(cfg.text, cfg.path)[0]

    def place(key: str) -> str:
        return f"{cfg.path}:{section.line_of(key)}"

    if net.batch == 1:
        what = "batch=1: every iteration learns from a single picture; is this a cfg for detection?"
        remedy = "batch=64 and as many subdivisions as memory asks for are usual"
        yield Finding(WARNING, what, place("batch"), "", remedy)
    yield from _schedule(cfg, section)
    sided = [name for name in names if any(side in name.lower() for side in SIDES)]
    if net.flip and sided:
        what = "pictures are mirrored in training, but a class has a side in its name"
        remedy = "set flip=0 in [net], if a mirrored one is another class"
        yield Finding(WARNING, what, place("flip"), ", ".join(sided[:5]), remedy)
    if pictures:
        epochs = net.max_batches * net.batch / pictures
        verdict = WARNING if epochs < 1 else NOTE
        remedy = "raise max_batches: usual are 2000 per class, at least 6000" * (epochs < 1)
        detail = f"{_epochs(epochs)} epochs ({net.max_batches:,} iterations of {net.batch} images)"
        what = "how often every picture is seen" if epochs >= 1 else "not all pictures are seen"
        yield Finding(verdict, what, place("max_batches"), detail, remedy)


def _epochs(epochs: float) -> str:
    return f"{epochs:,.0f}" if epochs >= 10 else f"{epochs:.2g}"


def batch_made_smaller(cfg: Cfg) -> Iterator[Finding]:
    """Yield that `batch` is not what the cfg says, if it is not."""
    net = cfg.net
    if net.written_batch != net.batch:
        line = split_sections(cfg.text, cfg.path)[0].line_of("batch")
        what = "batch is not divisible by subdivisions, and is made smaller, as Darknet does"
        detail = f"batch={net.written_batch}, subdivisions={net.subdivisions}: trains {net.batch}"
        yield Finding(WARNING, what, f"{cfg.path}:{line}", f"{detail} images per iteration")


def _schedule(cfg: Cfg, section: Section) -> Iterator[Finding]:
    net = cfg.net

    def place(key: str) -> str:
        return f"{cfg.path}:{section.line_of(key)}"

    last = f"max_batches={net.max_batches}"
    if net.policy == "steps":
        late = [step for step in net.steps if step >= net.max_batches]
        if late:
            what = "steps at or behind max_batches are never reached"
            detail = f"step {', '.join(map(str, late))}; {last}"
            remedy = "usual are 80 and 90 % of max_batches"
            yield Finding(WARNING, what, place("steps"), detail, remedy)
        if list(net.steps) != sorted(net.steps):
            what = "steps are not in order; behind one that is not reached none is looked at"
            detail = ",".join(map(str, net.steps))
            yield Finding(WARNING, what, place("steps"), detail, "write them in order")
    if net.burn_in >= net.max_batches:
        what = "burn_in lasts to the end: the full learning rate is never reached"
        detail = f"burn_in={net.burn_in}, {last}"
        yield Finding(WARNING, what, place("burn_in"), detail, "raise max_batches or lower burn_in")
    if net.learning_rate == 0:
        yield Finding(WARNING, "a learning rate of 0 trains nothing", place("learning_rate"))
