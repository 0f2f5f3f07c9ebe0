"""One iteration: all subdivisions forward and backward, then one update.

A subdivision is a logical worker. Its gradient and batch statistics are its own; gradients
are summed in one fixed binary tree over subdivision numbers, statistics and losses in their
order, so the result does not depend on who computed which.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from relume.data.batch import MiniBatch
from relume.distributed.exchange import Exchange
from relume.distributed.tree import Gradients
from relume.errors import NotFinite
from relume.model.loss import HeadLoss, Truths, head_loss
from relume.model.network import Network, Statistics
from relume.train.optimizer import Optimizer, gradient_scale, set_rate
from relume.train.partial import Partial, Share, Subdivision


@dataclass(frozen=True)
class Report:
    """What one iteration says about itself."""

    loss: float
    """Float32: mean over heads, per image, as Darknet prints it; the parts add up to it."""
    box_loss: float
    objectness_loss: float
    class_loss: float
    rate: float
    width: int
    height: int


def train_subdivision(network: Network, share: Share, mini_batch: MiniBatch) -> None:
    """Train forward and backward on the next subdivision, and add what it leaves to `share`.

    Args:
        network: in training mode; none of its tensors changes.
        share: the subdivisions that this process has done so far.
        mini_batch: of the next one.
    """
    raws, heads = forward(network, mini_batch)
    if share.exchange is None:
        backward(network, raws, heads)
        share.tree.add(taken_gradients(network))
    else:
        with _handed_over(network, share.exchange):
            backward(network, raws, heads)
    losses: npt.NDArray[np.float32] = losses_of(heads).sum(axis=0, dtype=np.float32)
    share.done.append(
        Subdivision(
            losses,
            network.take_statistics(),
            mini_batch.indices,
            mini_batch.digests.tolist(),
            mini_batch.skipped,
        )
    )


def update(
    network: Network,
    optimizer: Optimizer,
    partial: Partial,
    iteration: int,
    rate: float,
    size: tuple[int, int],
) -> Report:
    """End an iteration: update the network in place by what its subdivisions left.

    Args:
        network: in training mode.
        optimizer: of the network's parameters.
        partial: all subdivisions; used up.
        iteration: updates done, this one included.
        rate: learning rate of this update.
        size: (width, height) of the net's input, for the report.
    Raises:
        NotFinite: loss, gradient or statistics are NaN or infinite; nothing has been updated.
    """
    net = network.cfg.net
    losses = partial.losses / np.float32(len(network.cfg.heads) * net.batch)
    box, objectness, classification = (float(part) for part in losses)
    loss = float(losses.sum(dtype=np.float32))
    report = Report(loss, box, objectness, classification, rate, *size)
    gradients = partial.tree.total()
    _check_finite(report, gradients, partial.statistics, iteration)
    set_rate(optimizer, rate, iteration, net)
    for parameter, gradient in zip(network.trained_parameters(), gradients, strict=True):
        parameter.tensor.grad = gradient
    optimizer.step()
    optimizer.zero_grad()
    network.fold_statistics(partial.statistics)
    return report


def _check_finite(
    report: Report, gradients: Gradients, statistics: list[Statistics], iteration: int
) -> None:
    """Raise NotFinite if an update by these numbers would leave NaN or infinity in the network."""
    parts = [tensor for taken in statistics for pair in taken.values() for tensor in pair]
    if not np.isfinite(report.loss):
        found = (
            f"the loss is {report.loss} (box {report.box_loss}, objectness "
            f"{report.objectness_loss}, class {report.class_loss})"
        )
    elif not are_finite(gradients):
        found = f"the gradient is not finite (the loss is {report.loss})"
    elif not are_finite(parts):
        found = f"the statistics of batch norm are not finite (the loss is {report.loss})"
    else:
        return
    remedy = "lower learning_rate or lengthen burn_in"
    raise NotFinite(f"iteration {iteration}", found, "finite numbers", remedy)


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Tell whether no tensor holds NaN or infinity.

    Either would stay in a sum, which takes one pass at the speed of memory; only where a sum
    is not finite, which large finite numbers can do too, is every number looked at.
    """
    if not tensors:
        return True
    sums = torch.stack([tensor.sum() for tensor in tensors]).isfinite().tolist()
    return all(
        ok or bool(tensor.isfinite().all()) for ok, tensor in zip(sums, tensors, strict=True)
    )


def forward(network: Network, mini_batch: MiniBatch) -> tuple[list[Tensor], list[HeadLoss]]:
    """Return what the heads see of a mini-batch, and their gradients and losses."""
    device = next(network.parameters()).device
    images = images_to_tensor(mini_batch.images, device)
    truths = Truths(
        torch.from_numpy(mini_batch.boxes_xywh_rel).to(device),
        torch.from_numpy(mini_batch.classes).to(device),
    )
    raws = network(images, mini_batch.positions)
    height, width = mini_batch.images.shape[1:3]
    heads = [
        head_loss(raw.detach(), truths, head, width, height)
        for raw, head in zip(raws, network.cfg.heads, strict=True)
    ]
    return raws, heads


def backward(network: Network, raws: list[Tensor], heads: list[HeadLoss]) -> None:
    """Leave gradients in the parameters; the deltas of the heads are used up."""
    scale = -gradient_scale(network.cfg.net)
    torch.autograd.backward(raws, [head.delta.mul_(scale) for head in heads])


def losses_of(heads: list[HeadLoss]) -> npt.NDArray[np.float32]:
    """Return [heads, 3]: box, objectness and class loss of every head."""
    parts = torch.stack([torch.stack([h.box, h.objectness, h.classification]) for h in heads]).cpu()
    losses: npt.NDArray[np.float32] = parts.numpy()
    return losses


def images_to_tensor(images: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return pictures [B,H,W,C] uint8 as [B,C,H,W] float32 in 0..1, in channels_last memory."""
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
    return pixels.to(torch.float32).div_(255.0)


def taken_gradients(network: Network) -> Gradients:
    """Return the gradients of all parameters, which then are gone there."""
    return [_taken(parameter.tensor) for parameter in network.trained_parameters()]


def _taken(tensor: nn.Parameter) -> Tensor:
    # A layer that no head depends on has no gradient; decay still acts on it, as in Darknet.
    gradient = tensor.grad
    tensor.grad = None
    return torch.zeros_like(tensor) if gradient is None else gradient


@contextmanager
def _handed_over(network: Network, exchange: Exchange) -> Iterator[None]:
    """Let the gradients of a backward pass go to an exchange, group of layers by group.

    The groups go in their order, which is the same in all processes; those that no gradient has
    completed go at the end.
    """
    tensors = [parameter.tensor for parameter in network.trained_parameters()]
    groups = exchange.groups
    missing = [set(indexes) for indexes in groups]
    handed: list[int] = []

    def hand_over(number: int) -> None:
        handed.append(number)
        exchange.add(number, [_taken(tensors[index]) for index in groups[number]])

    def note(index: int, number: int, _: Tensor) -> None:
        missing[number].discard(index)
        while len(handed) < len(groups) and not missing[len(handed)]:
            hand_over(len(handed))

    # PyTorch gives no types to its hooks' registration.
    handles = [
        tensors[index].register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
            functools.partial(note, index, number)
        )
        for number, indexes in enumerate(groups)
        for index in indexes
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    for number in range(len(handed), len(groups)):
        hand_over(number)


def updated_average(average: float | None, loss: float) -> float:
    """Return Darknet's running mean of the loss: .9 of the old and .1 of the new.

    Computed in double and rounded to float32, as C does with `.9` and `.1`.

    Source:
        AlexeyAB/darknet 59596d78 src/detector.c train_detector.
    """
    if average is None:
        return loss
    return float(np.float32(average * 0.9 + loss * 0.1))
