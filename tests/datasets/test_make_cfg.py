"""Generated cfgs are Darknet's own nets: layer by layer, and to the last weight."""

from dataclasses import replace

import pytest

from relume.datasets.make_cfg import NETS, CfgValues, cfg_text
from relume.formats.cfg import parse_cfg, read_cfg
from relume.formats.layer_shapes import layer_sizes
from relume.formats.sections import Cfg, Convolutional
from tests.shared import SHARED, needs_shared

# Sizes of the files of weights that are published with them, for COCO's 80 classes.
WEIGHTS_BYTES = {"yolov3-tiny": 35_434_956, "yolov3": 248_007_048, "yolov3-spp": 252_209_544}


def generated(name: str, classes: int = 80, **changes: int) -> Cfg:
    settings = CfgValues(classes, NETS[name].anchors_px, **changes)
    return parse_cfg(cfg_text(name, settings, "a title\nof two lines"), "net.cfg", "train")


def weights_bytes(cfg: Cfg) -> int:
    """Return the size of a weights file of this net."""
    before = (cfg.net.channels, cfg.net.height, cfg.net.width)
    sizes = [before, *layer_sizes(cfg, cfg.net.width, cfg.net.height)]
    numbers = 0
    for (channels, _, _), layer in zip(sizes, cfg.layers, strict=False):
        if isinstance(layer, Convolutional):
            numbers += layer.filters * channels * layer.size**2
            numbers += layer.filters * (4 if layer.batch_normalize else 1)
    return 20 + 4 * numbers


@pytest.mark.parametrize("name", NETS)
def test_a_net_has_as_many_weights_as_darknets_own(name: str) -> None:
    assert weights_bytes(generated(name)) == WEIGHTS_BYTES[name]


@needs_shared
def test_the_tiny_net_is_darknets_layer_by_layer() -> None:
    own = read_cfg(SHARED / "models" / "yolov3-tiny" / "yolov3-tiny.cfg", "detect")
    cfg = generated("yolov3-tiny")

    layers = [[replace(layer, line=0) for layer in each.layers] for each in (cfg, own)]
    assert layers[0] == layers[1]
    changed = {"line", "batch", "written_batch", "subdivisions", "max_batches", "steps"}
    changed |= {"sgdr_cycle"}  # of the standard value max_batches
    assert {key for key, value in vars(cfg.net).items() if value != vars(own.net)[key]} <= changed


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("classes", [1, 3])
def test_heads_fit_the_classes_whatever_the_size(name: str, classes: int) -> None:
    cfg = generated(name, classes, width=96, height=64, batch=4, subdivisions=2)

    assert {head.classes for head in cfg.heads} == {classes}
    masks = [head.mask for head in cfg.heads]
    assert sorted(i for mask in masks for i in mask) == list(range(len(NETS[name].anchors_px)))
    assert (cfg.net.width, cfg.net.height, cfg.net.batch, cfg.net.subdivisions) == (96, 64, 4, 2)


@pytest.mark.parametrize(
    ("classes", "pictures", "max_batches", "steps"),
    [
        (1, 100, 6000, (4800, 5400)),
        (3, 6001, 6001, (4800, 5400)),
        (4, 100, 8000, (6400, 7200)),
        (80, 118_287, 160_000, (128_000, 144_000)),
    ],
)
def test_length_and_steps_follow_darknets_rule_of_thumb(
    classes: int, pictures: int, max_batches: int, steps: tuple[int, int]
) -> None:
    cfg = generated("yolov3-tiny", classes, pictures=pictures)

    assert (cfg.net.max_batches, cfg.net.steps) == (max_batches, steps)
