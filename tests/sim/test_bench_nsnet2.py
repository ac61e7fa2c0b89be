"""``stillnet bench nsnet2``: a compressed NSNet2 on the generated engine and SDRAM controller."""

from __future__ import annotations

import numpy as np
import pytest

from stillnet.sim.audio import recordings, signals
from stillnet.sim.bench.nsnet2 import CASES, on_hardware
from stillnet.sw.compression import CompressOptions, compress, engine_for
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.importers.load import load_model


def test_cases_that_differ_in_their_budget_alone_share_stages() -> None:
    folders = {c.name: c.folder for c in CASES}
    assert folders["half"] == folders["half-thresholds"] == "4bit-0.5"
    assert folders["lane"] == folders["lane-thresholds"] == "4bit-0.5-lane"
    assert folders["int4-nearest"] == "4bit-0-nearest" and folders["int8"] == "8bit-0"
    assert len({c.name for c in CASES}) == len({c.label for c in CASES}) == len(CASES)


@pytest.mark.slow
def test_a_compressed_network_on_the_hardware() -> None:
    """Half of the int4 weights gone, in bitmaps, thresholds by element: real speech, every output
    and all state as the reference has them, and the cost model's time."""
    model = load_model(recordings.nsnet2_path())
    options = CompressOptions(sparsity=0.5, pattern="lane", method="nearest", mean_error=1.0)
    config = engine_for(options)
    rng = np.random.default_rng(5)
    thresholds = {
        s: rng.choice([1, 4, 16, 32], model.source_size(s)) / 256
        for s in range(INPUT, len(model.layers) - 1)
    }
    network = compress(
        model,
        recordings.calibration_recordings(1, 6.0),
        CompressOptions(sparsity=0.5, pattern="lane", method="nearest"),
        config=config,
        thresholds=thresholds,
    )
    layouts = {
        m.layout(layer.cell, config).name for layer in network.layers for m in layer.matrices
    }
    assert layouts == {"bitmap 8 of 16"} and network.element_thresholds
    speech = signals.features(signals.stft(recordings.test_mix(noise="machine")[0]))
    run = on_hardware(network, [speech[:500]], config, stretches=2, frames=3)
    assert run["frames"] == 6
    assert run["words"] == run["predicted_words"]
    assert run["cycles"] == pytest.approx(run["predicted_cycles"], rel=0.02)
