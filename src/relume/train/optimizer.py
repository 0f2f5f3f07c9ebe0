"""Darknet's update rules by PyTorch's optimizers.

Darknet's SGD keeps `wu`, the sum of gradients over the batch with the decayed weight taken
off, scaled by momentum after the update; `torch.optim.SGD` keeps the same number divided by
-batch. The rate stays outside the velocity in both. Weight decay acts on convolution weights
only. Adam works on the sum over the batch, and its decay on every parameter.

Source:
    AlexeyAB/darknet 59596d78 src/convolutional_layer.c update_convolutional_layer;
    src/blas_kernels.cu adam_update_gpu.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from relume.formats.sections import Net
from relume.model.network import TrainedParameter

Groups = dict[str, dict[str, Tensor]]

_STATE_OF_SGD = {"momentum": "momentum_buffer"}
_STATE_OF_ADAM = {"adam_m": "exp_avg", "adam_v": "exp_avg_sq"}
"""Group in the checkpoint -> name in PyTorch's optimizer state."""


def build_optimizer(parameters: Sequence[TrainedParameter], net: Net) -> torch.optim.Optimizer:
    """Return the optimizer of a net, all of its state present from the start and zero."""
    shares: dict[tuple[float, float], list[Tensor]] = {}
    for p in parameters:
        shares.setdefault((p.learning_rate, _decay(net, p.decays)), []).append(p.tensor)
    groups = [
        {"params": tensors, "factor": factor, "weight_decay": decay}
        for (factor, decay), tensors in shares.items()
    ]
    optimizer: torch.optim.Optimizer
    if net.adam:
        optimizer = torch.optim.Adam(groups, betas=(net.B1, net.B2), eps=net.eps, fused=True)
    else:
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=net.momentum, fused=True)
    for p in parameters:
        for name in _state_names(net).values():
            optimizer.state[p.tensor][name] = torch.zeros_like(p.tensor)
        if net.adam:
            optimizer.state[p.tensor]["step"] = torch.zeros((), device=p.tensor.device)
    return optimizer


def gradient_scale(net: Net) -> float:
    """Return the factor on the summed gradient: SGD takes the mean, Adam the sum."""
    return 1.0 if net.adam else 1.0 / net.batch


def set_rate(optimizer: torch.optim.Optimizer, rate: float, iteration: int, net: Net) -> None:
    """Prepare update `iteration` (>= 1): the rate of every layer, and Adam's t."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    if net.adam:
        for state in optimizer.state.values():
            state["step"].fill_(iteration - 1)


def named_state(
    optimizer: torch.optim.Optimizer, parameters: Sequence[TrainedParameter], net: Net
) -> Groups:
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
