"""Places of a hot store's block RAMs."""

from typing import Any

import pytest

from stillnet.boards.build.floorplan import GRIDS, place_store


def netlist(banks: int, others: int) -> dict[str, Any]:
    names = [
        f"system.engine.tiers.store.ram{k}_{bank}.0.0.{i}"
        for bank in range(banks)
        for k in range(4)
        for i in range(4)
    ]
    names += [f"system.engine.other{i}" for i in range(others)]
    cells = {name: {"type": "DP16KD", "attributes": {}} for name in names}
    cells["system.engine.tiers.store.ram0_0.0.lut"] = {"type": "LUT4", "attributes": {}}
    return {"modules": {"top": {"cells": cells}}}


def places(design: dict[str, Any]) -> dict[str, str]:
    cells = design["modules"]["top"]["cells"]
    return {name: c["attributes"]["BEL"] for name, c in cells.items() if "BEL" in c["attributes"]}


def test_blocks_of_a_slice_lie_side_by_side() -> None:
    design = netlist(8, 77)
    assert place_store(design, ["--85k", "--package", "CABGA381"]) == 128
    found = places(design)
    assert len(set(found.values())) == len(found) == 128
    assert found["system.engine.tiers.store.ram0_0.0.0.0"] == "X4/Y70/EBR0"
    assert found["system.engine.tiers.store.ram0_0.0.0.3"] == "X10/Y70/EBR3"
    # Beyond the middle, and in the rows above once the lowest are full.
    assert found["system.engine.tiers.store.ram3_3.0.0.1"] == "X71/Y82/EBR1"
    assert found["system.engine.tiers.store.ram3_7.0.0.3"] == "X28/Y46/EBR3"


def test_other_blocks_keep_room() -> None:
    design = netlist(12, 77)
    assert place_store(design, ["--85k"]) == 4 * (52 - 20)
    assert len(places(design)) == 128


@pytest.mark.parametrize("device", GRIDS)
def test_every_device_has_as_many_places_as_blocks(device: str) -> None:
    blocks = {"25k": 56, "45k": 108, "85k": 208}[device]
    design = netlist(blocks // 16 + 1, 0)
    assert place_store(design, [f"--{device}"]) == blocks
    assert len(set(places(design).values())) == blocks


def test_a_design_without_a_store_is_left_alone() -> None:
    design = netlist(0, 20)
    assert place_store(design, ["--85k"]) == 0
    design = netlist(2, 20)
    assert place_store(design, ["--up5k"]) == 0
    assert not places(design)
