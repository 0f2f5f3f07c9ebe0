"""What is said of the kernels, and what re-creates them."""

from dataclasses import replace
from pathlib import Path

import pytest

import relume.kernels
from relume.checkpoint import container
from relume.errors import OtherEnvironment
from relume.kernels import (
    AVX2,
    AVX512,
    PORTABLE,
    described,
    is_portable,
    machine_level,
    needed_variables,
    portable_variables,
    recreate,
)
from relume.screen import Screen
from tests.checkpoint.states import tiny_state

ATEN_ALONE = {"ATEN_CPU_CAPABILITY": "avx2"}


def held_back() -> dict[str, str]:
    needed = needed_variables(AVX2, AVX512)
    assert needed is not None
    return needed


def test_this_processor_has_a_level_that_pytorch_knows() -> None:
    import torch

    assert torch.backends.cpu.get_cpu_capability() in (machine_level(), AVX2, "DEFAULT")


@pytest.mark.parametrize("level", [AVX2, AVX512])
def test_a_processor_that_nothing_holds_back_is_its_level(level: str) -> None:
    assert described({}, level) == level
    assert needed_variables(level, level) == {}


def test_a_processor_that_is_held_back_in_everything_is_one_of_the_lower_level() -> None:
    assert described(held_back(), AVX512) == AVX2


def test_a_variable_of_one_library_is_said_and_re_created() -> None:
    text = described(ATEN_ALONE, AVX512)

    assert text == "AVX512 ATEN_CPU_CAPABILITY=avx2"
    assert needed_variables(text, AVX512) == ATEN_ALONE


def test_a_variable_without_effect_is_not_said() -> None:
    assert described(ATEN_ALONE, AVX2) == AVX2


def test_another_variable_goes_along_to_the_faster_processor() -> None:
    text = described({"MKL_CBWR": "AUTO"}, AVX2)
    needed = needed_variables(text, AVX512)

    assert text == "AVX2 MKL_CBWR=AUTO"
    assert needed == {**held_back(), "MKL_CBWR": "AUTO"}
    assert described(needed, AVX512) == text


def test_a_value_of_several_words_is_one_word_of_the_text() -> None:
    text = described({"NPY_DISABLE_CPU_FEATURES": "AVX512_ICL AVX512_SPR"}, AVX512)

    assert text == "AVX512 NPY_DISABLE_CPU_FEATURES=AVX512_ICL,AVX512_SPR"
    assert needed_variables(text, AVX512) == {"NPY_DISABLE_CPU_FEATURES": "AVX512_ICL,AVX512_SPR"}


def test_the_higher_level_cannot_be_had_on_the_lower_processor() -> None:
    assert needed_variables(AVX512, AVX2) == {}
    assert described({}, AVX2) != AVX512


@pytest.mark.parametrize("text", ["", "DEFAULT", "SVE256", "AVX 1"])
def test_what_says_nothing_of_a_level_leaves_all_variables_alone(text: str) -> None:
    assert needed_variables(text, AVX512) is None


@pytest.mark.parametrize("level", [AVX2, AVX512])
def test_a_portable_run_has_its_variables_and_no_others(level: str) -> None:
    variables = portable_variables(level)

    assert needed_variables(PORTABLE, level) == variables
    assert is_portable(variables, level)
    assert not is_portable({**variables, "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}, level)
    assert not is_portable({}, level)


def test_a_processor_below_the_common_level_is_refused() -> None:
    assert not is_portable({}, "")
    with pytest.raises(OtherEnvironment, match="no AVX2 and FMA"):
        needed_variables(PORTABLE, "")


def test_of_two_checkpoints_of_one_iteration_the_kernels_are_those_of_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a mark: the generation before it names the kernels that the run has left."""
    data = tmp_path / "obj.data"
    data.write_text(f"classes = 1\ntrain = t\nnames = n\nbackup = {tmp_path}\n")
    for file, kernels in (("net_last.weights", AVX2), ("net.backup", AVX512)):
        state = tiny_state()
        environment = {**state.environment, "kernels": kernels}
        (tmp_path / file).write_bytes(container.pack(replace(state, environment=environment)))
    asked: list[str] = []
    monkeypatch.setattr(relume.kernels, "needed_variables", lambda text, level: asked.append(text))

    recreate([str(data), "net.cfg"], {}, Screen())

    assert asked == [AVX2]


HOSTILE = (
    *("LD_PRELOAD=/tmp/x.so", "PYTHONPATH=/tmp", "PATH=/tmp", "OMP_TOOL_LIBRARIES=/tmp/x.so"),
    *("ATEN_CPU_CAPABILITY=avx512", "OPENBLAS_CORETYPE=SkylakeX", "OPENCV_IPP=avx512"),
    *("NPY_DISABLE_CPU_FEATURES=SSE2", "NPY_DISABLE_CPU_FEATURES=X86_V2,SSE3"),
    *("NPY_ENABLE_CPU_FEATURES=NO_SUCH", "NPY_ENABLE_CPU_FEATURES="),
    *("ONEDNN_MAX_CPU_ISA=../../x", "MKL_CBWR=AUTO\0", "OMP_THREAD_LIMIT=99999999", "OMP_DYNAMIC"),
    *("MKL_CBWR=" + "A" * 10_000, "\0", "=", "=x", "MKL_CBWR=é"),
)


@pytest.mark.parametrize("pair", HOSTILE)
def test_no_checkpoint_sets_a_variable_to_what_is_not_known(pair: str) -> None:
    assert needed_variables(f"{AVX2} OMP_DYNAMIC=FALSE {pair}", AVX2) == {"OMP_DYNAMIC": "FALSE"}


def test_features_of_numpy_that_are_no_part_of_it_may_be_left_out() -> None:
    name = "NPY_DISABLE_CPU_FEATURES"

    assert needed_variables(f"{AVX512} {name}=AVX512F,OF_ANOTHER_NUMPY", AVX512) == {
        name: "AVX512F,OF_ANOTHER_NUMPY"
    }


@pytest.mark.parametrize("folder", ["x" * 300, "/" + "x" * 300])
def test_a_folder_that_cannot_be_looked_into_is_left_to_the_start(
    tmp_path: Path, folder: str
) -> None:
    data = tmp_path / "obj.data"
    data.write_text(f"classes = 1\ntrain = t\nnames = n\nbackup = {folder}\n")

    recreate([str(data), "net.cfg"], {}, Screen())
