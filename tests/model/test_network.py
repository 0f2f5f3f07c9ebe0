"""A network is wired as its cfg says, and its tensors are where a weights file wants them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from relume.formats.cfg import parse_cfg, read_cfg
from relume.formats.sections import Cfg
from relume.formats.weights import format_weights, layout, parse_weights
from relume.model.network import Network, fold_batch_norm
from tests import cfg_texts
from tests.shared import SHARED, needs_shared

DEBIAN = Path("/usr/share/darknet/cfg")


def cfg_of(text: str) -> Cfg:
    """Return a cfg as training reads it."""
    return parse_cfg(text, "net.cfg", purpose="train")


def pictures(cfg: Cfg, count: int = 2) -> Tensor:
    """Return [count, C, H, W] of the cfg's own size, in 0..1."""
    shape = (count, cfg.net.channels, cfg.net.height, cfg.net.width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def stirred(network: Network) -> Network:
    """Return the network with statistics and scales that are not the initial ones."""
    generator = torch.Generator().manual_seed(4)
    for name, tensor in network.darknet_arrays().items():
        if not name.endswith("weights"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network


@pytest.mark.parametrize(
    "text",
    [
        cfg_texts.small_cfg(),
        cfg_texts.small_cfg(batch_normalize=0),
        cfg_texts.small_cfg(dropout=0.3),
        cfg_texts.small_residual_cfg(),
        cfg_texts.yolov3_tiny_cfg(width=64, height=96),
        cfg_texts.yolov3_cfg(width=64, height=96, divide=8),
        cfg_texts.yolov3_cfg(width=64, height=96, divide=8, spp=True),
    ],
)
def test_heads_have_the_shapes_of_the_cfg_and_every_parameter_gets_a_gradient(text: str) -> None:
    cfg = cfg_of(text)
    network = Network(cfg)
    raws = network(pictures(cfg), positions=[0, 1])
    channels = [len(head.mask) * (head.classes + 5) for head in cfg.heads]
    stride = cfg.net.width // raws[0].shape[3]
    assert [raw.shape[1] for raw in raws] == channels
    assert [raw.shape[2] for raw in raws] == [
        (cfg.net.height // stride) << head for head in range(len(raws))
    ]
    torch.autograd.backward(raws, [torch.ones_like(raw) for raw in raws])
    for parameter in network.trained_parameters():
        assert parameter.tensor.grad is not None, parameter.name
        assert parameter.tensor.grad.isfinite().all(), parameter.name


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs the cfgs of Debian's package darknet")
@pytest.mark.parametrize("name", ["yolov3", "yolov3-spp", "yolov3-tiny"])
def test_darknets_own_cfgs_make_the_network_that_our_texts_make(name: str) -> None:
    theirs = read_cfg(DEBIAN / f"{name}.cfg", purpose="detect")
    text = {
        "yolov3": cfg_texts.yolov3_cfg(),
        "yolov3-spp": cfg_texts.yolov3_cfg(spp=True),
        "yolov3-tiny": cfg_texts.yolov3_tiny_cfg(),
    }[name]
    ours = cfg_of(text)
    assert layout(theirs) == layout(ours)
    assert theirs.channels == ours.channels
    assert [head.anchors_px for head in theirs.heads] == [head.anchors_px for head in ours.heads]


@needs_shared
@pytest.mark.parametrize("name", ["yoloface-50k", "yolo-fastest-1.1", "yolov3-tiny"])
def test_real_models_run(name: str) -> None:
    cfg = read_cfg(SHARED / "models" / name / f"{name}.cfg", purpose="detect")
    with torch.no_grad():
        raws = Network(cfg).eval()(pictures(cfg, 1))
    assert [raw.shape[1] for raw in raws] == [
        len(head.mask) * (head.classes + 5) for head in cfg.heads
    ]


def test_names_order_and_shapes_of_the_arrays_are_those_of_a_weights_file() -> None:
    cfg = cfg_of(cfg_texts.small_residual_cfg())
    arrays = Network(cfg).darknet_arrays()
    expected = [(spec.name, spec.shape) for spec in layout(cfg)]
    assert [(name, tuple(tensor.shape)) for name, tensor in arrays.items()] == expected


def test_the_arrays_are_live_and_survive_a_weights_file() -> None:
    cfg = cfg_of(cfg_texts.small_cfg())
    network, copy = stirred(Network(cfg)), Network(cfg, seed=None)
    arrays = {k: np.ascontiguousarray(v.numpy()) for k, v in network.darknet_arrays().items()}
    read = parse_weights(format_weights(arrays, cfg, seen=0), cfg, "memory")
    for name, tensor in copy.darknet_arrays().items():
        tensor.copy_(torch.from_numpy(read.arrays[name].copy()))
    ours, theirs = network.eval()(pictures(cfg)), copy.eval()(pictures(cfg))
    assert all(map(torch.equal, ours, theirs))


def test_trained_parameters_are_all_parameters_and_only_weights_decay() -> None:
    cfg = cfg_of(cfg_texts.small_cfg())
    network = Network(cfg)
    trained = network.trained_parameters()
    assert {id(p.tensor) for p in trained} == {id(p) for p in network.parameters()}
    assert {p.name.split(".")[1] for p in trained if p.decays} == {"weights"}
    assert {p.name.split(".")[1] for p in trained if not p.decays} == {"biases", "scales"}


def test_a_layers_own_rate_reaches_its_parameters() -> None:
    text = cfg_texts.small_cfg().replace("[convolutional]", "[convolutional]\nlearning_rate=.5", 1)
    trained = Network(cfg_of(text)).trained_parameters()
    assert {(p.layer, p.learning_rate) for p in trained if p.layer < 3} == {(0, 0.5), (2, 1.0)}


def test_statistics_fold_in_order_with_every_step_rounded_to_float32() -> None:
    cfg = cfg_of(cfg_texts.small_cfg())
    network = stirred(Network(cfg))
    before = {k: v.numpy().copy() for k, v in network.darknet_arrays().items()}
    parts = []
    for subdivision in range(3):
        network(pictures(cfg) * (subdivision + 1))
        parts.append(network.take_statistics())
    network.fold_statistics(parts)
    after = network.darknet_arrays()
    layers = [name.split(".")[0] for name in after if name.endswith("rolling_mean")]
    for layer in layers:
        for which, name in enumerate(("rolling_mean", "rolling_variance")):
            running = before[f"{layer}.{name}"]
            for part in parts:
                share = part[int(layer)][which].numpy() * np.float32(0.01)
                running = running * np.float32(0.99) + share
            assert np.array_equal(after[f"{layer}.{name}"].numpy(), running)


def test_a_pass_in_training_mode_changes_no_tensor_of_the_network() -> None:
    cfg = cfg_of(cfg_texts.small_cfg(dropout=0.3))
    network = stirred(Network(cfg))
    before = {k: v.clone() for k, v in network.darknet_arrays().items()}
    network(pictures(cfg), positions=[5, 6])
    assert all(torch.equal(v, before[k]) for k, v in network.darknet_arrays().items())


def test_statistics_can_be_taken_once_per_pass() -> None:
    cfg = cfg_of(cfg_texts.small_cfg())
    network = Network(cfg)
    network(pictures(cfg))
    network.take_statistics()
    with pytest.raises(ValueError, match="no forward pass"):
        network.take_statistics()


def test_who_names_the_layer_before_a_dropout_reads_what_it_left() -> None:
    parts = [
        cfg_texts.net(8, 8, 2, 1),
        cfg_texts.convolution(4, 1, activation="linear"),
        cfg_texts.section("dropout", probability=0.5),
        cfg_texts.section("route", layers="-1,0"),
        *cfg_texts.head((0,), "4,4", 1),
    ]
    cfg = cfg_of("\n".join(parts))
    network = Network(cfg, seed=2)
    seen: list[Tensor] = []
    network.layers[2].register_forward_hook(lambda _module, _args, output: seen.append(output))
    network(pictures(cfg), positions=[0, 1])
    assert torch.equal(seen[0][:, :4], seen[0][:, 4:])
    assert (seen[0] == 0).any()


def test_outputs_that_nobody_needs_any_more_are_let_go() -> None:
    cfg = cfg_of(cfg_texts.yolov3_cfg(width=64, height=64, divide=8))
    readers = [set(done) for done in Network(cfg, seed=None)._done_with]
    released = set().union(*readers)
    # All but the heads' own outputs, which are handed out.
    heads = {i for i, layer in enumerate(cfg.layers) if layer in cfg.heads}
    assert released == set(range(-1, len(cfg.layers))) - heads


def test_folding_batch_norm_keeps_the_numbers() -> None:
    cfg = cfg_of(cfg_texts.small_residual_cfg())
    network = stirred(Network(cfg)).eval()
    with torch.no_grad():
        ours, folded = network(pictures(cfg)), fold_batch_norm(network)(pictures(cfg))
    for a, b in zip(ours, folded, strict=True):
        # Float32 rounding of some thirty layers, relative to the largest output.
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(a.abs().max()))


def test_equal_seeds_make_equal_networks() -> None:
    cfg = cfg_of(cfg_texts.small_cfg())
    first, second, other = (Network(cfg, seed).darknet_arrays() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["0.weights"], other["0.weights"])
