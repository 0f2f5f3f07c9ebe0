"""What runs fused computes what it did before, on every kind of layer and any size."""

from pathlib import Path

import numpy as np
import pytest
import torch

from relume.formats.cfg import read_cfg
from relume.formats.sections import Maxpool as MaxpoolSection
from relume.model.inference import FUSED, FusedConvolution, PairMaxpool, run_fused
from relume.model.layers import ACTIVATIONS, Maxpool
from relume.model.network import Network, fold_batch_norm
from tests.cfg_texts import small_cfg, yolov3_tiny_cfg


def images(count: int, side: int) -> torch.Tensor:
    random = np.random.Generator(np.random.Philox(side))
    return torch.from_numpy(random.random((count, 3, side, side), np.float32))


def network(path: Path, text: str) -> Network:
    """Return a network for detection, with random weights and statistics."""
    path.write_text(text)
    net = Network(read_cfg(str(path), "detect"), seed=2).eval()
    random = np.random.Generator(np.random.Philox(1))
    for name, tensor in net.darknet_arrays().items():
        if name.endswith("rolling_variance"):
            tensor.copy_(torch.from_numpy(random.random(tensor.shape, np.float32) + 0.5))
    return fold_batch_norm(net)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_is_that_of_the_layer(tmp_path: Path, activation: str) -> None:
    text = small_cfg().replace("activation=leaky", f"activation={activation}")
    plain = network(tmp_path / "net.cfg", text)
    with torch.no_grad():
        expected = plain(images(2, 64))
        fused = run_fused(plain)(images(2, 64))

    assert any(isinstance(layer, FusedConvolution) for layer in plain.layers)
    for one, other in zip(fused, expected, strict=True):
        # Sums of some hundred products in another order.
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_another_size_or_number_of_images_than_the_first_is_right_too(tmp_path: Path) -> None:
    plain = network(tmp_path / "net.cfg", yolov3_tiny_cfg(96, 96, classes=2))
    given = [images(1, 96), images(3, 96), images(1, 160), images(1, 96)]
    with torch.no_grad():
        expected = [plain(batch) for batch in given]
        fused = run_fused(plain)
        for batch, raws in zip(given, expected, strict=True):
            for one, other in zip(fused(batch), raws, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert sum(isinstance(layer, PairMaxpool) for layer in fused.layers) == 6


@pytest.mark.parametrize("writes_over_input", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 8), (7, 8), (6, 9), (1, 1), (1, 2)])
def test_a_pool_of_pairs_is_the_pool_it_replaces(
    tmp_path: Path, size: tuple[int, int], stride: int, writes_over_input: bool
) -> None:
    path = tmp_path / "net.cfg"
    path.write_text(yolov3_tiny_cfg(96, 96, classes=2))
    sections = [x for x in read_cfg(str(path), "detect").layers if isinstance(x, MaxpoolSection)]
    pool = Maxpool(next(x for x in sections if x.stride_x == stride))
    values = images(2, 16)[:, :, : size[0], : size[1]]
    expected = pool(values)

    fused = PairMaxpool(pool, writes_over_input=writes_over_input)
    assert torch.equal(fused(values.clone()), expected)
    if not writes_over_input:
        fused(values)
        assert torch.equal(pool(values), expected)


VIEW_CFG = """
[net]
width=64
height=64
channels=3
[convolutional]
filters=4
size=3
stride=1
pad=1
activation=leaky
[route]
layers=-1
[maxpool]
size=2
stride=2
[route]
layers=0
[convolutional]
filters=18
size=1
activation=linear
[yolo]
mask=0,1,2
anchors=1,2, 3,4, 5,6
classes=1
num=3
"""
"""A pool of what is a view of the first layer's output, which is read once more."""


def test_a_pool_does_not_write_over_what_its_input_is_a_view_of(tmp_path: Path) -> None:
    plain = network(tmp_path / "net.cfg", VIEW_CFG)
    with torch.no_grad():
        (expected,) = plain(images(1, 64))
        (raw,) = run_fused(plain)(images(1, 64))
    torch.testing.assert_close(raw, expected, rtol=1e-4, atol=1e-4)


def test_a_pool_writes_over_nothing_that_a_route_reads_later(tmp_path: Path) -> None:
    text = yolov3_tiny_cfg(96, 96, classes=2)
    net = run_fused(network(tmp_path / "net.cfg", text))
    pools = [layer for layer in net.layers if isinstance(layer, PairMaxpool)]

    # The last halving pool's input is read once more, by the second route of yolov3-tiny.
    assert [pool._writes_over_input for pool in pools] == [True] * 4 + [False, True]


def test_what_onednn_does_not_know_is_not_fused() -> None:
    assert ACTIVATIONS.keys() - FUSED.keys() == {"mish"}


def test_batch_norm_that_is_not_folded_stays(tmp_path: Path) -> None:
    path = tmp_path / "net.cfg"
    path.write_text(small_cfg())
    cfg = read_cfg(str(path), "detect")
    net = run_fused(Network(cfg, seed=0).eval())

    assert len(net.batch_norms()) > 0
