"""One iteration: sums in a fixed order, and nothing updated by a loss that is not finite."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relume.data.batch import MiniBatch
from relume.distributed.group import ALONE
from relume.distributed.tree import GradientTree
from relume.errors import NotFinite
from relume.formats.cfg import parse_cfg
from relume.model.network import Network
from relume.spec import Recipe
from relume.train.optimizer import Optimizer, build_optimizer
from relume.train.partial import Partial, Share
from relume.train.step import (
    Report,
    are_finite,
    images_to_tensor,
    train_subdivision,
    update,
    updated_average,
)
from relume.train.together import Told, Wish, put_together
from tests.checkpoint.states import tiny_cfg


def tree_sum(leaves: list[np.float32]) -> np.float32:
    """Add neighbours level by level; an odd one moves up."""
    while len(leaves) > 1:
        pairs = [a + b for a, b in zip(leaves[::2], leaves[1::2], strict=False)]
        leaves = pairs + leaves[2 * len(pairs) :]
    return leaves[0]


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40))
def test_gradients_are_summed_in_the_fixed_tree(values: list[float]) -> None:
    tree = GradientTree()
    most = 0
    for value in values:
        tree.add([torch.tensor([value]), torch.tensor([value])])
        most = max(most, len(tree._waiting))

    (total, again) = tree.total()

    assert total.numpy()[0] == again.numpy()[0] == tree_sum([np.float32(v) for v in values])
    assert most <= len(values).bit_length()


def test_the_average_is_computed_in_double_and_kept_in_float32() -> None:
    # C: avg_loss = avg_loss*.9 + loss*.1 with float variables and double constants.
    average = updated_average(None, 7.25)
    assert average == 7.25
    for loss in (3.1, 0.7, 12.3):
        expected = np.float32(average * 0.9 + float(np.float32(loss)) * 0.1)
        average = updated_average(average, float(np.float32(loss)))
        assert average == expected


def test_pixels_become_floats_from_0_to_1_in_channels_last_memory() -> None:
    images = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)

    tensor = images_to_tensor(images, torch.device("cpu"))

    assert tensor.shape == (2, 3, 4, 5)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(tensor, torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)


NO_RECIPE: Recipe = None  # type: ignore[assignment]  # asked only where processes differ


def network_of(subdivisions: int = 2) -> Network:
    cfg = parse_cfg(tiny_cfg(batch=4, subdivisions=subdivisions), "net.cfg", "train")
    return Network(cfg).train()


def mini_batches(network: Network, first: int = 0) -> Iterator[MiniBatch]:
    """Yield made-up mini-batches without end; a sample depends on its position alone."""
    size = network.cfg.net.mini_batch
    while True:
        positions = tuple(range(first, first + size))
        pictures = [
            np.random.Generator(np.random.PCG64(p)).integers(0, 256, (32, 32, 3), np.uint8)
            for p in positions
        ]
        boxes = np.full((size, 1, 4), 0.4, np.float32)
        yield MiniBatch(
            images=np.stack(pictures),
            boxes_xywh_rel=boxes,
            classes=np.zeros((size, 1), np.int64),
            positions=positions,
            pictures=(1,) * size,
            indices=positions,
            digests=np.array(positions, np.uint64),
        )
        first += size


def train_iteration(
    network: Network,
    optimizer: Optimizer,
    batches: Iterator[MiniBatch],
    iteration: int,
    rate: float,
) -> tuple[Report, Partial]:
    partial, share = Partial(), Share(range(network.cfg.net.subdivisions))
    for _ in share.subdivisions:
        train_subdivision(network, share, next(batches))
    told = Told(share.done, Wish(), None)
    put_together(ALONE, NO_RECIPE, network, partial, share, told)
    return update(network, optimizer, partial, iteration, rate, (32, 32)), partial


def bits(network: Network, optimizer: Optimizer) -> bytes:
    tensors = [*network.darknet_arrays().values()]
    tensors += [state["momentum_buffer"] for state in optimizer.state.values()]
    return b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)


def test_an_iteration_consumes_its_batch_and_reports_losses_that_add_up() -> None:
    network = network_of()
    optimizer = build_optimizer(network.trained_parameters(), network.cfg.net)
    before = bits(network, optimizer)

    report, partial = train_iteration(network, optimizer, mini_batches(network), 1, 0.01)

    parts = np.array([report.box_loss, report.objectness_loss, report.class_loss], np.float32)
    assert partial.rows == partial.digests == [0, 1, 2, 3]
    assert report.loss == parts.sum(dtype=np.float32)
    assert (report.rate, report.width, report.height) == (0.01, 32, 32)
    assert bits(network, optimizer) != before
    assert all(p.tensor.grad is None for p in network.trained_parameters())


def test_an_iteration_is_a_function_of_state_and_batch() -> None:
    ends = []
    for _ in range(2):
        network = network_of()
        optimizer = build_optimizer(network.trained_parameters(), network.cfg.net)
        batches = mini_batches(network)
        for iteration in range(1, 4):
            train_iteration(network, optimizer, batches, iteration, 0.01)
        ends.append(bits(network, optimizer))

    assert ends[0] == ends[1]


def test_statistics_are_folded_once_per_subdivision() -> None:
    network = network_of(subdivisions=4)
    optimizer = build_optimizer(network.trained_parameters(), network.cfg.net)
    network.darknet_arrays()["0.rolling_variance"].fill_(1000.0)

    train_iteration(network, optimizer, mini_batches(network), 1, 0.0)

    variance = network.darknet_arrays()["0.rolling_variance"].detach().numpy()
    # .99 four times over, and batch variances below 1 that add at most .04.
    assert np.all(np.abs(variance - 1000 * 0.99**4) < 0.05)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_updates_nothing(poison: float) -> None:
    network = network_of()
    optimizer = build_optimizer(network.trained_parameters(), network.cfg.net)
    batches = mini_batches(network)
    train_iteration(network, optimizer, batches, 1, 0.01)
    with torch.no_grad():
        network.darknet_arrays()["2.biases"][2] = poison
    before = bits(network, optimizer)

    with pytest.raises(NotFinite, match=r"^iteration 2: the loss is (nan|inf) .*lower learning"):
        train_iteration(network, optimizer, batches, 2, 0.01)

    assert bits(network, optimizer) == before


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_one_number_that_is_not_finite_is_found_among_any(poison: float, where: int) -> None:
    tensors = [torch.full((3, 5), 3e38), torch.full((7,), -3e38)]  # whose sums are infinite
    assert are_finite(tensors)
    assert are_finite([])

    tensors[where].view(-1)[4] = poison

    assert not are_finite(tensors)
