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
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

# What NumPy itself sees of the processor; it has no public name, and no types.
from numpy._core._multiarray_umath import (  # type: ignore[import-not-found]
    __cpu_baseline__,
    __cpu_dispatch__,
    __cpu_features__,
)

from relume.checkpoint import container
from relume.checkpoint.archive import Malformed
from relume.checkpoint.folder import run_files
from relume.checkpoint.reading import not_given
from relume.command_table import Values
from relume.errors import OtherEnvironment, RelumeError
from relume.formats.data_files import read_data_file
from relume.formats.places import open_regular
from relume.screen import Screen
from relume.spec import backup_folder, run_name

Variables = dict[str, str]

_ISA = r"DEFAULT|ALL|SSE41|AVX|AVX2(_VNNI(_2)?)?|AVX512_CORE(_\w{1,20})?|AVX10_\w{1,20}"
_HINTS, _MATH = "NO_HINTS|PREFER_YMM", "STRICT|BF16|F16|TF32|ANY"
_FEATURE = r"(SSE|AVX|FP16|FMA3|POPCNT)[\w.-]{0,20}"
VALUES = {
    "ATEN_CPU_CAPABILITY": "default|avx2|avx512",
    "ONEDNN_MAX_CPU_ISA": _ISA,
    "DNNL_MAX_CPU_ISA": _ISA,
    "ONEDNN_CPU_ISA_HINTS": _HINTS,
    "DNNL_CPU_ISA_HINTS": _HINTS,
    "ONEDNN_DEFAULT_FPMATH_MODE": _MATH,
    "DNNL_DEFAULT_FPMATH_MODE": _MATH,
    "MKL_CBWR": r"AUTO|OFF|BRANCH|BRANCH_OFF|COMPATIBLE|SSE\w{1,6}|AVX\w{0,12}(,STRICT)?",
    "MKL_ENABLE_INSTRUCTIONS": r"SSE4_2|AVX|AVX2(_E1)?|AVX512(_E[1-5]|_MIC(_E1)?)?",
    "OPENBLAS_CORETYPE": "Prescott|Nehalem|Sandybridge|Haswell|Zen",
    "NPY_DISABLE_CPU_FEATURES": "",
    "NPY_ENABLE_CPU_FEATURES": "",
    "OPENCV_CPU_DISABLE": rf"{_FEATURE}(,{_FEATURE}){{0,9}}",
    "OPENCV_IPP": "disabled|sse42|avx2|avx512|ne",
    "OMP_DYNAMIC": "(?i:true|false|0|1)",
    "OMP_THREAD_LIMIT": r"[1-9]\d{0,4}",
}
"""What the libraries read when they are loaded, and the values that a checkpoint may ask for.

Of NumPy's any features that this processor has; see `_is_harmless`.
"""
VARIABLES = tuple(VALUES)
LEAST_FEATURES = frozenset(["SSE", "SSE2", "SSE3", "X86_V2"])
"""Without which no NumPy loads."""
TAKEN_AS_GIVEN = frozenset(["ATEN_CPU_CAPABILITY", "OPENCV_IPP"])
"""Whose library does not ask whether the processor can do that."""

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

    The text comes from a file that nobody has verified yet, and the variables act on libraries
    before any of this program does: so only values of known meaning are taken over. Others are
    left out; then the rerun decides whether the run goes on exactly.

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
    needed = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    known = {name: value for name, value in needed.items() if _is_harmless(name, value, level)}
    return (_held_back() if (then, level) == (AVX2, AVX512) else {}) | known


def _is_harmless(name: str, value: str, level: str) -> bool:
    """Tell whether a library can be told this on a processor of this level.

    Kernels above the level would end the process at an unknown instruction; NumPy refuses to
    load where it is told to use features that are not there, or to do without its least ones.
    """
    if name == "NPY_DISABLE_CPU_FEATURES":
        features = value.split(",")
        known = all(re.fullmatch(r"\w{1,30}", feature) for feature in features)
        return known and not {*features} & {*__cpu_baseline__, *LEAST_FEATURES}
    if name == "NPY_ENABLE_CPU_FEATURES":
        here: Mapping[str, bool] = __cpu_features__
        return all(here.get(feature) for feature in value.split(","))
    return re.fullmatch(VALUES.get(name, "(?!)"), value) is not None and (
        level == AVX512 or name not in TAKEN_AS_GIVEN or "512" not in value
    )


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
        with open_regular(path) as file:
            manifest = container.read_manifest_of(file)
    except OSError as error:
        if unread := not_given(path, error):
            raise unread from error
        return None
    except Malformed:  # a plain file, or a damaged one; the start says which
        return None
    kernels = manifest["environment"].get("kernels")
    return None if kernels is None else (manifest["iteration"], kernels)
