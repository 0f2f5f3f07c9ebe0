"""`relume export` as a person uses it: flags, messages, what is written and what is left alone."""

import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest

from relume.formats.cfg import parse_cfg
from relume.model.network import Network
from tests import cfg_texts
from tests.command_line import relume
from tests.commands.test_weights_files import random_weights
from tests.contract.small_runs import sgd_cfg
from tests.export.onnx_models import both, run
from tests.export.test_model import noise


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """net.cfg, net.weights and obj.names in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("net.cfg").write_text(cfg_texts.small_cfg())
    Path("net.weights").write_bytes(random_weights(Path("net.cfg"), 1))
    Path("obj.names").write_text("cat\ndog\nöl\n")
    return tmp_path


def export(*flags: object, weights: str = "net.weights") -> onnx.ModelProto:
    """Export to out.onnx, which must go well, and return the model."""
    ended = relume("export", "net.cfg", weights, "out.onnx", "-force", *flags)
    assert (ended.status, ended.err) == (0, "")
    return onnx.load("out.onnx")


def shapes(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    """Return the dimensions of input and outputs by name."""
    return {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }


def properties(model: onnx.ModelProto) -> dict[str, str]:
    """Return what the model says of itself."""
    return {entry.key: entry.value for entry in model.metadata_props}


def test_what_is_written_is_told_with_its_names_and_sizes() -> None:
    ended = relume("export", "net.cfg", "net.weights", "out.onnx")
    size = Path("out.onnx").stat().st_size

    assert (ended.status, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "input images: float32 [1, 3, 64, 64]",
        "output boxes_xywh_rel: float32 [1, 240, 4]",
        "output probabilities: float32 [1, 240, 3]",
        f"out.onnx: opset 28, {size:,} bytes",
    ]


def test_flags_say_what_the_model_takes_and_gives() -> None:
    assert shapes(export("-raw", "-batch", 4)) == {
        "images": [4, 3, 64, 64],
        "13.yolo": [4, 24, 4, 4],
        "20.yolo": [4, 24, 8, 8],
    }
    assert shapes(export("-batch", 0, "-width", 96, "-height", 32)) == {
        "images": ["batch", 3, 32, 96],
        "boxes_xywh_rel": ["batch", 180, 4],
        "probabilities": ["batch", 180, 3],
    }
    assert shapes(export("-nms", 0.45)) == {
        "images": [1, 3, 64, 64],
        "boxes_xywh_rel": ["detections", 4],
        "probabilities": ["detections"],
        "class_numbers": ["detections"],
        "image_numbers": ["detections"],
    }
    assert export("-opset", 19).opset_import[0].version == 19


def test_the_model_tells_who_made_it_and_what_it_wants() -> None:
    model = export("-names", "obj.names", "-nms", 0.4, "-thresh", 0.3)
    said = properties(model)

    assert model.producer_name == "relume"
    assert json.loads(said["names"]) == ["cat", "dog", "öl"]
    assert said["input"] == "RGB, 0 to 1, stretched to this size"
    assert (said["cfg"], said["thresh"], said["nms"]) == ("net.cfg", "0.3", "0.4")
    heads = json.loads(properties(export("-raw"))["heads"])
    assert [head["mask"] for head in heads] == [[3, 4, 5], [0, 1, 2]]


@pytest.mark.parametrize("flags", [(), ("-raw",), ("-nms", 0.45, "-max_boxes", 10)])
def test_the_same_command_writes_the_same_bytes(flags: tuple[object, ...]) -> None:
    export(*flags)
    before = Path("out.onnx").read_bytes()
    export(*flags)

    assert Path("out.onnx").read_bytes() == before


def test_another_width_and_height_give_the_numbers_of_a_cfg_that_has_them() -> None:
    wide = cfg_texts.small_cfg().replace("width=64", "width=96")
    export("-width", 96, "-names", "obj.names")
    model = Path("out.onnx").read_bytes()
    Path("net.cfg").write_text(wide)
    export()
    images = noise(both(Network(parse_cfg(wide, "net.cfg", "detect"))))

    for theirs, ours in zip(
        run(model, images).values(),
        run(Path("out.onnx").read_bytes(), images).values(),
        strict=True,
    ):
        assert np.array_equal(theirs, ours)


def test_a_cfg_that_asks_for_another_suppression_is_told_of() -> None:
    Path("net.cfg").write_text(cfg_texts.small_cfg(yolo={"nms_kind": "greedynms"}))
    ended = relume("export", "net.cfg", "net.weights", "out.onnx", "-nms", 0.45)

    assert ended.status == 0
    said = "relume: net.cfg: nms_kind=greedynms cannot be had in ONNX; the model goes by IoU\n"
    assert ended.err == said


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("net.cfg", "net.weights", "no/out"), "no/out: no does not exist; an existing folder"),
        (("net.cfg", "net.weights", "net.weights", "-force"), "net.weights: is net.weights its"),
        (("net.cfg", "net.weights", "obj.names"), "obj.names: there already; -force replaces it"),
        (
            ("net.cfg", "net.weights", "obj.names", "-names", "obj.names", "-force"),
            "obj.names: is obj.names itself; another file to write",
        ),
        (("none.cfg", "net.weights", "out.onnx"), "none.cfg: "),
        (("net.cfg", "none", "out.onnx"), "none: cannot be read (No such file or directory)"),
        (("net.weights", "net.cfg", "out.onnx"), "net.weights"),
        (("net.cfg", "net.weights"), "relume export: 2 arguments; needed: CFG WEIGHTS OUT"),
        (("net.cfg", "net.weights", "out.onnx", "-nms"), "-nms: the value is missing"),
        (("net.cfg", "net.weights", "out.onnx", "-raw", "-nms", ".4"), "-raw -nms: cannot both"),
        (("net.cfg", "net.weights", "out.onnx", "-thresh", ".4"), "-thresh: has no effect here"),
        (("net.cfg", "net.weights", "out.onnx", "-max_boxes", "4"), "-max_boxes: has no effect"),
        (
            ("net.cfg", "net.weights", "out.onnx", "-nms", "45"),
            "-nms: 45; a number from 0 to 1; see relume export -h",
        ),
        (("net.cfg", "net.weights", "out.onnx", "-nms", ".4", "-max_boxes", "0"), "-max_boxes: 0"),
        (("net.cfg", "net.weights", "out.onnx", "-opset", "17"), "-opset: 17; a number from 18"),
        (("net.cfg", "net.weights", "out.onnx", "-batch", "-1"), "-batch: -1; a number from 0"),
        (("net.cfg", "net.weights", "out.onnx", "-width", "50"), "net.cfg:"),
        (("net.cfg", "net.weights", "out.onnx", "-names", "two"), "two: has 2 names; 3, the cla"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(words: tuple[str, ...], error: str) -> None:
    Path("two").write_text("cat\ndog\n")
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    ended = relume("export", *words)

    assert ended.status == 2
    assert ended.error.startswith(error)
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


def test_weights_of_another_net_are_refused() -> None:
    Path("other.cfg").write_text(sgd_cfg(max_batches=4, classes=5))
    Path("other.weights").write_bytes(random_weights(Path("other.cfg"), 1))
    ended = relume("export", "net.cfg", "other.weights", "out.onnx")

    assert ended.status == 2
    assert "the weights of net.cfg" in ended.error
    assert not Path("out.onnx").exists()


def test_without_the_package_onnx_the_command_says_what_to_install() -> None:
    loaded = [name for name in sys.modules if name.startswith("relume.export.")]
    without = dict.fromkeys(("onnx", *(n for n in loaded if n != "relume.export.form")))
    with mock.patch.dict(sys.modules, without):
        ended = relume("export", "net.cfg", "net.weights", "out.onnx")

    assert ended.status == 2
    assert ended.error.startswith("relume export: needs the package onnx (")
    assert ended.error.endswith("; pip install onnx")
