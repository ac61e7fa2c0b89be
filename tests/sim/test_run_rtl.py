"""``stillnet run --engine rtl``: the RTL equals the reference, and a difference is named."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from stillnet.sim.engine import equivalence
from stillnet.sim.engine.command import rtl_engine
from stillnet.sim.engine.run import run_rtl
from stillnet.sim.testbenches.example import gru_dense, small_config
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import pack

CONFIG = small_config(lanes=4)
NETWORK = gru_dense(3)
X = np.cumsum(np.random.default_rng(3).normal(0, 0.3, (12, NETWORK.inputs)), axis=0)


def expected(x: np.ndarray) -> np.ndarray:
    reference = Reference(NETWORK, CONFIG.lanes)
    rows = [reference.step_integers(row) for row in NETWORK.quantize_input(x)]
    return NETWORK.dequantize_output(np.stack(rows))


def test_all_equal():
    seen = []
    result = run_rtl(NETWORK, X, preset=CONFIG, steps=6, progress=lambda *a: seen.append(a))
    assert (result.steps, result.mismatches) == (6, 0)
    assert result.difference is None and result.first_difference is None
    assert np.array_equal(result.outputs, expected(X)[:6])
    assert result.utilisation == result.words / result.cycles > 0.1
    stalls = sum(getattr(result, f"stall_{cause}") for cause in ("cell", "memory", "events"))
    assert result.cycles == result.words + stalls
    assert set(result.events) == {"input", "gru0", "dense"} and result.events["input"] > 0
    assert 0 < result.latency < result.cycles
    assert seen[0] == ("building the model (once for each engine)", 0, 1)
    assert seen[-1] == ("RTL", 6, 6)
    json.dumps(result.to_dict())


def test_history():
    result = run_rtl(NETWORK, X, preset=CONFIG, history=7, steps=3)
    assert (result.steps, result.mismatches, result.history) == (3, 0, 7)
    assert np.array_equal(result.outputs, expected(X)[7:10])


def test_back_to_back():
    result = run_rtl(NETWORK, X, preset=CONFIG, check_state=False, latency=20)
    assert (result.steps, result.mismatches, result.latency) == (len(X), 0, None)
    assert np.array_equal(result.outputs, expected(X))


@pytest.mark.slow
def test_waveforms(tmp_path):
    path = tmp_path / "wave.vcd"
    result = run_rtl(NETWORK, X, preset=CONFIG, steps=1, trace=path)
    assert result.mismatches == 0 and result.trace == str(path)
    head = path.read_text()[:200_000]
    assert "$var" in head and "s" in head


def test_flipped_weight_is_named(monkeypatch):
    """One weight of the image: unit 6 of the GRU, gate u, input 2."""

    def corrupt(network, config):
        packed = pack(network, config)
        data = bytearray(packed.data)
        matrix = network.layers[0].matrices[0]
        order = CELLS["gru"].accumulators
        rank = sorted(range(3), key=lambda g: order.index(matrix.gates[g]))
        padded = np.zeros((3, 12, matrix.weight.shape[2]), np.int8)
        padded[:, :9] = matrix.weight[rank]
        columns = padded.reshape(3, 3, config.lanes, -1).transpose(3, 1, 0, 2)
        place = data.index(columns.tobytes())
        gate = rank.index(1)
        data[place + np.ravel_multi_index((2, 1, gate, 2), columns.shape)] ^= 0x40
        return dataclasses.replace(packed, data=bytes(data))

    monkeypatch.setattr(equivalence, "pack", corrupt)
    result = run_rtl(NETWORK, X, preset=CONFIG)
    first = result.first_difference
    assert result.mismatches == 1 and result.steps == first["step"] + 1 <= 3
    assert len(result.outputs) == result.steps
    assert (first["layer"], first["unit"]) in (("gru0", 6), ("dense", first["unit"]))
    assert first["engine"] != first["reference"]
    assert re.fullmatch(
        r"step \d+, layer '\w+', [\w ]+ of unit \d+: engine -?\d+, reference -?\d+",
        result.difference,
    )
    json.dumps(result.to_dict())


def test_mutated_reference_is_named(monkeypatch):
    """A state word that changes where no output shows it: found at once all the same."""
    real = Reference.step_integers

    def step(self, row):
        y = real(self, row)
        self.state[0]["h"][4] += 1
        return y

    monkeypatch.setattr(Reference, "step_integers", step)
    first = run_rtl(NETWORK, X, preset=CONFIG).first_difference
    place = (first["what"], first["layer"], first["unit"], first["step"])
    assert place == ("state h", "gru0", 4, 0)
    assert first["reference"] == first["engine"] + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history": len(X)}, r"^the input has 12 steps and the history takes 12; "),
        ({"history": -1}, r"^option 'history' must be a whole number from 0, not -1$"),
        ({"history": "many"}, r"^option 'history' must be a whole number from 0, not 'many'$"),
        ({"latency": 0}, r"^option 'latency' must be a whole number from 1, not 0$"),
        ({"check_state": 1}, r"^option 'check_state' must be true or false, not 1$"),
        ({"trace": "no/such/folder.vcd"}, r"^cannot write waveforms 'no/such/folder.vcd': No such"),
        ({"depth": 3}, r"^engine 'rtl' has no option 'depth'; options are history, trace, "),
        ({"preset": "axi65"}, r"^'axi65' is neither a preset"),
        (
            {"preset": small_config(units=8)},
            r"^network 'network' needs units = 12, engine 'small' ",
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(StillnetError, match=message):
        rtl_engine(NETWORK, X, **{"preset": CONFIG, **options})


def test_needs_a_second_encoder():
    network: Network = gru_dense(3)
    network.layers[0].threshold_recurrent = 5
    with pytest.raises(
        StillnetError, match=r"; generate one with second_threshold = true, or with --fit$"
    ):
        run_rtl(network, X, preset=CONFIG)
