"""What a network file says of its calibration, against the reference, step by step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.network.calibration import Calibration
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from tests.support.networks.quick import quantize


def gru(inputs: int = 3, units: int = 7) -> Model:
    """A GRU and a dense layer."""
    rng = np.random.default_rng(2)

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.5, shape)

    sizes = ((3 * units, inputs), (3 * units, units), (3 * units,), (3 * units,))
    return Model(inputs=inputs).gru(*(weights(*s) for s in sizes)).dense(weights(2, units), None)


def by_hand(net: Network, recordings: list[np.ndarray], window: int) -> dict:
    """The same figures in loops."""
    reference, names = Reference(net), net.event_names()
    rates: dict[str, list[float]] = {n: [] for n in names.values()}
    totals: dict[str, list[int]] = {n: [] for n in names.values()}
    still, saturations, rows, outputs = np.zeros(net.inputs, int), 0, [], []
    for x in recordings:
        reference.reset()
        counts: dict[str, list[int]] = {n: [] for n in names.values()}
        run = np.zeros(net.inputs, int)
        for t, row in enumerate(q := net.quantize_input(x)):
            outputs.append(reference.step_integers(row))
            saturations += reference.last.saturations
            for key, count in reference.last.events.items():
                counts[names[key]].append(count)
            for j in range(net.inputs):
                run[j] = run[j] + 1 if t and row[j] == q[t - 1][j] else 0
            still = np.maximum(still, run)
            rows.append(row)
        for name, c in counts.items():
            totals[name] += c
            rates[name] += [sum(c[t : t + window]) / window for t in range(len(c) - window + 1)]
    return {
        "steps": len(rows),
        "window": window,
        "events": {
            n: [round(min(r), 4), round(float(np.mean(totals[n])), 4), round(max(r), 4)]
            for n, r in rates.items()
        },
        "saturations": saturations / len(rows),
        "input_low": np.min(rows, axis=0).tolist(),
        "input_high": np.max(rows, axis=0).tolist(),
        "input_still": still.tolist(),
        "output_low": np.min(outputs, axis=0).tolist(),
        "output_high": np.max(outputs, axis=0).tolist(),
    }


@pytest.mark.parametrize("lengths", [(120, 70, 51), (200,), (30, 12), (5,)])
def test_figures_are_those_of_the_reference(lengths, tmp_path: Path) -> None:
    """Recordings of any lengths, an input that stands still for a while, through the file."""
    rng = np.random.default_rng(4)
    recordings = [np.cumsum(rng.normal(0, 0.3, (n, 3)), axis=0) for n in lengths]
    recordings[0][2:4, 1] = recordings[0][1, 1]
    net = quantize(gru(), recordings, thresholds={"input": 0.1, "gru0": 0.05})
    net.save(tmp_path / "net.safetensors")
    loaded = Network.load(tmp_path / "net.safetensors")
    found = Calibration.of_notes(loaded)
    assert found is not None
    values = found.to_dict() | {"events": {n: list(e) for n, e in found.events.items()}}
    assert values == by_hand(net, recordings, min(50, max(lengths)))
    assert max(found.input_still) >= 2


def test_two_encoders_and_tokens() -> None:
    """A second encoder has a rate of its own; tokens have neither ranges nor a rate."""
    rng = np.random.default_rng(5)
    x = np.cumsum(rng.normal(0, 0.3, (80, 3)), axis=0)
    net = quantize(gru(), [x], thresholds=0.1, threshold_recurrent=0.02)
    found = Calibration.of_notes(net)
    assert found is not None
    assert found.events["gru0 (recurrent)"][1] > found.events["gru0"][1] > 0
    model = gru(9)
    model.one_hot = True
    found = Calibration.of_notes(quantize(model, [rng.integers(0, 9, 80)]))
    assert found is not None and "gru0" in found.events
    assert not found.input_low and not found.input_still and "input" not in found.events


def test_other_files() -> None:
    """A network made by hand has no calibration; a damaged one is refused."""
    net = Network(inputs=1, input_fraction=0, layers=[])
    assert Calibration.of_notes(net) is None
    net.notes["calibration"] = {"steps": 5}
    with pytest.raises(StillnetError, match="calibration has no key 'events'.*quantize again"):
        Calibration.of_notes(net)
