"""Darknet's update rules by the functions of PyTorch's optimizers.

The classes around those functions import PyTorch's compiler when they are first used, a fifth of
the time of a start.

Darknet's SGD keeps `wu`, the sum of gradients over the batch with the decayed weight taken
off, scaled by momentum after the update; `torch.optim.sgd` keeps the same number divided by
-batch. The rate stays outside the velocity in both. Weight decay acts on convolution weights
only. Adam works on the sum over the batch, and its decay on every parameter.

Source:
    AlexeyAB/darknet 59596d78 src/convolutional_layer.c update_convolutional_layer;
    src/blas_kernels.cu adam_update_gpu.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from relume.formats.sections import Net
from relume.model.network import TrainedParameter

Groups = dict[str, dict[str, Tensor]]

_STATE_OF_SGD = {"momentum": "momentum_buffer"}
_STATE_OF_ADAM = {"adam_m": "exp_avg", "adam_v": "exp_avg_sq"}
"""Group in the checkpoint -> name in PyTorch's optimizer state."""


@dataclass
class Group:
    """Parameters of one rate and one decay."""

    tensors: list[Tensor]
    factor: float
    """On the net's rate."""
    decay: float
    rate: float = 0.0
    """Of the next update."""


@dataclass(frozen=True)
class Optimizer:
    """What updates the parameters of a net, and remembers between updates."""

    net: Net
    groups: list[Group]
    state: dict[Tensor, dict[str, Tensor]]
    """Of every parameter, under PyTorch's names."""

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter in place by its gradient."""
        for group in self.groups:
            gradients = [tensor.grad for tensor in group.tensors if tensor.grad is not None]
            states = [self.state[tensor] for tensor in group.tensors]
            if self.net.adam:
                self._step_by_adam(group, gradients, states)
            else:
                self._step_by_sgd(group, gradients, states)

    def zero_grad(self) -> None:
        """Set every gradient to None."""
        for group in self.groups:
            for tensor in group.tensors:
                tensor.grad = None

    def _step_by_sgd(
        self, group: Group, gradients: list[Tensor], states: list[dict[str, Tensor]]
    ) -> None:
        sgd(
            group.tensors,
            gradients,
            [state["momentum_buffer"] for state in states],
            fused=True,
            weight_decay=group.decay,
            momentum=self.net.momentum,
            lr=group.rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )

    def _step_by_adam(
        self, group: Group, gradients: list[Tensor], states: list[dict[str, Tensor]]
    ) -> None:
        adam(
            group.tensors,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=self.net.B1,
            beta2=self.net.B2,
            lr=group.rate,
            weight_decay=group.decay,
            eps=self.net.eps,
            maximize=False,
        )


def build_optimizer(parameters: Sequence[TrainedParameter], net: Net) -> Optimizer:
    """Return the optimizer of a net, all of its state present from the start and zero."""
    shares: dict[tuple[float, float], list[Tensor]] = {}
    for p in parameters:
        shares.setdefault((p.learning_rate, _decay(net, p.decays)), []).append(p.tensor)
    groups = [Group(tensors, factor, decay) for (factor, decay), tensors in shares.items()]
    state: dict[Tensor, dict[str, Tensor]] = {}
    for p in parameters:
        state[p.tensor] = {name: torch.zeros_like(p.tensor) for name in _state_names(net).values()}
        if net.adam:
            state[p.tensor]["step"] = torch.zeros((), device=p.tensor.device)
    return Optimizer(net, groups, state)


def gradient_scale(net: Net) -> float:
    """Return the factor on the summed gradient: SGD takes the mean, Adam the sum."""
    return 1.0 if net.adam else 1.0 / net.batch


def set_rate(optimizer: Optimizer, rate: float, iteration: int, net: Net) -> None:
    """Prepare update `iteration` (>= 1): the rate of every layer, and Adam's t."""
    for group in optimizer.groups:
        group.rate = rate * group.factor
    if net.adam:
        for state in optimizer.state.values():
            state["step"].fill_(iteration - 1)


def named_state(optimizer: Optimizer, parameters: Sequence[TrainedParameter], net: Net) -> Groups:
    """Return the live state tensors as groups of names, the form in which they are saved."""
    return {
        group: {p.name: optimizer.state[p.tensor][name] for p in parameters}
        for group, name in _state_names(net).items()
    }


def _state_names(net: Net) -> dict[str, str]:
    return _STATE_OF_ADAM if net.adam else _STATE_OF_SGD


def _decay(net: Net, decays: bool) -> float:
    if net.adam:
        return net.decay * net.batch
    return net.decay if decays else 0.0
