"""The module of PyTorch against the reference: every integer in float64, every cell."""

from __future__ import annotations

import numpy as np
import pytest

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import SCALE_FRACTION
from stillnet.sw.contract.sources import INPUT, SECOND
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from tests.support.networks.cells import random_cell_case
from tests.support.networks.random import engine_config, random_case

from .toys import parameters, recordings, toy_model

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="make test-train installs it")

CONFIG = engine_config(second_threshold=True)
FAMILIES = (
    "lstm lstm_peephole lstm_hard egru gru gru_before gru_reset gru_hard linear",
    "s5_encoder s5_state s5_imag s5_output s5_glu relu lru lru_imag",
    "mingru ligru leaky gru_relu gru_before_relu gru_reset_relu conv3 conv3_relu",
    "leaky_relu clip elu exp sqrt mask product gelu silu hard_swish softplus softsign erf delay",
)
KINDS = [engine_config(cells=tuple(f.split()), layers=9, matrices=40) for f in FAMILIES]


def whole(value: torch.Tensor, fraction: int = 0) -> np.ndarray:
    """The integers of one sequence of a batch of one."""
    return value[0].numpy(force=True) * 2.0**fraction


def compare(network: Network, rows: np.ndarray, config: EngineConfig) -> None:
    """Outputs, events, words, state and references after every step, in two calls."""
    from stillnet.sw.train.module import NetworkModule
    from stillnet.sw.train.words import lengths_of, step_words

    module = NetworkModule(network, dtype=torch.float64)
    lengths = lengths_of(network, config, torch.float64)
    reference = Reference(network, config=config)
    x = torch.as_tensor(rows).double()[:, None]
    x = x[..., 0] if network.input_mode.one_hot else x
    carry = module.start(1)
    for part in (slice(0, 3), slice(3, None)):
        if not len(x[part]):
            continue
        before = carry.references[INPUT]
        run = module(x[part], carry)
        words = step_words(network, config, lengths, run, x[part], before)
        carry = run.carry
        for k, row in enumerate(rows[part]):
            y = reference.step_integers(row)
            np.testing.assert_array_equal(whole(run.vectors[len(network.layers) - 1][k]), y)
            assert float(words[k, 0].detach()) == reference.last.words
            for key, fired in run.fired.items():
                assert int(fired[k, 0].sum()) == reference.last.events[key]
        for (i, s), value in carry.state.items():
            fraction = CELLS[network.layers[i].cell].state[s].fraction
            np.testing.assert_array_equal(whole(value, fraction), reference.state[i][s])
        for key, value in carry.references.items():
            if key == INPUT and network.input_mode.one_hot:
                continue
            second = reference.reference_second
            wanted = second[key - SECOND] if key >= SECOND else reference.reference[key]
            np.testing.assert_array_equal(whole(value), wanted)
    back = module.to_network()
    for old, new in zip(network.layers, back.layers):
        for a, b in zip(old.matrices, new.matrices):
            np.testing.assert_array_equal(a.weight, b.weight)
        for g in old.bias:
            np.testing.assert_array_equal(old.bias[g], new.bias[g])
        for p in old.parameters:
            np.testing.assert_array_equal(old.parameters[p], new.parameters[p])


@pytest.mark.parametrize("seed", range(30))
def test_random_networks_give_the_same_integers(seed: int) -> None:
    case = random_case(seed, CONFIG)
    compare(case.network, np.asarray(case.inputs), CONFIG)


@pytest.mark.parametrize("seed", range(70))
def test_networks_of_any_cells_give_the_same_integers(seed: int) -> None:
    case = random_cell_case(seed, KINDS[seed % 4])
    compare(case.network, np.asarray(case.inputs), KINDS[seed % 4])


def test_the_cases_above_have_every_kind() -> None:
    networks = [random_case(seed, CONFIG).network for seed in range(30)]
    networks += [random_cell_case(seed, KINDS[seed % 4]).network for seed in range(70)]
    layers = [layer for n in networks for layer in n.layers]
    assert {layer.cell for layer in layers} >= {"gru", "lstm", "egru", "s5_state", "conv3", "lru"}
    assert any(layer.threshold_recurrent is not None for layer in layers)
    assert any(n.input_mode.one_hot for n in networks)
    assert any(n.reload(i) for n in networks for i in range(len(n.layers)))


def test_float32_moves_few_results_by_little() -> None:
    """Sums of 24 bits: at most one element in fifty differs, by a unit or so of 2**-14."""
    from stillnet.sw.quantization.quantizer import quantize
    from stillnet.sw.train.module import NetworkModule

    network = quantize(toy_model(), recordings(2), thresholds=0.0)
    rows = network.quantize_input(recordings(1, seed=5)[0])
    exact, fast = (
        NetworkModule(network, dtype=dtype)(torch.as_tensor(rows).to(dtype)[:, None]).vectors[0]
        for dtype in (torch.float64, torch.float32)
    )
    apart = (exact - fast.double()).detach().abs()
    assert float((apart > 0).double().mean()) < 0.02
    assert float(apart.detach().max()) <= 2


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_gradients_are_those_of_pytorch_itself(kind: str) -> None:
    """torch.nn.GRU and LSTM as the judge: the same weights, thresholds of zero."""
    from stillnet.sw.quantization.quantizer import quantize
    from stillnet.sw.train.module import NetworkModule

    model = toy_model(kind)
    x = recordings(1, steps=40)
    network = quantize(model, x, thresholds=0.0)
    module = NetworkModule(network, dtype=torch.float64)
    direction = torch.as_tensor(np.random.default_rng(3).normal(size=(40, 3)))
    rows = torch.as_tensor(network.quantize_input(x[0])).double()[:, None]
    (module(rows).outputs[:, 0] * direction).sum().backward()

    layer, out = model.layers
    judge = getattr(torch.nn, kind.upper())(5, layer.units, dtype=torch.float64)
    names = {"gru": ("r", "u", "c"), "lstm": ("i", "f", "g", "o")}[kind]
    with torch.no_grad():
        for name, value in parameters(kind).items():
            getattr(judge, f"{name}_l0").copy_(torch.as_tensor(value))
    head = torch.as_tensor(out.matrices[0].weight[0])
    y, _ = judge(torch.as_tensor(x[0])[:, None])
    ((y[:, 0] @ head.T) * direction).sum().backward()
    gates = dict(zip(names, judge.bias_ih_l0.grad.view(len(names), -1)))
    for g, wanted in gates.items():
        name = "cx" if g == "c" else g
        own = module.values[f"bias/0/{name}"].grad
        assert own is not None
        scale = (network.layers[0].scale or {}).get(name)
        if scale is not None:  # a bias is trained in front of its row's multiplier
            own = own / torch.as_tensor(scale * 2.0**-SCALE_FRACTION)
        error = float((own - wanted).norm() / wanted.norm())
        assert error < 0.05, f"{name}: {error:.3f}"
