"""What ``--thresholds`` leaves alone: ``common`` has one factor for all, ``fixed`` none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stillnet.sw.contract.config import PRESETS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.network.network import Network
from stillnet.sw.train import TrainOptions

from .toys import recordings, toy_model, toy_network

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="make test-train installs it")

SHORT = TrainOptions(updates=6, batch=2, steps=16, words=60.0, rate=0.05)


@pytest.fixture(scope="module")
def small() -> Network:
    return toy_network()


def trained_for(small: Network, thresholds: str) -> object:
    """A trainer after six updates."""
    from stillnet.sw.train.trainer import Trainer

    x = recordings()
    given = [small.quantize_input(r) for r in x]
    wanted = [toy_model().run(r) for r in x]
    options = replace(SHORT, thresholds=thresholds)
    trainer = Trainer(small, given, wanted, None, options, PRESETS["sdram16"])
    for _ in range(options.updates):
        trainer.update()
    return trainer


def moved(small: Network, thresholds: str) -> dict[str, np.ndarray]:
    """By how much the logarithms of thresholds moved, by kind and encoder."""
    from stillnet.sw.train.module import NetworkModule

    before = NetworkModule(small).values
    after = trained_for(small, thresholds).module.values
    names = [n for n in after if n.startswith(("threshold", "gain"))]
    assert len(names) >= 4
    return {n: (after[n] - before[n]).detach().numpy() for n in names}


def test_fixed_thresholds_do_not_move(small: Network) -> None:
    for name, d in moved(small, "fixed").items():
        assert not np.any(d), name


def test_common_thresholds_keep_their_ratios(small: Network) -> None:
    found = moved(small, "common")
    gains = {n: float(d) for n, d in found.items() if n.startswith("gain")}
    assert len(set(gains.values())) == 1 and all(gains.values()), gains
    assert not any(np.any(d) for n, d in found.items() if n.startswith("threshold"))


def test_free_thresholds_go_their_own_ways(small: Network) -> None:
    found = moved(small, "free")
    assert len({float(d) for n, d in found.items() if n.startswith("gain")}) > 1
    assert np.any(found[f"threshold/{INPUT}"])


@pytest.mark.parametrize("thresholds", ["fixed", "common"])
def test_weights_learn_all_the_same(small: Network, thresholds: str) -> None:
    from stillnet.sw.train.module import NetworkModule

    before = NetworkModule(small).values
    after = trained_for(small, thresholds).module.values
    assert all(bool((after[n] != before[n]).any()) for n in after if n.startswith("weight/0"))


def test_another_word_is_refused() -> None:
    with pytest.raises(StillnetError, match="free, common, fixed, not 'some'"):
        TrainOptions(thresholds="some")
