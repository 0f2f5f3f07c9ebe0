"""Each layer does what its section says, in Darknet's geometry."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from relume.formats import sections
from relume.model.layers import Convolutional, Dropout, Maxpool, Route, Shortcut, Upsample

FEW = settings(max_examples=60, deadline=None)


def picture(channels: int, height: int, width: int, images: int = 2) -> Tensor:
    """Return [images, channels, height, width], a function of its shape."""
    generator = torch.Generator().manual_seed(channels * 10007 + height * 101 + width)
    return torch.randn(images, channels, height, width, generator=generator)


def maxpool_by_loops(x: Tensor, s: sections.Maxpool) -> Tensor:
    """Return what forward_maxpool_layer returns, cell by cell: -FLT_MAX where no value is."""
    images, channels, height, width = x.shape
    out_height = (height + s.padding - s.size) // s.stride_y + 1
    out_width = (width + s.padding - s.size) // s.stride_x + 1
    out = torch.full((images, channels, out_height, out_width), torch.finfo(torch.float32).min)
    for i in range(out_height):
        for j in range(out_width):
            top, left = i * s.stride_y - s.padding // 2, j * s.stride_x - s.padding // 2
            bottom, right = max(top + s.size, 0), max(left + s.size, 0)
            window = x[:, :, max(top, 0) : bottom, max(left, 0) : right]
            if window.numel():
                out[:, :, i, j] = window.amax((2, 3))
    return out


@FEW
@given(
    size=st.integers(1, 9),
    stride_x=st.integers(1, 3),
    stride_y=st.integers(1, 3),
    height=st.integers(9, 16),
    width=st.integers(9, 16),
    padding=st.integers(0, 24),
)
@example(size=2, stride_x=2, stride_y=3, height=9, width=10, padding=9)
def test_maxpool_has_darknets_windows(
    size: int, stride_x: int, stride_y: int, height: int, width: int, padding: int
) -> None:
    section = sections.Maxpool(
        line=1, size=size, stride_x=stride_x, stride_y=stride_y, padding=padding
    )
    x = picture(2, height, width).requires_grad_()
    pooled, expected = Maxpool(section)(x), maxpool_by_loops(x, section)
    assert torch.equal(pooled, expected)

    # Small integers: their sums are exact in any order.
    gradient = torch.arange(pooled.numel()).remainder(7).reshape(pooled.shape).float()
    ours, theirs = (torch.autograd.grad(y, x, gradient)[0] for y in (pooled, expected))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (2, 1), (5, 1), (13, 1), (8, 2), (4, 2)])
def test_maxpool_of_default_padding_divides_the_size_by_the_stride(size: int, stride: int) -> None:
    section = sections.Maxpool(
        line=1, size=size, stride_x=stride, stride_y=stride, padding=size - 1
    )
    assert Maxpool(section)(picture(1, 26, 28)).shape[2:] == (26 // stride, 28 // stride)


def test_the_first_of_equal_values_gets_the_gradient_of_a_maxpool() -> None:
    section = sections.Maxpool(line=1, size=2, stride_x=1, stride_y=1, padding=1)
    x = torch.ones(1, 1, 3, 3, requires_grad=True)
    Maxpool(section)(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones(1, 1, 3, 3))


def test_route_takes_the_same_slice_of_every_source() -> None:
    a, b = picture(4, 3, 3), picture(8, 3, 3)
    section = sections.Route(line=1, layers=(0, 1), groups=2, group_id=1)
    assert torch.equal(Route(section)(a, b), torch.cat((a[:, 2:], b[:, 4:]), 1))


def test_a_narrower_source_of_a_shortcut_joins_the_first_channels() -> None:
    wide, narrow = picture(4, 3, 3), picture(2, 3, 3)
    expected = wide.clone()
    expected[:, :2] += narrow
    section = sections.Shortcut(line=1, sources=(0,))
    assert torch.equal(Shortcut(section)(wide, narrow), expected)


def test_a_shortcut_changes_none_of_its_sources() -> None:
    a, b = picture(2, 3, 3), picture(2, 3, 3).neg()
    before = a.clone(), b.clone()
    Shortcut(sections.Shortcut(line=1, sources=(0,), activation="leaky"))(a, b)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


def test_upsample_repeats_every_value() -> None:
    x = picture(2, 3, 4)
    expected = x.repeat_interleave(3, 2).repeat_interleave(3, 3)
    assert torch.equal(Upsample(sections.Upsample(line=1, stride=3))(x), expected)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("linear", lambda x: x),
        ("leaky", lambda x: x if x > 0 else 0.1 * x),
        ("logistic", lambda x: 1 / (1 + math.exp(-x))),
        ("relu", lambda x: max(x, 0.0)),
        ("mish", lambda x: x * math.tanh(math.log1p(math.exp(x)))),
        ("swish", lambda x: x / (1 + math.exp(-x))),
    ],
)
def test_activations_follow_darknets_formulas(activation: str, expected: object) -> None:
    assert callable(expected)
    section = sections.Convolutional(line=1, filters=1, activation=activation)
    layer = Convolutional(section, 1)
    torch.nn.init.ones_(layer.weight)
    x = torch.linspace(-6, 6, 49)
    with torch.no_grad():
        ours = layer(x.reshape(1, 1, 7, 7)).flatten()
    theirs = torch.tensor([expected(float(value)) for value in x])
    # One is computed in float32, the other in double.
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_batch_norm_leaves_its_statistics_aside_and_the_running_ones_alone() -> None:
    section = sections.Convolutional(
        line=1, filters=3, size=3, padding=1, batch_normalize=True, activation="linear"
    )
    layer = Convolutional(section, 2)
    layer.draw_weights(5, 0)
    x = picture(2, 6, 6, images=4)
    with torch.no_grad():
        y = layer(x)
        plain = torch.nn.functional.conv2d(x, layer.weight, padding=1)
    assert layer.batch_statistics is not None
    mean, variance = layer.batch_statistics
    # Sums of 144 float32 numbers in another order.
    torch.testing.assert_close(mean, plain.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(variance, plain.var((0, 2, 3)), rtol=1e-5, atol=1e-6)
    deviation = (plain.var((0, 2, 3), correction=0) + 1e-5).sqrt()
    expected = (plain - mean[:, None, None]) / deviation[:, None, None]
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert torch.equal(layer.running_variance, torch.zeros(3))


def test_a_nan_in_one_pass_does_not_stay_in_the_statistics_of_the_next() -> None:
    section = sections.Convolutional(line=1, filters=2, batch_normalize=True, activation="leaky")
    layer = Convolutional(section, 1)
    layer.draw_weights(1, 0)
    layer(torch.full((1, 1, 4, 4), math.nan))
    layer(picture(1, 4, 4))
    assert layer.batch_statistics is not None
    assert all(part.isfinite().all() for part in layer.batch_statistics)


def test_initial_weights_fill_darknets_range_and_depend_on_seed_and_layer_only() -> None:
    section = sections.Convolutional(line=1, filters=64, size=3, groups=2)

    def drawn(seed: int, layer: int) -> Tensor:
        convolution = Convolutional(section, 32)
        convolution.draw_weights(seed, layer)
        return convolution.weight.detach().clone()

    weights = drawn(7, 3)
    bound = math.sqrt(2 / (3 * 3 * 16))
    assert weights.shape == (64, 16, 3, 3)
    # 9,216 uniform numbers: their extremes come this near to the bounds.
    assert 0.998 * bound < weights.max() <= bound * (1 + 1e-6)
    assert -bound * (1 + 1e-6) <= weights.min() < -0.998 * bound
    assert torch.equal(weights, drawn(7, 3))
    assert not torch.equal(weights, drawn(7, 4))
    assert not torch.equal(weights, drawn(8, 3))


def test_a_dropout_mask_belongs_to_its_position_and_not_to_its_neighbours() -> None:
    layer = Dropout(sections.Dropout(line=1, probability=0.3), seed=11, layer=4)
    x = torch.ones(1, 5, 7, 9)
    alone = layer(x, [12])
    together = layer(x.repeat(3, 1, 1, 1), [11, 12, 13])
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])


def test_dropout_drops_its_share_and_scales_the_rest() -> None:
    layer = Dropout(sections.Dropout(line=1, probability=0.3), seed=11, layer=4)
    y = layer(torch.ones(1, 100, 40, 25), [0])
    assert set(y.unique().tolist()) == {0.0, float(np.float32(1 / 0.7))}
    # 100,000 draws: one standard deviation of the share is .0014.
    assert abs(float((y == 0).float().mean()) - 0.3) < 0.006


def test_dropout_passes_everything_on_in_detection() -> None:
    layer = Dropout(sections.Dropout(line=1, probability=0.3), seed=11, layer=4).eval()
    x = picture(2, 3, 3)
    assert torch.equal(layer(x, ()), x)
