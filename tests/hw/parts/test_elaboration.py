"""Swift elaboration: the same text as Amaranth's own, and nothing left behind."""

import gc

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Out

from stillnet.hw.engine import Engine
from stillnet.hw.parts.elaboration import swift_elaboration
from stillnet.sw.contract.config import PRESETS


class Tables(wiring.Component):
    """Memories of several shapes, some with first values."""

    def __init__(self, first: int) -> None:
        self.first = first
        super().__init__({"read": Out(64)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pair = data.StructLayout({"low": 3, "high": 2})
        for name, shape, values in (
            ("zero", unsigned(12), []),
            ("signed", signed(7), [-1, self.first, -64]),
            ("pair", pair, [{"low": 5, "high": self.first}, {"low": 1, "high": 2}]),
            ("bit", unsigned(1), [1, 0, 1]),
        ):
            memory = Memory(shape=shape, depth=5, init=values)
            m.submodules[name] = memory
            port = memory.read_port(domain="comb")
            m.d.comb += port.addr.eq(3)
            memory.write_port()
        return m


def text(component: wiring.Component) -> str:
    return str(rtlil.convert(component, name="top", emit_src=False))


@pytest.mark.parametrize("name", ["tables", "tiny"])
def test_the_text_is_that_of_amaranth(name: str) -> None:
    def make() -> wiring.Component:
        return Tables(1) if name == "tables" else Engine(PRESETS[name])

    slowly = text(make())
    with swift_elaboration():
        swiftly = text(make())
    assert swiftly == slowly
    assert text(Tables(1)) != text(Tables(0))  # first values are in it


def test_nothing_is_left_behind() -> None:
    before = rtlil.ModuleEmitter.emit_memory
    with pytest.raises(ZeroDivisionError), swift_elaboration():
        assert not gc.isenabled()
        assert rtlil.ModuleEmitter.emit_memory is not before
        raise ZeroDivisionError
    assert gc.isenabled()
    assert rtlil.ModuleEmitter.emit_memory is before
