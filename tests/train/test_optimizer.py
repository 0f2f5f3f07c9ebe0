"""The optimizers do what Darknet's update functions do."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from relume.formats.cfg import parse_cfg
from relume.formats.sections import Cfg
from relume.model.network import Network
from relume.train.optimizer import build_optimizer, gradient_scale, named_state, set_rate
from tests.checkpoint.states import tiny_cfg

BATCH = 2
RATES = (0.1, 0.05, 0.2)
Floats = npt.NDArray[np.float64]


def tiny_network(**options: object) -> Network:
    text = tiny_cfg(momentum=0.9, decay=0.5, **options)
    return Network(parse_cfg(text.replace("filters=3", "filters=3\nlearning_rate=3"), "n", "train"))


def gradient_sums(network: Network, iteration: int) -> dict[str, Floats]:
    """Return made-up sums over the batch, of the loss's gradient."""
    random = np.random.Generator(np.random.PCG64(iteration))
    return {
        p.name: random.random(tuple(p.tensor.shape)) - 0.5 for p in network.trained_parameters()
    }


def trained(network: Network, iterations: int) -> dict[str, Floats]:
    """Return the parameters after updates by PyTorch."""
    net = network.cfg.net
    optimizer = build_optimizer(network.trained_parameters(), net)
    for iteration in range(1, iterations + 1):
        sums = gradient_sums(network, iteration)
        for p in network.trained_parameters():
            gradient = sums[p.name] * gradient_scale(net)
            p.tensor.grad = torch.from_numpy(gradient.astype(np.float32))
        set_rate(optimizer, RATES[iteration - 1], iteration, net)
        optimizer.step()
    return {p.name: p.tensor.detach().numpy().astype(float) for p in network.trained_parameters()}


def darknets_sgd(network: Network, iterations: int) -> dict[str, Floats]:
    """AlexeyAB src/convolutional_layer.c update_convolutional_layer, in double precision."""
    net = network.cfg.net
    found = {}
    for p in network.trained_parameters():
        x = p.tensor.detach().numpy().astype(float)
        update = np.zeros_like(x)
        for iteration in range(1, iterations + 1):
            update -= gradient_sums(network, iteration)[p.name]
            if p.name.endswith(".weights"):
                update -= net.decay * net.batch * x
            x = x + RATES[iteration - 1] * p.learning_rate / net.batch * update
            update *= net.momentum
        found[p.name] = x
    return found


def darknets_adam(network: Network, iterations: int) -> dict[str, Floats]:
    """AlexeyAB src/blas_kernels.cu adam_update_gpu, in double precision."""
    net = network.cfg.net
    found = {}
    for p in network.trained_parameters():
        x = p.tensor.detach().numpy().astype(float)
        m, v = np.zeros_like(x), np.zeros_like(x)
        for t in range(1, iterations + 1):
            d = -gradient_sums(network, t)[p.name] - net.decay * net.batch * x
            m = net.B1 * m + (1 - net.B1) * d
            v = net.B2 * v + (1 - net.B2) * d * d
            step = m / (1 - net.B1**t) / (np.sqrt(v / (1 - net.B2**t)) + net.eps)
            x = x + RATES[t - 1] * p.learning_rate * step
        found[p.name] = x
    return found


@pytest.mark.parametrize("adam", [False, True], ids=["sgd", "adam"])
def test_updates_are_darknets(adam: bool) -> None:
    options: dict[str, object] = {"adam": 1, "B1": 0.8, "B2": 0.99} if adam else {}
    expected = (darknets_adam if adam else darknets_sgd)(tiny_network(**options), 3)

    found = trained(tiny_network(**options), 3)

    assert found.keys() == expected.keys()
    for name, values in expected.items():
        # Float32 against double, numbers around 1: a few units of 6e-8 in each of three updates.
        assert np.abs(found[name] - values).max() < 2e-6, name


@pytest.mark.parametrize(
    ("options", "groups"),
    [({}, ["momentum"]), ({"adam": 1}, ["adam_m", "adam_v"])],
    ids=["sgd", "adam"],
)
def test_all_state_exists_from_the_start_and_is_zero(
    options: dict[str, object], groups: list[str]
) -> None:
    network = tiny_network(**options)
    parameters = network.trained_parameters()

    state = named_state(build_optimizer(parameters, network.cfg.net), parameters, network.cfg.net)

    assert list(state) == groups
    for tensors in state.values():
        assert list(tensors) == [p.name for p in parameters]
        for p in parameters:
            assert tensors[p.name].shape == p.tensor.shape
            assert not tensors[p.name].any()


def test_state_that_the_optimizer_holds_beyond_the_named_groups_follows_from_the_iteration() -> (
    None
):
    """Whatever else PyTorch keeps must not be lost at a resume: only Adam's step, which is set."""
    for options in ({}, {"adam": 1}):
        network = tiny_network(**options)
        trained_network = build_optimizer(network.trained_parameters(), network.cfg.net)
        names = {name for state in trained_network.state.values() for name in state}

        assert names <= {"momentum_buffer", "exp_avg", "exp_avg_sq", "step"}


def test_adams_step_is_set_from_the_iteration_alone() -> None:
    cfg: Cfg = tiny_network(adam=1).cfg
    network = Network(cfg)
    optimizer = build_optimizer(network.trained_parameters(), cfg.net)

    set_rate(optimizer, 0.1, 500, cfg.net)

    assert {float(state["step"]) for state in optimizer.state.values()} == {499.0}


def test_the_rate_of_a_layer_is_the_nets_by_its_factor() -> None:
    network = tiny_network()
    optimizer = build_optimizer(network.trained_parameters(), network.cfg.net)

    set_rate(optimizer, 0.01, 1, replace(network.cfg.net))

    rates = {id(t): group.rate for group in optimizer.groups for t in group.tensors}
    for p in network.trained_parameters():
        assert rates[id(p.tensor)] == 0.01 * (3 if p.layer == 0 else 1)
