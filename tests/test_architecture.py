"""The shape of the code, checked: import direction, sizes, randomness, printing, writing.

Needs nothing but this checkout: python -m pytest tests/test_architecture.py
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import relume
from tests.long_proofs.proof import LONG_TESTS

PACKAGE = Path(relume.__file__).parent
LONGEST_FILE, LONGEST_FUNCTION = 400, 60

# A part may import the parts named behind it, and itself; nothing else of relume.
MAY_IMPORT: dict[str, set[str]] = {
    "": {"detection", "detector"},  # __init__: imported when they are first asked for
    "control_characters": set(),
    "errors": {"control_characters"},
    "draws": set(),
    "memory": set(),
    "stop_signals": set(),
    "formats": {"errors", "memory"},
    "schedule": {"draws", "formats"},
    "spec": {"errors", "formats", "lists", "schedule", "training_set", "validation_set"},
    "training_set": {"errors", "formats", "lists", "data"},
    "validation_set": {"errors", "formats", "training_set"},
    "lists": {"errors", "formats", "checkpoint", "stop_signals"},
    "data": {"errors", "draws", "formats", "lists", "memory"},
    "model": {"draws", "formats"},
    "evaluate": {"errors", "formats", "data", "model", "validation_set"},
    "checkpoint": {"errors", "formats", "schedule"},
    "kernels": {"errors", "formats", "spec", "checkpoint", "screen", "command_table"},
    "distributed": {"errors"},
    "train": {
        *("errors", "formats", "schedule", "spec", "lists", "data", "model", "checkpoint"),
        *("distributed", "kernels", "figures", "draws", "evaluate", "control_characters"),
        "memory",
    },
    "proof": {"errors", "draws", "formats", "schedule", "spec", "checkpoint"},
    "figures": {"errors"},
    "export": {"", "formats"},
    "datasets": {"errors", "draws", "formats", "figures", "control_characters"},
    "checking": {
        *("errors", "formats", "schedule", "spec", "lists", "data", "datasets", "checkpoint"),
        *("training_set", "control_characters"),
    },
    "drawing": set(),
    "detection": {"drawing"},
    "detector": {"errors", "formats", "data", "model", "checkpoint", "detection"},
    "contact_sheet": {"drawing"},
    "screen": {"errors", "control_characters"},
    "commands": {
        *("errors", "formats", "schedule", "spec", "lists", "data", "model", "checkpoint"),
        *("training_set", "train", "proof", "datasets", "drawing", "contact_sheet", "screen"),
        *("checking", "command_table", "export", "kernels", "detection", "detector"),
        *("evaluate", "validation_set", "distributed", "control_characters", "memory"),
        "stop_signals",
    },
    "command": set(),
    "file_commands": {"command"},
    "command_table": {"command", "file_commands"},
    "refused": set(),
    "cli": {
        "",
        "errors",
        "memory",
        "screen",
        "command_table",
        "refused",
    },  # commands are imported when they run
    "__main__": {"cli"},
    # Beside the trainer: `make demo`, which works through the command line.
    "demo_pictures": {"errors", "draws"},
    "demo": {"demo_pictures", "drawing", "errors", "formats"},
}

# Only these parts know PyTorch; all others start without it.
KNOW_TORCH = {"model", "evaluate", "distributed", "train", "detector", "commands"}

PRINT = {"cli", "screen", "demo"}
WRITE = {
    *("checkpoint/storage", "checkpoint/disk", "checkpoint/run_lock", "checkpoint/guarantees"),
    *("demo_pictures", "demo"),
}
"""Modules that may change the file system."""

NOT_THROUGH_OUTPUTS = {
    "commands/outputs": "the one way for all outputs",
    "commands/video": "OpenCV writes a private file, which goes its way through outputs",
    "commands/files": "reset and rewind move the files of a run",
    "commands/run_folder": "the log of a run",
    "commands/watcher": "the chart of a run",
    "commands/check": "what is known of pictures, in the cache of a run",
    "commands/prove": "a folder of its own",
    "proof/inputs": "in the folder of a proof",
    "proof/runs": "in the folder of a proof",
    "proof/trainer": "in the folder of a proof",
    "checking/correction": "a new folder, in which nothing can be replaced",
}
"""Modules of commands that write otherwise than by `commands/outputs.py`, and why they may."""
COMMAND_PARTS = {"commands", "proof", "checking", "datasets", "evaluate", "export"}

WRITING_CALLS = {
    *("write_text", "write_bytes", "mkdir", "makedirs", "rmdir", "rename", "replace", "unlink"),
    *("remove", "rmtree", "move", "copy", "copy2", "copyfile", "copytree", "touch", "truncate"),
    *("symlink_to", "hardlink_to", "link", "symlink", "chmod", "imwrite", "savetxt", "tofile"),
    *("save_file", "NamedTemporaryFile", "mkstemp", "mkdtemp", "TemporaryDirectory"),
}
HARMLESS_OWNERS = {"str", "text", "dataclasses"}
BANNED_NAMES = {"utils", "util", "common", "helpers", "misc", "manager", "base"}


def modules() -> list[str]:
    """Return all modules by their path in the package, without ending."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return [path.relative_to(PACKAGE).with_suffix("").as_posix() for path in paths]


def part_of(module: str) -> str:
    """Return the part of the package that a module belongs to: a row of the table."""
    part = module.partition("/")[0]
    return "" if part == "__init__" else part


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


@cache
def nodes_of(module: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree_of(module)))


def imports_of(module: str) -> Iterator[str]:
    """Yield the dotted name of everything a module imports, wherever in it."""
    for node in nodes_of(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_parts_of(module: str) -> set[str]:
    """Return the parts of relume that a module imports."""
    parts = set()
    for name in imports_of(module):
        if name == "relume" or name.startswith("relume."):
            part = name.split(".")[1] if "." in name else ""
            parts.add(part if part in MAY_IMPORT else "")
    return parts


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` of an expression made of names, else what of it is."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Subscript):
        return dotted(node.value)
    return node.id if isinstance(node, ast.Name) else ""


def calls_of(module: str) -> Iterator[ast.Call]:
    return (node for node in nodes_of(module) if isinstance(node, ast.Call))


def test_every_module_belongs_to_a_row_of_the_table() -> None:
    assert {part_of(module) for module in modules()} <= MAY_IMPORT.keys()


def test_the_table_itself_has_one_direction() -> None:
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        ready = {part for part, parts in MAY_IMPORT.items() if parts <= done} - done
        assert ready, f"a circle among {MAY_IMPORT.keys() - done}"
        done |= ready


@pytest.mark.parametrize("module", modules())
def test_imports_go_one_way(module: str) -> None:
    part = part_of(module)

    assert own_parts_of(module) <= MAY_IMPORT[part] | {part}


def test_the_table_grants_nothing_that_is_not_used() -> None:
    for part in MAY_IMPORT.keys() - {"demo"}:
        used = set().union(*(own_parts_of(m) for m in modules() if part_of(m) == part))
        assert MAY_IMPORT[part] == used - {part}, part


@pytest.mark.parametrize("module", modules())
def test_only_model_and_training_know_torch(module: str) -> None:
    libraries = {name.partition(".")[0] for name in imports_of(module)}

    assert "torchvision" not in libraries
    assert "pickle" not in libraries
    assert "torch" not in libraries or part_of(module) in KNOW_TORCH


def test_parts_that_know_no_torch_import_none_that_does() -> None:
    for part in MAY_IMPORT.keys() - KNOW_TORCH - {"demo", ""}:
        assert not MAY_IMPORT[part] & KNOW_TORCH, part


@pytest.mark.parametrize("module", modules())
def test_files_and_functions_are_short(module: str) -> None:
    lines = (PACKAGE / f"{module}.py").read_text(encoding="utf-8").count("\n")
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in nodes_of(module)
        if isinstance(node, ast.FunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= LONGEST_FUNCTION
    }

    assert lines <= LONGEST_FILE
    assert long == {}


@pytest.mark.parametrize("module", modules())
def test_no_random_generator_is_global(module: str) -> None:
    called = [dotted(call.func) for call in calls_of(module)]
    seeded = re.compile(r"np\.random\.(Generator|Philox|SeedSequence)|random\.Random")
    hidden = re.compile(
        r"(np\.random|random)\.\w+|torch\.(manual_seed|seed|rand\w*|normal|bernoulli|multinomial)"
        r"|.*\.(normal_|uniform_|bernoulli_|random_)|(torch\.nn\.)?(F|functional)\.dropout|nn\.Dropout"
        r"|(torch\.)?nn\.init\.\w+"
    )

    assert [name for name in called if hidden.fullmatch(name) and not seeded.fullmatch(name)] == []
    assert "random" not in set(imports_of(module))


@pytest.mark.parametrize("module", modules())
def test_only_the_screen_prints_and_only_the_command_line_exits(module: str) -> None:
    called = {dotted(call.func) for call in calls_of(module)}
    written = {"sys.stdout.write", "sys.stderr.write", "warnings.warn", "print"}

    assert part_of(module) in PRINT or not called & written
    assert part_of(module) in {"cli", "__main__", "demo"} or not called & {"sys.exit", "exit"}


@pytest.mark.parametrize("module", modules())
def test_only_figures_imports_matplotlib(module: str) -> None:
    """It keeps Matplotlib from reading settings in the current folder."""
    libraries = {name.partition(".")[0] for name in imports_of(module)}

    assert module == "figures" or "matplotlib" not in libraries


@pytest.mark.parametrize("module", modules())
def test_only_storage_writes_to_the_file_system(module: str) -> None:
    writing = [ast.unparse(call) for call in calls_of(module) if _writes(call)]

    assert module in WRITE or writing == []


@pytest.mark.parametrize("module", [m for m in modules() if part_of(m) in COMMAND_PARTS])
def test_commands_write_their_files_through_outputs(module: str) -> None:
    writes = [ast.unparse(call.func) for call in calls_of(module) if _writes_by_storage(call)]
    writes += [name for name in imports_of(module) if _OF_STORAGE.fullmatch(name)]

    assert bool(writes) == (module in NOT_THROUGH_OUTPUTS), writes


def _writes_by_storage(call: ast.Call) -> bool:
    """Tell whether a call is one of storage's that writes, or OpenCV's that makes a video."""
    name = dotted(call.func)
    reads = {"storage.locked"}
    return name == "cv2.VideoWriter" or (name.startswith("storage.") and name not in reads)


_OF_STORAGE = re.compile(r"relume\.checkpoint\.(storage|many_files)\.\w+")


def _writes(call: ast.Call) -> bool:
    """Tell whether a call changes the file system, judged by its name and mode."""
    name = dotted(call.func)
    last = name.rpartition(".")[2]
    owner = name.rpartition(".")[0]
    if last in {"open", "fdopen"}:
        if owner == "archive":
            return False  # a ZIP file in memory
        behind_the_path = call.args if owner else call.args[1:]
        constants = [a.value for a in behind_the_path if isinstance(a, ast.Constant)]
        constants += [k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)]
        modes = [c for c in constants if isinstance(c, str) and re.fullmatch(r"[rwaxbt+]{1,3}", c)]
        into_nowhere = "os.devnull" in ast.unparse(call)
        flags = name == "os.open" and "O_RDONLY" not in ast.unparse(call)
        return (flags and not into_nowhere) or any(set(mode) & set("wax+") for mode in modes)
    if last == "replace":  # also a method of str and a function of dataclasses
        return owner in {"os", "Path"} or (len(call.args) == 1 and not call.keywords)
    if last in {"remove", "copy"}:  # also methods of list and of arrays
        return owner in {"os", "shutil"}
    return last in WRITING_CALLS and owner.partition(".")[0] not in {"storage", *HARMLESS_OWNERS}


READ_OTHERWISE = {
    "formats/places": "the one way to open a file for reading",
    "memory": "files of the kernel, which have no size and never wait",
    "train/environment": "a file of the kernel",
    "demo": "reads only what it has just written",
}
"""Modules that open files for reading by other means than places.py, and why."""


@pytest.mark.parametrize("module", modules())
def test_only_regular_files_are_opened_for_reading(module: str) -> None:
    """Whatever else opens a file may wait for ever (a pipe), or read without end (a device)."""
    reading = [ast.unparse(call) for call in calls_of(module) if _reads(call)]

    assert module in READ_OTHERWISE or reading == []


def _reads(call: ast.Call) -> bool:
    """Tell whether a call opens a file for reading, judged by its name and arguments."""
    name = dotted(call.func)
    owner, _, last = name.rpartition(".")
    text = ast.unparse(call)
    if last in {"open", "fdopen", "FileIO"}:
        writes = _writes(call) or "os.devnull" in text
        descends = owner == "os" and "dir_fd" in text  # disk.py and run_lock.py look themselves
        return not (writes or descends or owner in {"archive", "system"})
    if last in {"read_bytes", "read_text"}:
        return isinstance(call.func, ast.Attribute) and owner != "patience"
    return last in {"loadtxt", "fromfile", "memmap", "imread"} or name in {"np.load", "torch.load"}


@pytest.mark.parametrize("module", modules())
def test_modules_and_classes_are_named_after_what_they_do(module: str) -> None:
    classes = {n.name.lower() for n in nodes_of(module) if isinstance(n, ast.ClassDef)}

    assert not set(module.split("/")) & BANNED_NAMES
    assert not any(name.endswith(("manager", "helper", "util", "utils")) for name in classes)


@pytest.mark.parametrize("module", modules())
def test_every_module_says_what_it_is_for(module: str) -> None:
    text = ast.get_docstring(tree_of(module))

    assert text
    assert text.splitlines()[0].endswith((".", ":", "?"))


@pytest.mark.parametrize("module", modules())
def test_nothing_is_inherited_but_modules_of_torch_and_exceptions(module: str) -> None:
    errors = {n.name for n in nodes_of("errors") if isinstance(n, ast.ClassDef)}
    allowed = errors | {
        "Exception",
        "OSError",
        "nn.Module",
        "enum.Enum",
        "ProgressColumn",
        "Generic",
    }
    for node in nodes_of(module):
        if isinstance(node, ast.ClassDef):
            bases = {dotted(base) for base in node.bases}
            assert bases <= allowed, node.name


def test_the_checks_notice_what_they_forbid() -> None:
    def call(text: str) -> ast.Call:
        node = ast.parse(text, mode="eval").body
        assert isinstance(node, ast.Call)
        return node

    for text in (
        *("open('x', 'w')", "path.open('ab')", "path.write_bytes(b'')", "os.replace(a, b)"),
        *("a.replace(b)", "os.open(p, os.O_WRONLY)", "shutil.move(a, b)", "cv2.imwrite('a', x)"),
        "path.open(mode='r+b')",
    ):
        assert _writes(call(text)), text
    for text in (
        *("open('x', 'rb')", "path.open()", "'a'.replace('b', 'c')", "replace(state, seen=1)"),
        *("storage.remove(path)", "path.read_bytes()", "os.open(p, os.O_RDONLY)", "array.copy()"),
        "os.open(os.devnull, os.O_WRONLY)",
    ):
        assert not _writes(call(text)), text
    for text in ("storage.write_durably(path, data)", "storage.DISK.rename(a, b)"):
        assert _writes_by_storage(call(text)), text


def test_the_check_of_readers_notices_what_it_forbids() -> None:
    def call(text: str) -> ast.Call:
        node = ast.parse(text, mode="eval").body
        assert isinstance(node, ast.Call)
        return node

    for text in (
        *("open('x')", "path.open('rb')", "path.open()", "path.read_bytes()", "io.open(x, 'rb')"),
        *("(a / 'b').read_text()", "os.open(p, os.O_RDONLY)", "np.load(p)", "np.fromfile(p)"),
        *("cv2.imread(p)", "Path(p).open(mode='rb')"),
    ):
        assert _reads(call(text)), text
    for text in (
        *("open_regular(path)", "read_regular(p)", "read_bytes(p)", "open('x', 'wb')"),
        *("patience.read_bytes(p, place, name)", "file.read()", "os.open(os.devnull, os.O_WRONLY)"),
        "os.open(p, os.O_RDONLY, dir_fd=folder)",
    ):
        assert not _reads(call(text)), text


def test_make_prove_runs_every_file_of_long_tests() -> None:
    root = Path(__file__).parents[1]
    marked = {
        str(path.relative_to(root))
        for path in (root / "tests").rglob("test_*.py")
        if "mark.long" in path.read_text(encoding="utf-8") and path != Path(__file__)
    }

    assert marked == set(LONG_TESTS)
