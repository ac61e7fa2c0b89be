"""S5 a second time, written from ``docs/cells.md`` and ``docs/numbers.md`` and from nothing else.

Plain Python integers, one element at a time, no arrays and none of ``sw.contract``: what it shares
with the reference is the page and the fields of the network file. It follows *As integers*
of the page line by line, so that a reader can lay one beside the other.
"""

from __future__ import annotations

import math
from typing import Any

KNOTS = [math.floor(math.tanh(i / 64) * 32768 + 0.5) for i in range(513)]
"""tanh on [0, 8], 15 fraction bits."""


def clip(value: int, bits: int) -> int:
    """To the ends of the two's complement range."""
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, value))


def low_bits(value: int, bits: int) -> int:
    """The low bits, read as two's complement: wrap-around."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def sigmoid(x: int) -> int:
    """18 bits with 13 of fraction in, 16 of fraction out: 1/2 + tanh(x / 2) / 2."""
    size = min(abs(x), 131071)
    segment, rest = divmod(size, 256)
    rise = ((KNOTS[segment + 1] - KNOTS[segment]) * rest + 128) >> 8
    tanh = KNOTS[segment] + rise
    return 32768 + (tanh if x >= 0 else -tanh)


def passes(xr: int, xi: int) -> bool:
    """The gate: one decision for a complex state."""
    return xr > 0 or (xr == 0 and xi > 0)


def state_update(
    xr: int, xi: int, lam_re: int, lam_im: int, c_re: int, c_im: int, bre: int, bim: int
) -> tuple[int, int]:
    """One complex state of ``s5_state``: four products, exact; floored once; 32 bits that wrap."""
    re = lam_re * xr - lam_im * xi + ((c_re * bre - c_im * bim) << 9)
    im = lam_re * xi + lam_im * xr + ((c_re * bim + c_im * bre) << 9)
    return low_bits(re >> 15, 32), low_bits(im >> 15, 32)


class PublishedS5:
    """A stack of S5 blocks between an encoder and dense layers, from a quantized network.

    Parameters
    ----------
    network : sw.network.Network
        Only fields are read. Cells: the four of S5, ``s5_encoder`` and ``linear``.

    Attributes
    ----------
    states : list of dict of str to list of int, one dict a layer
    vectors : list of list of int, one list a layer
    wrapped, clipped : int
        How often a state wrapped and a 16-bit value was clipped: so that a test can ask for it.
    events : int
        Events that flowed, of all vectors.
    """

    def __init__(self, network: Any) -> None:
        self.input_mode = network.input_mode.name
        self.input_limits = limits(network.input_limit, network.inputs)
        self.layers = [plain(layer) for layer in network.layers]
        self.states: list[dict[str, list[int]]] = []
        self.vectors = [[0] * layer["units"] for layer in self.layers]
        names = {
            "s5_encoder": ("v",),
            "s5_state": ("xr", "xi"),
            "s5_output": ("x1",),
            "s5_glu": ("v",),
        }
        for layer in self.layers:
            state = {name: [0] * layer["units"] for name in names.get(layer["cell"], ())}
            for name, value in layer["initial"].items():
                state[name] = list(value)
            self.states.append(state)
        # Of delta events: what the accumulators stand for. S5's own vectors are plain.
        self.input_reference = [0] * network.inputs
        self.references = [[0] * layer["units"] for layer in self.layers]
        self.sums = [{g: list(b) for g, b in layer["bias"].items()} for layer in self.layers]
        self.wrapped = self.clipped = self.events = 0

    # -- what every layer does --------------------------------------------------------------------

    def step(self, x: list[int]) -> list[int]:
        """One step: 16-bit inputs to the vector of the last layer."""
        from_input = self.encode(self.input_mode, x, self.input_reference, self.input_limits)
        # What a layer reads from itself or from above is the last step's vector.
        sent: dict[int, tuple[str, list[tuple[int, int]]]] = {-1: (self.input_mode, from_input)}
        for index, layer in enumerate(self.layers):
            assert all(m["source"] < index for m in layer["matrices"]), "S5 has no such feedback"
            sums = self.sums[index]
            if any(sent[m["source"]][0] == "NONZERO" for m in layer["matrices"]):
                for gate, bias in layer["bias"].items():
                    sums[gate] = list(bias)
            for m in layer["matrices"]:
                for column, value in sent[m["source"]][1]:
                    for gate, rows in zip(m["gates"], m["weight"], strict=True):
                        for row in range(layer["units"]):
                            total = sums[gate][row] + rows[row][column] * value
                            sums[gate][row] = low_bits(total, 32)
            read = {
                gate: [self.rescale(a, layer["shift"]) for a in sums[gate]]
                for gate in layer["bias"]
            }
            self.vectors[index] = [
                self.unit(index, layer, n, {gate: read[gate][n] for gate in read})
                for n in range(layer["units"])
            ]
            events = self.encode(
                layer["mode"], self.vectors[index], self.references[index], layer["limits"]
            )
            sent[index] = (layer["mode"], events)
        return self.vectors[-1]

    def encode(
        self, mode: str, vector: list[int], reference: list[int], least: list[int]
    ) -> list[tuple[int, int]]:
        """Which elements flow, and with which value."""
        events = []
        for index, value in enumerate(vector):
            if mode == "DELTA":
                value -= reference[index]
            elif mode != "NONZERO":
                raise AssertionError(f"S5 is not fed by {mode}")
            if value != 0 and abs(value) >= least[index]:
                events.append((index, value))
                reference[index] = vector[index]
        self.events += len(events)
        return events

    @staticmethod
    def rescale(accumulator: int, shift: int) -> int:
        """32 bits to 18: << 8, >> shift, half up. The S5 layers' bias makes a floor of it."""
        half = (1 << shift) >> 1
        return clip(((accumulator << 8) + half) >> shift, 18)

    def clip16(self, value: int) -> int:
        """Clips to 16 bits and counts it."""
        found = clip(value, 16)
        self.clipped += found != value
        return found

    # -- the cells --------------------------------------------------------------------------------

    def unit(self, index: int, layer: dict[str, Any], n: int, m: dict[str, int]) -> int:
        """The element ``n`` of the vector of a layer; its state is written."""
        state = self.states[index]
        cell = layer["cell"]
        if cell == "linear":
            # The rescale shift has chosen the scale of the vector; clipping is left.
            return self.clip16(m["y"])
        if cell == "s5_encoder":
            state["v"][n] = self.clip16(m["y"])
            return state["v"][n]
        if cell == "s5_state":
            p = {name: values[n] for name, values in layer["parameters"].items()}
            old = state["xr"][n], state["xi"][n]
            xr, xi = state_update(
                *old, p["lam_re"], p["lam_im"], p["c_re"], p["c_im"], m["bre"], m["bim"]
            )
            wide = p["lam_re"] * old[0] - p["lam_im"] * old[1]
            wide += (p["c_re"] * m["bre"] - p["c_im"] * m["bim"]) << 9
            self.wrapped += wide >> 15 != xr
            state["xr"][n], state["xi"][n] = xr, xi
            return self.clip16(xr >> 10) if passes(xr, xi) else 0
        if cell == "s5_imag":
            xr, xi = self.peer(layer, "xr", n), self.peer(layer, "xi", n)
            return self.clip16(xi >> 10) if passes(xr, xi) else 0
        if cell == "s5_output":
            d, v = layer["parameters"]["d"][n], self.peer(layer, "v", n)
            total = ((m["yr"] - m["yi"]) << 12) + d * v
            state["x1"][n] = self.clip16(max(0, total) >> 12)
            return state["x1"][n]
        if cell == "s5_glu":
            x1, v = self.peer(layer, "x1", n), self.peer(layer, "v", n)
            total = x1 * sigmoid(m["g"]) + (v << 16)
            state["v"][n] = self.clip16(max(0, total) >> 16)
            return state["v"][n]
        raise AssertionError(f"cell {cell} is none of S5's")

    def peer(self, layer: dict[str, Any], name: str, n: int) -> int:
        """A state variable of another layer; layers below have already made this step."""
        return self.states[layer["peers"][name]][name][n]


def limits(limit: Any, size: int) -> list[int]:
    """A threshold for each element."""
    return [int(limit)] * size if isinstance(limit, int) else [int(t) for t in limit]


def plain(layer: Any) -> dict[str, Any]:
    """The fields of a quantized layer as lists of Python integers."""
    assert layer.write_shift == 0 and layer.scale is None
    return {
        "cell": layer.cell,
        "units": layer.units,
        "mode": layer.mode.name,
        "shift": layer.shift,
        "limits": limits(layer.limit, layer.units),
        "bias": {g: b.tolist() for g, b in layer.bias.items()},
        "parameters": {p: v.tolist() for p, v in layer.parameters.items()},
        "initial": {s: v.tolist() for s, v in layer.initial.items()},
        "peers": dict(layer.peers),
        "matrices": [
            {"source": m.source, "gates": m.gates, "weight": m.weight.tolist()}
            for m in layer.matrices
        ],
    }
