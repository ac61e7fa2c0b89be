"""Bytes on the link per step: ``python -m tests.support.link.measure NET ...``.

Each network is one of NSNet2, as ``make demo`` and ``stillnet bench nsnet2`` make them. Its frames
are of speech that calibration did not hear, with two kinds of noise. Outputs are those of the
reference; vectors go through the driver's own code and come back through it, so every byte is that
of a board. It prints a table of docs/link.md.
"""

from __future__ import annotations

import sys

import numpy as np

from stillnet.hw.host.link.link import HostLink
from stillnet.sim.audio import recordings, signals
from stillnet.sw.contract.config import PRESETS
from stillnet.sw.contract.link import REPLY, Command, Frame, encode
from stillnet.sw.contract.vectors.changes import WANTED_SHIFT, Form, changes
from stillnet.sw.host.driver.changes import LinkVectors
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference

NOISES = ("machine", "pink")
STEPS = 1000
"""Of each kind of noise: ten seconds."""


def measure(path: str) -> tuple[float, ...]:
    """Mean bytes per step: whole to the board and back, as changes to the board and back."""
    network = Network.load(path)
    identity = HostLink(PRESETS["axi64"], clock_hz=100_000_000).identity
    counted: list[tuple[int, ...]] = []
    for noise in NOISES:
        mix, _ = recordings.test_mix(noise=noise)
        rows = network.quantize_input(signals.features(signals.stft(mix)))[:STEPS]
        reference, vectors = Reference(network), LinkVectors()
        reference.clear()
        vectors.begin(network, exact=True)
        before = np.zeros(network.outputs, np.int64)
        for step, x in enumerate(rows):
            y = reference.step_integers(x)
            kind, payload = vectors.command(x, identity)
            whole = [x.astype("<i2").tobytes(), y.astype("<i2").tobytes()]
            answer = whole[1]
            if kind == Command.CHANGE:
                form = Form(payload[0] >> WANTED_SHIFT)
                answer = bytes([form]) + changes(y, before, form)
            found = vectors.output(kind, answer)
            assert found is not None and np.array_equal(found, y)
            before = y
            frames = [(Command.STEP, whole[0]), (Command.STEP | REPLY, whole[1] + b"\0")]
            frames += [(kind, payload), (kind | REPLY, answer + b"\0")]
            counted.append(tuple(len(encode(Frame(k, step % 256, data))) for k, data in frames))
    return tuple(np.mean(counted, axis=0).tolist())


def main() -> None:
    print("| network | whole, to the board | back | changes, to the board | back | share |")
    print("|---|---|---|---|---|---|")
    for path in sys.argv[1:]:
        a, b, c, d = measure(path)
        name = Network.load(path).name
        print(
            f"| {name} ({path}) | {a:.0f} | {b:.0f} | {c:.0f} | {d:.0f} | {(c + d) / (a + b):.3f} |"
        )


if __name__ == "__main__":
    main()
