"""Which kernels the libraries take: described, and re-created before those libraries load.

PyTorch, oneDNN, MKL, OpenCV and NumPy look at the processor when they are loaded and take the
fastest kernels it can run; other kernels add in another order and give other last bits. The
variables below hold them back. A run goes on with the kernels it began with: `recreate` reads
them from its newest checkpoint, and if they are not those of this process, begins the same
command again, in the same process, with the variables set. What is pinned for `-portable`, and
what was measured, stands in docs/decisions/0005-portable-runs.md.

Not covered: processors below x86-64-v3 and other kinds, where nothing is held back. What cannot
be re-created is for `train/rerun.py`.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

# What NumPy itself sees of the processor; it has no public name, and no types.
from numpy._core._multiarray_umath import (  # type: ignore[import-not-found]
    __cpu_dispatch__,
    __cpu_features__,
)

from relume.checkpoint import container
from relume.checkpoint.folder import not_given, run_files
from relume.command_table import Values
from relume.errors import OtherEnvironment, RelumeError
from relume.formats.data_files import read_data_file
from relume.screen import Screen
from relume.spec import backup_folder, run_name

Variables = dict[str, str]

VARIABLES = (
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"),
    *("ONEDNN_CPU_ISA_HINTS", "DNNL_CPU_ISA_HINTS"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_CORETYPE"),
    *("NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES"),
    *("OPENCV_CPU_DISABLE", "OPENCV_IPP", "OMP_DYNAMIC", "OMP_THREAD_LIMIT"),
)
"""What the libraries read when they are loaded."""

AVX2, AVX512 = "AVX2", "AVX512"
"""x86-64-v3 and x86-64-v4: the levels between which the libraries choose."""
PORTABLE = "portable x86-64-v3"
"""What the environment of a portable run says about its kernels."""
RESTARTED = "RELUME_RESTARTED"
"""Set in a process that has begun again, which it does once."""


def machine_level() -> str:
    """Return AVX512, AVX2, or "" for a processor below that or of another kind."""
    features: Mapping[str, bool] = __cpu_features__
    # NumPy before 2.4 no longer shows what it was told to leave unused.
    hidden = os.environ.get("NPY_DISABLE_CPU_FEATURES", "").replace(",", " ").split()
    if any(features.get(name) or name in hidden for name in ("AVX512F", "AVX512_SKX")):
        return AVX512
    return AVX2 if features.get("AVX2") and features.get("FMA3") else ""


def _held_back() -> Variables:
    """Return what makes libraries on an AVX512 processor do as on one with AVX2."""
    above = [name for name in __cpu_dispatch__ if name.startswith(("AVX512", "X86_V4"))]
    return {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENCV_CPU_DISABLE": "AVX512-SKX",
        "NPY_DISABLE_CPU_FEATURES": ",".join(above),
    }


def portable_variables(level: str) -> Variables:
    """Return the variables of a portable run on a processor of this level.

    Raises:
        OtherEnvironment: the processor is below x86-64-v3.
    """
    if level not in (AVX2, AVX512):
        raise OtherEnvironment(
            "-portable",
            "this processor has no AVX2 and FMA",
            "x86-64-v3, the common level of portable runs (Intel Haswell, AMD Zen or newer)",
            "begin a run without -portable, or go on with a portable one on such a processor",
        )
    held_back = _held_back()
    if level == AVX2:  # OpenCV complains when told to leave unused what is not there
        del held_back["OPENCV_CPU_DISABLE"], held_back["NPY_DISABLE_CPU_FEATURES"]
    del held_back["MKL_ENABLE_INSTRUCTIONS"]
    return held_back | {
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Haswell",
        "OPENCV_IPP": "avx2",
    }


def given_variables(environ: Mapping[str, str] | None = None) -> Variables:
    """Return those of the variables that are set."""
    environ = os.environ if environ is None else environ
    return {name: environ[name] for name in VARIABLES if environ.get(name)}


def is_portable(given: Mapping[str, str], level: str) -> bool:
    """Tell whether a process with these variables computes as portable runs do."""
    return level in (AVX2, AVX512) and dict(given) == portable_variables(level)


def described(given: Mapping[str, str], level: str) -> str:
    """Return the kernels as they are recorded: the level, then each variable that matters.

    An AVX512 processor that is held back in everything is described as one with AVX2.
    """
    held_back = _held_back()
    if level == AVX512 and held_back.items() <= given.items():
        level = AVX2
    if level == AVX2:
        given = {name: value for name, value in given.items() if held_back.get(name) != value}
    pairs = [f"{name}={given[name].replace(' ', ',')}" for name in sorted(given)]
    return " ".join([level, *pairs])


def needed_variables(kernels: str, level: str) -> Variables | None:
    """Return the variables that re-create the described kernels here, as near as can be.

    Args:
        kernels: of a checkpoint's environment.
        level: of this machine.
    Returns:
        All that have to be set, the others not; None where the text says nothing of the kind.
    Raises:
        OtherEnvironment: a portable run, and the processor is below x86-64-v3.
    """
    if kernels == PORTABLE:
        return portable_variables(level)
    then, *pairs = kernels.split() or [""]
    if then not in (AVX2, AVX512):
        return None
    needed = dict(pair.split("=", 1) for pair in pairs if pair.partition("=")[0] in VARIABLES)
    return (_held_back() if (then, level) == (AVX2, AVX512) else {}) | needed


def recreate(arguments: list[str], flags: Values, screen: Screen) -> None:
    """Begin this process again if `detector train` needs other kernels than it would get.

    Args:
        arguments: DATA CFG [WEIGHTS].
        flags: of the command line.
        screen: is told why.
    Raises:
        OtherEnvironment: a portable run, and the processor is below x86-64-v3.
        Unavailable, CheckpointError: a checkpoint cannot be read.
    """
    kernels = _recorded_kernels(arguments, flags)
    if flags.get("-portable") and (kernels is None or flags.get("-allow-change")):
        kernels = PORTABLE
    needed = None if kernels is None else needed_variables(kernels, machine_level())
    restarted = os.environ.pop(RESTARTED, None)
    if needed is None or needed == given_variables() or restarted or os.name != "posix":
        return
    screen.warn(f"kernels of this run: {kernels}")
    others = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    words = [sys.executable, *sys.orig_argv[1:]]
    with suppress(OSError):  # else the rerun decides
        os.execve(sys.executable, words, others | needed | {RESTARTED: "1"})


def _recorded_kernels(arguments: list[str], flags: Values) -> str | None:
    """Return what the checkpoint that the start will probably take says about its kernels.

    Nothing is verified: the start itself does that, and says what is wrong.
    """
    try:
        folder, name = backup_folder(read_data_file(arguments[0])), run_name(arguments[1])
    except RelumeError:
        return None
    newest = [folder / f"{name}_last.weights", folder / f"{name}.backup"]
    try:
        files = [path for path in newest if path.is_file()] or run_files(folder, name)
        if len(arguments) > 2 and not flags.get("-clear"):
            given = Path(arguments[2])
            files += run_files(given, name) if given.is_dir() else [given]
    except OSError:  # a folder that may not be looked into
        return None
    claims = [claim for path in files if (claim := _claim(path)) is not None]
    return max(claims, key=lambda claim: claim[0])[1] if claims else None  # a tie: `_last`'s


def _claim(path: Path) -> tuple[int, str] | None:
    """Return iteration and kernels of a checkpoint, None if the file is none.

    Raises:
        Unavailable, CheckpointError: the disk does not give it; what then begins with other
            kernels would not be exact.
    """
    try:
        with path.open("rb") as file:
            manifest = container.read_manifest_of(file)
        return int(manifest["iteration"]), str(manifest["environment"]["kernels"])
    except Exception as error:  # a damaged archive can fail in any way
        if isinstance(error, OSError) and (unread := not_given(path, error)):
            raise unread from error
        return None
