"""Images of networks with parameters, peers and several kinds of cells; what an engine lacks."""

from __future__ import annotations

import re

import numpy as np
import pytest

from stillnet.sw.contract import image as layout
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.image import BIAS_WORDS, Kind
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix
from stillnet.sw.packing.packer import describe, pack, place

S5 = ("s5_encoder", "s5_state", "s5_imag", "s5_output", "s5_glu")
LANES = 4


def layer(
    cell: str, units: int, sources: dict[int, int], peers: dict[str, int] | None = None
) -> QuantizedLayer:
    """A layer with matrices of ones and parameters that are all different."""
    kind = CELLS[cell]
    fraction = kind.graph.result.format.fraction
    return QuantizedLayer(
        name=cell,
        cell=cell,
        units=units,
        matrices=[
            QuantizedMatrix(
                s, kind.accumulators, np.ones((len(kind.accumulators), units, n), "i1"), 9
            )
            for s, n in sources.items()
        ],
        bias={a: 100 * k + np.arange(units) for k, a in enumerate(kind.accumulators)},
        shift=9 + 13 - 13 + 8,
        write_shift=fraction - 13,
        fraction=13,
        mode=Mode.NONZERO,
        parameters={p: -1000 * (k + 1) - np.arange(units) for k, p in enumerate(kind.parameters)},
        peers=peers or {},
    )


def s5_network() -> Network:
    """An encoder and one block."""
    layers = [
        layer("s5_encoder", 6, {INPUT: 3}),
        layer("s5_state", 5, {0: 6}),
        layer("s5_imag", 5, {}, {"xr": 1, "xi": 1}),
        layer("s5_output", 6, {1: 5, 2: 5}, {"v": 0}),
        layer("s5_glu", 6, {3: 6}, {"x1": 3, "v": 0}),
    ]
    return Network(3, 13, layers, Mode.NONZERO)


def records(data: bytes, config: EngineConfig) -> tuple[list[dict], list[dict]]:
    """Fields of the layers and of the matrices of an image."""

    def slot(k: int) -> int:
        return int.from_bytes(data[64 * k : 64 * k + 4], "little")

    counts = layout.HEADER[1].unpack(slot(1))
    at, found = len(layout.HEADER), []
    for group, count in ((layout.LAYER, counts["layers"]), (layout.MATRIX, counts["matrices"])):
        rows = []
        for _ in range(count):
            fields: dict[str, int] = {}
            for record in group:
                fields |= record.unpack(slot(at))
                at += 1
            rows.append(fields)
        found.append(rows)
    return found[0], found[1]


def test_parameters_are_rows_after_the_accumulators() -> None:
    config = EngineConfig(lanes=LANES, cells=S5, cell_width=2)
    network = s5_network()
    data = pack(network, config).data
    _, matrices = records(data, config)
    runs = [m for m in matrices if m["kind"] == Kind.BIAS and m["target"] == 1]
    assert [(m["recurrent"], m["gates"], m["stride"]) for m in runs] == [
        (1, 0b111100, 6),
        (0, 0b11, 6),
    ]
    # Parameters first: a cell may run when the biases are there.
    for run, names in zip(runs, (CELLS["s5_state"].parameters, CELLS["s5_state"].accumulators)):
        assert run["column_words"] == BIAS_WORDS * 2 * len(names)
        at = run["base"] * LANES
        values = np.frombuffer(data[at : at + run["column_words"] * LANES], np.uint8)
        values = values.reshape(2, len(names), 4, LANES).astype(np.int64)
        words = sum(values[:, :, k] << 8 * k for k in range(4))
        words = (words + (1 << 31)) % (1 << 32) - (1 << 31)
        stored = {**network.layers[1].bias, **network.layers[1].parameters}
        for g, name in enumerate(names):
            np.testing.assert_array_equal(words[:, g].ravel()[:5], stored[name], name)
            assert not words[:, g].ravel()[5:].any()


def test_a_layer_that_nothing_feeds_still_has_a_bias_run() -> None:
    config = EngineConfig(lanes=LANES, cells=S5)
    layers, matrices = records(pack(s5_network(), config).data, config)
    assert layers[2]["matrices"] == 0
    assert [m["gates"] for m in matrices if m["target"] == 2] == [1]


def test_peers_are_the_rows_of_the_layers_that_are_read() -> None:
    config = EngineConfig(lanes=LANES, cells=S5, cell_width=2)
    network = s5_network()
    base = place(network, config).unit_base
    layers, _ = records(pack(network, config).data, config)
    found = [(fields["peer0"], fields["peer1"]) for fields in layers]
    assert found == [(0, 0), (0, 0), (base[1], base[1]), (base[0], 0), (base[3], base[0])]
    assert base == (0, 3, 6, 9, 12)


def test_info_names_parameters_and_peers() -> None:
    network = s5_network()
    layers = describe(pack(network, EngineConfig(lanes=LANES, cells=S5)).data)["layers"]
    assert layers[4]["peers"] == {"x1": "s5_output", "v": "s5_encoder"}
    assert list(layers[1]["parameters"]) == ["lam_re", "lam_im", "c_re", "c_im"]


def test_capacities_count_parameters_and_their_runs() -> None:
    network = s5_network()
    # Blocks of 4 units: 2 of every layer; 1 + 6 + 1 + 3 + 1 rows each; 5 bias runs, 2 of
    # parameters, 5 matrices.
    for field, needed in {"accumulators": 24, "matrices": 12}.items():
        with pytest.raises(StillnetError, match=rf"needs {field} = {needed}, engine"):
            pack(network, EngineConfig(lanes=LANES, cells=S5, **{field: needed - 1}))  # type: ignore[arg-type]
    pack(network, EngineConfig(lanes=LANES, cells=S5, accumulators=24, matrices=12))


def test_a_cell_that_the_engine_lacks_comes_with_the_command_that_generates_one() -> None:
    config = EngineConfig(name="axi64", lanes=8, memory="axi4")
    message = (
        "layer 's5_encoder' needs cell 's5_encoder', engine 'axi64' has gru, linear, relu, "
        "sigmoid, tanh; generate one that has it with: stillnet generate --preset axi64 --set "
        '\'cells=["gru", "linear", "relu", "sigmoid", "tanh", "s5_encoder", "s5_state", "s5_imag", '
        '"s5_output", "s5_glu"]\' -o core.v'
    )
    with pytest.raises(StillnetError, match=f"^{re.escape(message)}$"):
        pack(s5_network(), config)
    # And what it says works.
    changed = config.changed([re.search(r"--set '(.*)' -o", message)[1]])  # type: ignore[index]
    pack(s5_network(), changed)
    own = EngineConfig(name="mine", cells=("gru",))
    with pytest.raises(StillnetError, match=r"stillnet generate --preset mine.toml --set 'cells="):
        pack(s5_network(), own)


def test_the_first_layer_must_be_fed_by_the_input() -> None:
    network = s5_network()
    network.layers.insert(0, layer("s5_imag", 5, {}, {"xr": 2, "xi": 2}))
    for later in network.layers[1:]:
        for m in later.matrices:
            m.source += m.source != INPUT
        later.peers = {p: s + 1 for p, s in later.peers.items()}
    network.layers[3].peers = {"xr": 2, "xi": 2}
    with pytest.raises(StillnetError, match=r"^layer 's5_imag' is the first one and not fed by"):
        pack(network, EngineConfig(cells=S5))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (("s5_imag",), "cell 's5_imag' reads state 'xr' of another layer, which no cell of "),
        (("conv8", "lstm"), r"cells have 9 state variables \(s1, .*, h\), an engine has at most 8"),
    ],
)
def test_cells_that_no_engine_can_have(cells: tuple[str, ...], message: str) -> None:
    with pytest.raises(StillnetError, match=f"^engine config: {message}"):
        EngineConfig(cells=cells)


@pytest.mark.parametrize("sharing", [0, 17])
def test_sharing_has_limits(sharing: int) -> None:
    with pytest.raises(StillnetError, match=r"cell_sharing must be between 1 and 16, not"):
        EngineConfig(cell_sharing=sharing)
