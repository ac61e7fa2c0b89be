"""``fit``: an engine gets what a network asks of it, all of that, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillnet.boards.board import block_rams
from stillnet.boards.catalogue import board
from stillnet.sim.board import server
from stillnet.sim.board.virtual import sim_transport
from stillnet.sw.cli.main import main
from stillnet.sw.contract.config import PRESETS, EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.image import FORMATS
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.host.engines import run
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix
from stillnet.sw.packing.engine_fit import changed, fit, missing
from stillnet.sw.packing.packer import costs, load_image, pack
from tests.support.networks.formats import format_case
from tests.support.networks.quick import quantize
from tests.support.networks.random import engine_config, random_case

RICH = engine_config(
    lanes=4,
    cells=("gru", "lstm", "linear", "relu", "sigmoid", "tanh"),
    int4=True,
    row_scale=True,
    element_thresholds=True,
    formats=FORMATS,
    columns=512,
)
POOR = EngineConfig(
    name="poor", lanes=4, cells=("linear",), units=4, inputs=1, accumulators=2, layers=1, matrices=1
)


def words(network: Network, config: EngineConfig) -> int:
    """Of all columns."""
    return sum(row["words"][row["format"]] for row in costs(network, config))


def needs(network: Network) -> set[str]:
    """Options that a network asks for, looked up by hand."""
    matrices = [m for layer in network.layers for m in layer.matrices]
    found = {
        "int4": any(m.bits == 4 for m in matrices),
        "row_scale": any(layer.scale is not None for layer in network.layers),
        "element_thresholds": network.input_thresholds is not None
        or any(layer.thresholds is not None for layer in network.layers),
    }
    return {name for name, asked in found.items() if asked}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_the_poorest_engine_is_given_what_a_network_asks_for(seed: int) -> None:
    network = format_case(seed, RICH).network
    config = fit(network, POOR)
    pack(network, config)
    assert config.lanes == POOR.lanes and config.name == "poor-fit"
    asked = needs(network)
    for option in ("int4", "row_scale", "element_thresholds"):
        assert getattr(config, option) == (option in asked), option
    named = {m.format for layer in network.layers for m in layer.matrices} - {None}
    assert {"dense", *named} <= set(config.formats)
    # Nothing that would save much was left out, and nothing was added that saves nothing.
    best = dataclasses.replace(config, formats=FORMATS, columns=1024)
    assert words(network, config) <= words(network, best) * 1.02 ** (len(FORMATS) - 1)
    for extra in set(config.formats) - {"dense", *named}:
        fewer = tuple(f for f in config.formats if f != extra)
        columns = 1024 if {"block", "step"} & set(fewer) else 0
        without = dataclasses.replace(config, formats=fewer, columns=columns)
        assert words(network, without) * 0.98 > words(network, config)
    # Once more changes nothing.
    assert fit(network, config) is config


def dense(seed: int) -> Network:
    """A random network that asks for nothing that came after the first engine."""
    network = random_case(seed, engine_config()).network
    for layer in network.layers:
        layer.matrices = [dataclasses.replace(m, format="dense") for m in layer.matrices]
    return network


def test_an_engine_that_has_everything_stays_itself() -> None:
    base = engine_config()
    for seed in range(20):
        assert fit(dense(seed), base) is base


def test_a_second_threshold_asks_for_a_second_encoder() -> None:
    network = quantize(
        Model(3)
        .gru(*[np.ones(s) / 9 for s in ((12, 3), (12, 4), 12, 12)])
        .dense(np.ones((2, 4)), np.ones(2)),
        np.random.default_rng(0).uniform(-1, 1, (50, 3)),
        thresholds=1 / 16,
        threshold_recurrent=1 / 8,
    )
    with pytest.raises(StillnetError, match="generate one with second_threshold = true, or with"):
        pack(network, PRESETS["tiny"])
    config = fit(network, PRESETS["tiny"])
    assert config.second_threshold and pack(network, config).config == config


def test_capacities_grow_where_they_are_too_small() -> None:
    network = format_case(5, RICH).network
    config = fit(network, POOR)
    for field, value in {"units": config.units, "accumulators": config.accumulators}.items():
        assert value & (value - 1) == 0
        with pytest.raises(StillnetError, match=f"needs {field} = .*'{field}', or with --fit$"):
            pack(network, dataclasses.replace(config, **{field: value // 2}))
    assert config.layers == len(network.layers)


def test_missing_says_what_must_change() -> None:
    base = engine_config()
    for seed in range(20):
        assert missing(dense(seed), base) == []
    network = format_case(5, RICH).network
    asked = missing(network, POOR)
    assert needs(network) <= set(asked) <= set(changed(POOR, fit(network, POOR)))
    for field in asked:
        if field in ("units", "accumulators"):
            small = dataclasses.replace(fit(network, POOR), **{field: getattr(POOR, field)})
            with pytest.raises(StillnetError, match=f"needs {field} = "):
                pack(network, small)


# -- commands -------------------------------------------------------------------------------------


@pytest.fixture
def compressed(tmp_path, monkeypatch) -> Network:
    """int4, multipliers of rows, bitmaps of half, thresholds by element; in net.safetensors."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)
    model = Model(6).gru(*[rng.normal(0, 0.4, s) for s in ((48, 6), (48, 16), 48, 48)])
    network = quantize(model, rng.uniform(-1, 1, (80, 6)), thresholds=1 / 64)
    for layer in network.layers:
        layer.scale = {g: rng.integers(1 << 13, 1 << 14, layer.units) for g in layer.bias}
        layer.thresholds = rng.integers(0, 40, layer.units)
        layer.matrices = [
            dataclasses.replace(m, weight=m.weight >> 4, bits=4, format="bitmap")
            for m in layer.matrices
        ]
        for m in layer.matrices:
            m.weight[:, ::2] = 0
    network.save("net.safetensors")
    np.save("x.npy", rng.uniform(-1, 1, (9, 6)))
    return network


def test_pack_and_generate_make_the_same_engine(compressed, capsys) -> None:
    assert main(["pack", "net.safetensors", "--preset", "tiny", "-o", "net.img"]) == 2
    assert re.search(
        r"(row_scale|element_thresholds) = true, or with --fit", capsys.readouterr().err
    )
    assert main(["pack", "net.safetensors", "--preset", "tiny", "--fit", "-o", "net.img"]) == 0
    generate = ["generate", "--preset", "tiny", "--fit", "net.safetensors", "-o", "core.v"]
    assert main([*generate, "--json"]) == 0
    printed = capsys.readouterr().out
    made = json.loads(printed[printed.index("{") :])
    image = load_image("net.img")
    assert f"{image.config.fingerprint:08x}" == made["fingerprint"]
    assert image.config.int4 and image.config.formats == ("dense", "bitmap")


def test_run_counts_the_words_of_the_fitted_engine(compressed) -> None:
    x = np.load("x.npy")
    with pytest.raises(StillnetError, match="asks for format 'bitmap'.* with --fit, or leave"):
        run(compressed, x, preset="tiny", fit=False)
    fitted = run(compressed, x, preset="tiny", fit=True)
    assert run(compressed, x, preset="tiny") == fitted
    assert fitted.added == changed(PRESETS["tiny"], fit(compressed, PRESETS["tiny"]))
    own = run(compressed, x, preset=fit(compressed, PRESETS["tiny"]))
    assert fitted.preset == "tiny-fit" and fitted.words == own.words
    assert fitted.lacking == []
    compressed.layers[0].matrices = [
        dataclasses.replace(m, format=None) for m in compressed.layers[0].matrices
    ]
    plain = run(compressed, x, preset="tiny", fit=False)
    assert plain.lacking == ["int4", "element_thresholds"]
    assert plain.words > fitted.words
    np.testing.assert_array_equal(fitted.outputs, own.outputs)


# -- boards ---------------------------------------------------------------------------------------


def test_a_board_gets_an_engine_to_measure(compressed) -> None:
    own, fitted = board("ulx3s-25f"), board("ulx3s-25f").fitted(compressed)
    config = fitted.config()
    pack(compressed, config)
    assert config.name == "ulx3s-25f-fit" and config.int4 and config.row_scale
    assert (config.lanes, config.address_bits) == (own.config().lanes, own.config().address_bits)
    assert (config.units, config.accumulators) == (1024, 512)
    assert fitted.fitted(compressed) is fitted
    assert block_rams(config) < block_rams(own.config())


def test_a_board_keeps_its_engine_where_that_will_do() -> None:
    assert board("ulx3s-85f").fitted(dense(3)) is board("ulx3s-85f")


def large_gru(units: int) -> Network:
    """Quantizing as many weights would take long. Columns of steps, whose lengths need a table."""
    rng = np.random.default_rng(0)

    def matrix(source: int, gates: tuple[str, ...], size: int) -> QuantizedMatrix:
        weight = rng.integers(-60, 61, (3, units, size)).astype(np.int8)
        return QuantizedMatrix(source, gates, weight, 8)

    layer = QuantizedLayer(
        name="gru",
        cell="gru",
        units=units,
        matrices=[
            dataclasses.replace(matrix(INPUT, ("r", "u", "cx"), 8), format="step"),
            matrix(0, ("r", "u", "ch"), units),
        ],
        bias={gate: np.zeros(units, np.int64) for gate in ("r", "cx", "u", "ch")},
        shift=14,
        write_shift=3,
        fraction=11,
    )
    network = Network(8, 11, [layer])
    network.validate()
    return network


def test_a_network_too_large_for_a_board_is_refused(compressed) -> None:
    network = large_gru(2000)
    message = (
        r"an engine for network '.*' takes \d+ blocks of RAM, board 'ulx3s-25f' has 56; "
        r"take a larger FPGA, or compress without sparsity"
    )
    with pytest.raises(StillnetError, match=message):
        board("ulx3s-25f").fitted(network)
    message = (
        "network '.*' asks for other .*int4.* than board 'icebreaker' has, whose FPGA has no room "
        "for more; take a board with SDRAM"
    )
    with pytest.raises(StillnetError, match=message):
        board("icebreaker").fitted(compressed)


def test_a_real_board_cannot_be_fitted_by_run(compressed) -> None:
    with pytest.raises(StillnetError, match="'stillnet build --board NAME --fit NET'$"):
        run(compressed, np.load("x.npy"), engine="board:/dev/null", fit=True)


def test_run_refuses_to_fit_where_that_is_forbidden(compressed, capsys) -> None:
    command = ["run", "net.safetensors", "x.npy", "--no-fit", "--engine"]
    for engine in ("rtl", "sim:ulx3s-25f"):
        assert main([*command, engine]) == 2
        assert re.search(
            r"(row_scale|element_thresholds) = true, or with --fit", capsys.readouterr().err
        )


def test_commands_that_make_something_fit_only_when_asked(compressed, capsys) -> None:
    lack = r"(row_scale|element_thresholds) = true, or with --fit"
    for command in (["generate", "--preset", "tiny"], ["build", "--board", "ulx3s-25f"]):
        assert main([command[0], "net.safetensors", *command[1:], "-o", "core.v"]) == 2
        assert re.search(lack, capsys.readouterr().err)
        assert main([*command, "--fit"]) == 2
        assert "--fit needs a network: stillnet " in capsys.readouterr().err


def test_the_virtual_board_fits_unless_that_is_forbidden(compressed, capsys, monkeypatch) -> None:
    made = []

    class Model:
        def __init__(self, target, **_) -> None:
            made.append(target.config())

        def close(self) -> None:
            pass

    monkeypatch.setattr(server, "VirtualBoard", Model)
    monkeypatch.setattr(server, "serve_on_socket", lambda *_: None)
    command = ["virtual", "net.safetensors", "--board", "ulx3s-25f"]
    assert main([*command, "--no-fit"]) == 2 and made == []
    assert re.search(
        r"(row_scale|element_thresholds) = true, or with --fit", capsys.readouterr().err
    )
    assert main(command) == main(["virtual", "--board", "ulx3s-25f", "--fit", command[1]]) == 0
    wanted = board("ulx3s-25f").fitted(compressed).config()
    assert made == [wanted, wanted]
    assert "engine 'ulx3s-25f-fit' was fitted to the network: other " in capsys.readouterr().out
    assert main(["virtual", "--board", "ulx3s-25f"]) == 0
    assert made[2] == board("ulx3s-25f").config()


@pytest.mark.slow
def test_a_compressed_network_on_the_virtual_board(compressed) -> None:
    """Link, engine, SDRAM controller and part; every output held against the reference."""
    result = run(compressed, np.load("x.npy"), engine="sim:ulx3s-25f")
    assert result.mismatches == 0 and result.steps == 9
    assert result.preset == "ulx3s-25f-fit" and {"int4", "element_thresholds"} <= set(result.added)
    reference = run(
        compressed, np.load("x.npy"), preset=board("ulx3s-25f").fitted(compressed).config()
    )
    assert result.words == reference.words
    np.testing.assert_array_equal(result.outputs, reference.outputs)
    model = sim_transport("ulx3s-25f", fit=compressed)
    assert model.target.name == "ulx3s-25f" and model.config.int4
    model.close()
