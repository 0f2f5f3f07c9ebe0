"""Where a number went wrong: recomputes an iteration whose numbers are not finite.

Every sample is a function of its position and every sum has a fixed order, so the state
before the iteration is enough to meet the same numbers again, and to look at all of them.

Not covered: which update led there; that is in the journal.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from relume.checkpoint.state import TrainState
from relume.data.batch import MiniBatch, load_mini_batch
from relume.formats.sections import Cfg
from relume.model.layers import Convolutional
from relume.model.loss import HeadLoss
from relume.model.network import Network
from relume.schedule import input_size
from relume.spec import RunSpec
from relume.train.batches import source_of
from relume.train.capture import install
from relume.train.optimizer import build_optimizer
from relume.train.partial import Partial
from relume.train.step import backward, forward, losses_of, taken_gradients

PARAMETERS = {"weight": "the weights", "bias": "the biases", "scale": "the scales"}
"""What went wrong before this iteration, by the names that PyTorch knows."""
Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Cause:
    """The first numbers of an iteration that are not finite, in the order they are computed."""

    layer: int
    what: str
    """Which numbers of the layer: "the output before batch norm", "the gradient of the weights"."""
    subdivision: int | None = None
    """None: it is the sum over the subdivisions."""
    rows: tuple[int, ...] = ()
    """The pictures of the subdivision that are responsible; none: not one more than another."""


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """An iteration whose numbers are not finite, computed again."""

    iteration: int
    batch: tuple[MiniBatch, ...]
    """The subdivisions' pictures and boxes, as they were trained on."""
    losses: npt.NDArray[np.float32]
    """[subdivisions, heads, 3]: box, objectness, class."""
    cause: Cause | None
    """None: computed again, all numbers are finite."""


def diagnose(spec: RunSpec, state: TrainState, device: torch.device) -> Diagnosis:
    """Compute the iteration after `state` again and look for the first number that went wrong.

    Args:
        spec: of the run.
        state: between two iterations.
        device: where the run trains.
    Raises:
        ImageError: a picture cannot be read any more.
    """
    recipe, net = spec.recipe, spec.recipe.cfg.net
    network = Network(recipe.cfg, recipe.seed).to(device).train()
    optimizer = build_optimizer(network.trained_parameters(), net)
    install(state, network, optimizer, len(recipe.labels))
    source, size = source_of(spec), input_size(recipe.cfg, recipe.seed, state.iteration + 1)
    first = state.iteration * net.batch
    firsts = range(first, first + net.batch, net.mini_batch)
    batch = tuple(load_mini_batch(source, position, *size) for position in firsts)
    partial = Partial()
    losses, cause = [], None
    for number, mini_batch in enumerate(batch):
        heads, found = _examined(network, mini_batch)
        losses.append(losses_of(heads))
        partial.tree.add(taken_gradients(network))
        if cause is None and found is not None:
            rows = found.rows
            if not rows and found.what not in PARAMETERS.values():
                rows = _responsible(network, mini_batch)
            cause = replace(found, subdivision=number, rows=rows)
    if cause is None:
        cause = _cause_in_the_sums(network, partial, np.array(losses))
    return Diagnosis(state.iteration + 1, batch, np.array(losses), cause)


class _Watch:
    """Looks at numbers as they are computed and keeps the first that are not finite."""

    def __init__(self) -> None:
        self.first: Cause | None = None

    def look(self, layer: int, what: str, numbers: Tensor, of_pictures: bool = False) -> None:
        """Keep what `numbers` are if they are the first; of pictures: [B, ...]."""
        if self.first is None and not _is_finite(numbers):
            wrong = [row for row, of_one in enumerate(numbers) if not _is_finite(of_one)]
            told_apart = of_pictures and len(wrong) < len(numbers)
            self.first = Cause(layer, what, rows=tuple(wrong) if told_apart else ())


def _examined(network: Network, mini_batch: MiniBatch) -> tuple[list[HeadLoss], Cause | None]:
    """Train forward and backward on a subdivision; return the losses and what went wrong first."""
    watch = _Watch()
    with _watched(network, watch):
        raws, heads = forward(network, mini_batch)
        network.take_statistics()
        for index, head in zip(head_layers(network.cfg), heads, strict=True):
            watch.look(index, "the loss", head.delta.square(), of_pictures=True)
            for part in (head.box, head.objectness, head.classification):
                watch.look(index, "the loss", part.reshape(1))
        backward(network, raws, heads)
    return heads, watch.first


@contextmanager
def _watched(network: Network, watch: _Watch) -> Iterator[None]:
    """Let `watch` look at every number of a pass forward and backward."""
    handles = []
    for index, layer in enumerate(network.layers):
        handles.append(layer.register_forward_pre_hook(_before(index, watch)))
        handles.append(layer.register_forward_hook(_behind(index, watch)))
    for parameter in network.trained_parameters():
        kind = f"the gradient of the {parameter.name.partition('.')[2]}"
        look = _gradient(parameter.layer, kind, watch)
        # PyTorch gives no types to its hooks' registration.
        handles.append(parameter.tensor.register_hook(look))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(index: int, watch: _Watch) -> Callable[[nn.Module, Inputs], None]:
    def look(layer: nn.Module, inputs: Inputs) -> None:
        if not isinstance(layer, Convolutional) or watch.first is not None:
            return
        for name, parameter in layer.named_parameters():
            watch.look(index, PARAMETERS[name], parameter)
        with torch.no_grad():
            sums = layer.convolve(inputs[0])
        where = " before batch norm" if layer.section.batch_normalize else ""
        watch.look(index, f"the output{where}", sums, of_pictures=True)

    return look


def _behind(index: int, watch: _Watch) -> Callable[[nn.Module, Inputs, Tensor], None]:
    def look(layer: nn.Module, inputs: Inputs, output: Tensor) -> None:
        if isinstance(layer, Convolutional) and layer.batch_statistics is not None:
            for statistic in layer.batch_statistics:
                watch.look(index, "the statistics of batch norm", statistic)
        watch.look(index, "the output", output.detach(), of_pictures=True)
        if output.requires_grad:
            look_back = _gradient(index, "the gradient of the output", watch)
            # PyTorch gives no types to its hooks' registration.
            output.register_hook(look_back)  # type: ignore[no-untyped-call]

    return look


def _gradient(index: int, what: str, watch: _Watch) -> Callable[[Tensor], None]:
    def look(gradient: Tensor) -> None:
        watch.look(index, what, gradient, of_pictures=what.endswith("output"))

    return look


def _responsible(network: Network, mini_batch: MiniBatch) -> tuple[int, ...]:
    """Return the pictures of a subdivision that lead to such numbers without the others.

    Batch norm mixes the pictures of a subdivision. So each is looked at by itself: forward as
    the only picture; backward with the losses of the others taken away, since gradients add up.
    """
    size = len(mini_batch.positions)
    alone = [row for row in range(size) if _fails(network, _only(mini_batch, row), [0])]
    if not alone:
        alone = [row for row in range(size) if _fails(network, mini_batch, [row])]
    return tuple(alone) if len(alone) < size else ()


def _fails(network: Network, mini_batch: MiniBatch, rows: Sequence[int]) -> bool:
    """Tell whether a subdivision's numbers are not finite with the losses of `rows` alone."""
    watch = _Watch()
    with _watched(network, watch):
        raws, heads = forward(network, mini_batch)
        network.take_statistics()
        for head in heads:
            kept = torch.zeros_like(head.delta)
            kept[list(rows)] = head.delta[list(rows)]
            head.delta.copy_(kept)
            watch.look(0, "the loss", head.delta.square().sum().reshape(1))
        backward(network, raws, heads)
    taken_gradients(network)
    return watch.first is not None


def _only(mini_batch: MiniBatch, row: int) -> MiniBatch:
    one = slice(row, row + 1)
    return MiniBatch(
        images=mini_batch.images[one],
        boxes_xywh_rel=mini_batch.boxes_xywh_rel[one],
        classes=mini_batch.classes[one],
        positions=mini_batch.positions[one],
        pictures=mini_batch.pictures[one],
        indices=mini_batch.indices[mini_batch.pictures_of(row)],
        digests=mini_batch.digests[mini_batch.pictures_of(row)],
    )


def _cause_in_the_sums(
    network: Network, partial: Partial, losses: npt.NDArray[np.float32]
) -> Cause | None:
    """Return what is not finite only when the subdivisions are added up."""
    with np.errstate(over="ignore"):
        sums = losses.sum(axis=0, dtype=np.float32)
        wrong = np.flatnonzero(~np.isfinite(sums.sum(axis=1, dtype=np.float32)))
    if wrong.size:
        return Cause(
            head_layers(network.cfg)[int(wrong[0])], "the sum over the subdivisions of the losses"
        )
    for parameter, gradient in zip(network.trained_parameters(), partial.tree.total(), strict=True):
        if not _is_finite(gradient):
            kind = parameter.name.partition(".")[2]
            return Cause(
                parameter.layer, f"the sum over the subdivisions of the gradients of the {kind}"
            )
    return None


def head_layers(cfg: Cfg) -> list[int]:
    """Return the numbers of the layers that are heads."""
    return [index for index, section in enumerate(cfg.layers) if section in cfg.heads]


def _is_finite(numbers: Tensor) -> bool:
    return bool(numbers.isfinite().all())
