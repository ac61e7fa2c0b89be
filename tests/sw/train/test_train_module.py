"""The module of PyTorch against the reference: every integer in float64, every cell."""

from __future__ import annotations

import numpy as np
import pytest

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import PRESETS
from stillnet.sw.contract.sources import INPUT, SECOND
from stillnet.sw.cost.cost import column_words
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from tests.support.networks.cells import random_cell_case
from tests.support.networks.equations import random_cell
from tests.support.networks.random import engine_config, random_case

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="make test-train installs it")

CONFIG = engine_config()


def compare(network: Network, rows: np.ndarray) -> None:
    """Outputs, all state and all references after every step, in calls of several lengths."""
    from stillnet.sw.train.module import NetworkModule

    module = NetworkModule(network, dtype=torch.float64)
    reference = Reference(network)
    x = torch.as_tensor(np.asarray(rows)).double()[:, None]
    x = x[..., 0] if network.input_mode.one_hot else x
    carry, at = module.start(1), 0
    for count in (min(3, len(rows)), max(0, len(rows) - 3)):
        if count == 0:
            continue
        run = module(x[at : at + count], carry)
        carry = run.carry
        for k in range(count):
            y = reference.step_integers(rows[at + k])
            got = run.vectors[len(network.layers) - 1][k, 0].detach().numpy()
            np.testing.assert_array_equal(got, y)
            for key, f in run.fired.items():
                if not network.input_mode.one_hot or key != INPUT:
                    assert int(f[k, 0].sum()) == reference.last.events[key]
        at += count
        for (i, s), value in carry.state.items():
            scaled = value[0].numpy(force=True) * 2.0 ** CELLS[network.layers[i].cell].state[s].fraction
            np.testing.assert_array_equal(scaled, reference.state[i][s])
        for key, value in carry.references.items():
            if key == INPUT and network.input_mode.one_hot:
                continue
            second = key >= SECOND
            wanted = reference.reference_second[key - SECOND] if second else reference.reference[key]
            np.testing.assert_array_equal(value[0].numpy(force=True), wanted)


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_give_the_same_integers(seed: int) -> None:
    case = random_case(seed, CONFIG)
    compare(case.network, np.asarray(case.inputs))


@pytest.mark.parametrize("seed", range(60))
def test_networks_of_any_cells_give_the_same_integers(seed: int) -> None:
    case = random_cell_case(seed, CONFIG)
    compare(case.network, np.asarray(case.inputs))
