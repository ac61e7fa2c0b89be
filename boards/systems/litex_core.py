"""The core as a LiteX module, for any SoC that LiteX builds.

Only who imports this module needs LiteX (``pip install litex``). docs/how-to/systems.md explains
it, and ``examples/litex`` has a whole system.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stillnet.hw.core import Port, axi_address_bits, core_ports
from stillnet.hw.verilog.generate import generate
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.window import WINDOW_ADDRESS_BITS

from . import WEIGHTS

try:
    from litex.gen import ClockSignal, Instance, LiteXModule, ResetSignal, Signal
    from litex.soc.integration.soc import SoCRegion
    from litex.soc.interconnect import axi
    from litex.soc.interconnect.csr_eventmanager import EventManager, EventSourceLevel
except ImportError as problem:
    raise StillnetError(
        f"this module needs LiteX ({problem}); install it: pip install litex"
    ) from problem

__all__ = ["Stillnet", "add_stillnet"]

REGION_BYTES = 1 << (WINDOW_ADDRESS_BITS + 2)


class Stillnet(LiteXModule):
    """A core whose registers and streams are on the bus of a system.

    Parameters
    ----------
    platform : LiteX platform
        It gets the core's Verilog as a source.
    config : EngineConfig, or name of a preset, or path of a TOML file
        With ``memory = "axi4"`` or ``"ram"``.
    name : str
        Of the Verilog module. Two cores in a system need two names.
    memory_base : int
        Address of word 0 of the weights, as the memory behind ``memory`` sees it.
    folder : Path
        For the generated files.

    Attributes
    ----------
    bus : AXILiteInterface
        The slave with registers and streams, ``REGION_BYTES`` large.
    memory : AXIInterface or None
        The master that fetches weights; None where they are in the core.
    ev : EventManager
        ``ev.core``: the interrupt of the core. What causes it is chosen in the core's own register
        ``INTERRUPTS``.
    """

    def __init__(
        self,
        platform: Any,
        config: EngineConfig | str | Path,
        *,
        name: str = "stillnet_core",
        memory_base: int = 0,
        folder: str | Path = "build/stillnet",
    ) -> None:
        config = config if isinstance(config, EngineConfig) else EngineConfig.load(config)
        if config.memory == "port":
            raise StillnetError(
                f"engine '{config.name}' has a bare memory port; choose one with "
                'memory = "axi4" or "ram" for LiteX'
            )
        if memory_base % config.word_bytes:
            raise StillnetError(
                f"memory base {memory_base:#x} is no multiple of a word of {config.word_bytes} "
                "bytes; choose another"
            )
        self.config = config
        self.bus = axi.AXILiteInterface(data_width=32, address_width=32)
        self.memory = None
        if config.memory == "axi4":
            self.memory = axi.AXIInterface(
                data_width=config.word_bits,
                address_width=axi_address_bits(config),
                id_width=1,
                bursting=True,
            )
        irq = Signal()
        self.ev = EventManager()
        self.ev.core = EventSourceLevel(description="The core has a cause that is enabled.")
        self.ev.finalize()
        self.comb += self.ev.core.trigger.eq(irq)

        Path(folder).mkdir(parents=True, exist_ok=True)
        self.files = generate(config, Path(folder) / f"{name}.v", streams="registers").files
        platform.add_source(str(self.files["verilog"]))
        own = {"clk": ClockSignal("sys"), "rst": ResetSignal("sys"), "irq": irq}
        own["memory_base"] = memory_base
        wires = {
            f"{port.direction[0]}_{port.name}": own[port.name]
            if port.name in own
            else self._wire(port)
            for port in core_ports(config, "registers")
        }
        self.specials += Instance(name, name=f"{name}_0", **wires)

    def _wire(self, port: Port) -> Any:
        """The signal of a LiteX bus that a port of the core belongs to."""
        side, _, rest = port.name.partition("_axi_")
        channel = rest[: 2 if rest.startswith(("aw", "ar")) else 1]
        bus = self.bus if side == "s" else self.memory
        signal = getattr(getattr(bus, channel), rest[len(channel) :])
        return signal[: port.width] if len(signal) > port.width else signal


def add_stillnet(
    soc: Any,
    config: EngineConfig | str | Path,
    *,
    name: str = "stillnet",
    weights: str | None = None,
    memory_base: int | None = None,
    folder: str | Path = "build/stillnet",
) -> Stillnet:
    """Adds a core to a system: registers and streams on its bus, interrupt, access to weights.

    Software finds the core at ``STILLNET_BASE`` in LiteX's ``generated/mem.h``.

    Parameters
    ----------
    soc : SoC
    config : EngineConfig, or name of a preset, or path of a TOML file
    name : str
        Of the module in the system, of its region, and of its interrupt.
    weights : str, optional
        One of :data:`stillnet.boards.systems.WEIGHTS`; where absent ``"core"`` for
        ``memory = "ram"``, else ``"sdram"`` where the system has LiteDRAM, else ``"bus"``.
    memory_base : int, optional
        Address of word 0 of the weights on the system's bus; the start of ``main_ram`` if absent.
    folder : Path
        For the generated files.

    Returns
    -------
    Stillnet
    """
    config = config if isinstance(config, EngineConfig) else EngineConfig.load(config)
    with_sdram = hasattr(soc, "sdram")
    inside = config.memory == "ram"
    if weights is None:
        weights = "core" if inside else "sdram" if with_sdram else "bus"
    if weights not in WEIGHTS or (weights == "core") != inside:
        raise StillnetError(
            f"engine '{config.name}' with memory = \"{config.memory}\" cannot have its weights in "
            f"'{weights}'; choose {'core' if inside else 'bus or sdram'}"
        )
    if weights == "sdram" and not with_sdram:
        raise StillnetError(
            "the system has no SDRAM by LiteDRAM; call its add_sdram() before, or choose 'bus'"
        )
    origin = soc.mem_map.get("main_ram", 0)
    base = origin if memory_base is None else memory_base
    core = Stillnet(
        soc.platform,
        config,
        name=f"{name}_core",
        memory_base=0 if inside else base,
        folder=folder,
    )
    soc.add_module(name, core)
    soc.bus.add_slave(name, core.bus, SoCRegion(size=REGION_BYTES, cached=False))
    if soc.irq.enabled:
        soc.irq.add(name, use_loc_if_exists=True)
    if weights == "bus":
        from .litex_bridge import WeightsOnWishbone

        bridge = WeightsOnWishbone(core.memory)
        soc.add_module(f"{name}_weights", bridge)
        soc.bus.add_master(f"{name}_weights", bridge.bus)
    elif weights == "sdram":
        from litedram.frontend.axi import LiteDRAMAXI2Native

        port = soc.sdram.crossbar.get_port(data_width=config.word_bits)
        bridge = LiteDRAMAXI2Native(core.memory, port, base_address=origin)
        soc.add_module(f"{name}_weights", bridge)
    return core
