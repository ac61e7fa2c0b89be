"""Energy from counted commands, against a library that works Micron's method out by itself; and
operations, against sums over all weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from energydram.timing import Timing
from energydram.voltage_domain import IDDs, VoltageDomain

from stillnet.sw.cli.main import main
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.registers import SDRAM_PARTS
from stillnet.sw.network.reference import Reference
from stillnet.sw.report.collect import collect
from stillnet.sw.report.energy import (
    CURRENTS,
    VOLTS,
    Currents,
    energy_lines,
    energy_of,
    sdram_energy,
    standby_power,
)
from stillnet.sw.report.operations import operations
from stillnet.sw.util.results.runs import SdramUse
from stillnet.sw.util.shown import shown_joules
from tests.support.streams import network, recording

COUNTS = {
    "activates": 1200,
    "reads": 9000,
    "writes": 40,
    "refreshes": 128,
    "read_cycles": 70_000,
    "open": 80_000,
    "closed": 2_000,
    "power_down": 918_000,
    "wakes": 130,
    "wake_cycles": 20,
}
USE = SdramUse(part="W9825G6KH", clock_hz=100_000_000, counts=COUNTS)


@pytest.mark.parametrize("part", CURRENTS)
def test_energy_is_that_of_energydram(part: str) -> None:
    """Its refresh is beyond open rows, ours beyond closed ones, which is what they are."""
    c = replace(CURRENTS[part], standby_hz=100e6, burst_hz=100e6)
    tck = 10.0
    idds = IDDs(
        idd0=c.row,
        idd2p=c.power_down,
        idd2n=c.closed,
        idd3p=c.power_down,
        idd3n=c.open_,
        idd4r=c.burst,
        idd4w=c.burst,
        idd5=c.refresh,
    )
    timing = Timing(RAS=c.tras / tck, RP=(c.trc - c.tras) / tck, RFC=c.trfc / tck, REFI=780, RRD=2)
    domain = VoltageDomain(tck, VOLTS, idds, c.parts, 1)
    found = sdram_energy(replace(USE, part=part), c)
    picojoules = {
        "opening and closing rows": domain.activate_energy(timing, COUNTS["activates"]),
        "reading": domain.readwrite_energy(num_rd=COUNTS["read_cycles"]),
        "writing": domain.readwrite_energy(num_rd=0, num_wr=COUNTS["writes"]),
        "refresh": domain.refresh_energy(timing, COUNTS["refreshes"])
        + COUNTS["refreshes"] * (c.open_ - c.closed) * c.trfc * VOLTS * c.parts,
        "standby, rows open": domain.background_energy(cycles_bankact_ckehi=COUNTS["open"]),
        "standby, rows closed": domain.background_energy(cycles_bankpre_ckehi=COUNTS["closed"]),
        "power-down": domain.background_energy(cycles_bankpre_ckelo=COUNTS["power_down"]),
    }
    assert found == pytest.approx({k: 1e-12 * v for k, v in picojoules.items()}, rel=1e-12)


def test_a_faster_clock_draws_more_and_a_slower_one_is_not_flattered() -> None:
    currents = CURRENTS["EM638325"]  # standby measured at 66.7 MHz
    slow = sdram_energy(replace(USE, clock_hz=50_000_000), currents)
    fast = sdram_energy(replace(USE, clock_hz=133_400_000), currents)
    # Twice the current, for 50 / 133.4 of the time.
    ratio = 2 * 50 / 133.4
    assert fast["power-down"] / slow["power-down"] == pytest.approx(ratio, rel=1e-3)
    assert fast["opening and closing rows"] == slow["opening and closing rows"]


def test_energy_of_a_step_at_a_rate() -> None:
    """The run's own, and idling for the rest of the period."""
    run = energy_of(USE, 10)
    assert run is not None and run.sdram is not None
    assert run.sdram == pytest.approx(sum(sdram_energy(USE, CURRENTS[USE.part]).values()) / 10)
    at = energy_of(USE, 10, rate=100)
    idle = standby_power(USE, CURRENTS[USE.part])
    # A million cycles of 10 ns for ten steps: 1 ms each.
    assert at is not None and at.sdram == pytest.approx(run.sdram + idle * (10e-3 - 1e-3))
    slow = energy_of(USE, 10, rate=2000)
    assert slow is not None and (slow.sdram, slow.slower) == (run.sdram, pytest.approx(1e-3))
    assert (
        "in this run, whose steps took 1 ms, longer than the rate's" in energy_lines(slow, USE)[0]
    )


def test_idle_power_is_what_sleep_and_refreshes_take() -> None:
    """Of nothing but sleep, all of the energy is idle power."""
    c = CURRENTS[USE.part]
    counts = dict.fromkeys(COUNTS, 0) | {"power_down": 10**8, "refreshes": 128_000}
    use = replace(USE, counts=counts)
    assert standby_power(use, c) == pytest.approx(sum(sdram_energy(use, c).values()))
    assert standby_power(replace(use, counts=counts | {"power_down": 0, "closed": 10**8}), c) > (
        2 * standby_power(use, c)
    )


def test_a_meter() -> None:
    board = energy_of(None, 10, watts=0.9, rate=100)
    assert board is not None and board.board == pytest.approx(9e-3) and board.sdram is None
    timed = energy_of(None, 10, watts=0.9, seconds=2.0)
    assert timed is not None and timed.board == pytest.approx(0.18)
    assert energy_of(None, 10) is None
    with pytest.raises(StillnetError, match="give --pace"):
        energy_of(None, 10, watts=0.9)


def test_what_is_said() -> None:
    """Whose currents these are, and what is not in the figure."""
    lines = energy_lines(energy_of(USE, 10, rate=100, watts=1.5), USE)  # type: ignore[arg-type]
    text = " ".join(lines)
    for words in ("at 100 steps per second", "core only, I/O not counted", "Winbond", "°C"):
        assert words in text
    assert "stands in for W9825G6KH" in text and "15 mJ per step, from 1.5 W" in text
    unknown = replace(USE, part="AS4C32M16")
    assert energy_lines(energy_of(unknown, 10), unknown) == [  # type: ignore[arg-type]
        "SDRAM: commands were counted, but no currents of AS4C32M16 are known"
    ]


def test_every_table_says_where_it_is_from() -> None:
    assert set(CURRENTS) <= set(SDRAM_PARTS)
    for currents in CURRENTS.values():
        assert "°C" in currents.source and "maximum" in currents.source
        assert currents.power_down < currents.closed <= currents.open_ < currents.burst
        assert isinstance(currents, Currents) and currents.refresh > currents.open_


def test_operations_are_sums_over_all_weights() -> None:
    net, recordings = network(), [recording(1, 40), recording(2, 30)]
    config = EngineConfig.load("axi64")
    found = operations(net, collect(net, recordings, config))
    effective = steps = events = elements = 0
    reference = Reference(net, config=config)
    for x in recordings:
        reference.reset()
        for row in net.quantize_input(x):
            before = {k: v.copy() for k, v in reference.reference.items()}
            reference.step_integers(row)
            steps += 1
            for i, layer in enumerate(net.layers):
                for m in layer.matrices:
                    source = net.event_source(i, m.source)
                    changed = reference.reference[source] != before[source]
                    for gate in m.weight:
                        for weights in gate:
                            effective += int(((weights != 0) & changed).sum())
            for k, v in reference.reference.items():
                events += int((v != before[k]).sum())
                elements += len(v)
    assert found.effective == effective / steps
    assert found.dense == sum(m.weight.size for layer in net.layers for m in layer.matrices)
    assert found.neurons == sum(layer.units for layer in net.layers)
    assert found.activation_sparsity == pytest.approx(1 - events / elements)
    assert found.proxy == found.effective + 10 * found.neurons


def test_the_command(tmp_path, capsys) -> None:
    network().save(tmp_path / "net.safetensors")
    np.save(tmp_path / "x.npy", recording(1, 20))
    call = ["run", str(tmp_path / "net.safetensors"), str(tmp_path / "x.npy")]
    assert main([*call, "--watts", "2", "--pace", "50"]) == 0
    assert "board: 40 mJ per step, from 2 W of the meter" in capsys.readouterr().out
    assert main([*call, "--watts", "2"]) == 2
    assert "--watts needs the time of a step; give --pace" in capsys.readouterr().err
    page = tmp_path / "out.html"
    assert main([*call, "--pace", "50", "--report", str(page)]) == 0
    text = page.read_text()
    for words in ("Effective_MACs", "Dense", "power proxy", "M-Ops/s"):
        assert words in text


def test_joules_as_people_read_them() -> None:
    assert [shown_joules(v) for v in (2, 3.5e-3, 4e-6, 5e-10)] == [
        "2 J",
        "3.5 mJ",
        "4 µJ",
        "0.5 nJ",
    ]
