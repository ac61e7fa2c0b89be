"""A core in the logic of a Zynq, or of any Linux system, by its userspace I/O device.

::

    from stillnet.sw.host.driver import Engine

    with Engine.open("uio:stillnet", config="core_config.toml") as engine:
        engine.load("net.img")

``docs/how-to/systems.md`` says what the system needs.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import time
from collections.abc import Callable
from pathlib import Path

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.window import WINDOW_ADDRESS_BITS

from .local_core import CoreTransport

__all__ = ["UioTransport"]

REGION_BYTES = 1 << (WINDOW_ADDRESS_BITS + 2)
SYSTEM = Path("/sys/class/uio")
DEVICES = Path("/dev")


class _MappedRegisters:
    """Registers in the memory of this process; each access is one of 32 bits.

    Parameters
    ----------
    file : int
        The open device.
    size : int
        Bytes of its first region.
    """

    def __init__(self, file: int, size: int) -> None:
        self._map = mmap.mmap(file, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._words = (ctypes.c_uint32 * (REGION_BYTES // 4)).from_buffer(self._map)

    def read32(self, index: int) -> int:
        """See :class:`~stillnet.sw.host.local_core.Registers`."""
        return int(self._words[index])

    def write32(self, index: int, value: int) -> None:
        """See :class:`~stillnet.sw.host.local_core.Registers`."""
        self._words[index] = value

    def close(self) -> None:
        """Takes the region out of this process's memory."""
        del self._words
        self._map.close()


class UioTransport(CoreTransport):
    """A core behind ``/dev/uioN``.

    Parameters
    ----------
    device : str
        ``/dev/uio0``, ``uio0``, or the name that the device tree gives.
    config : EngineConfig, or path of ``core_config.toml``, or name of a preset
        What the core was generated from.
    clock_hz : int
        Of the core; times are told in cycles where it is 0.
    interrupt : bool
        Wait for the core's interrupt, and not by looking again and again.
    reset : callable, optional
        Resets the core, by what the system has for that.

    Raises
    ------
    StillnetError
        Where there is no such device, it may not be opened, or no core of this configuration is
        behind it.
    """

    def __init__(
        self,
        device: str,
        *,
        config: EngineConfig | str | Path | None = None,
        clock_hz: int = 0,
        interrupt: bool = True,
        reset: Callable[[], None] | None = None,
    ) -> None:
        if config is None:
            raise StillnetError(
                f"'uio:{device}' needs the core's configuration; give config='core_config.toml', "
                "which 'stillnet generate' has written"
            )
        config = config if isinstance(config, EngineConfig) else EngineConfig.load(config)
        number = _number(device)
        path = DEVICES / number
        size = _region_bytes(number)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_SYNC)
        except OSError as error:
            raise StillnetError(_problem(path, error)) from error
        try:
            self._mapped = _MappedRegisters(self._file, size)
        except (OSError, ValueError) as error:
            os.close(self._file)
            raise StillnetError(
                f"the registers of {path} cannot be mapped ({error}); check 'reg' in the device "
                "tree"
            ) from error
        try:
            super().__init__(
                self._mapped,
                config,
                name=str(path),
                clock_hz=clock_hz,
                wait=self._wait_for_interrupt if interrupt else None,
                reset=reset,
                now=time.monotonic,
            )
        except BaseException:
            self.close()
            raise

    def _wait_for_interrupt(self, seconds: float) -> None:
        """The kernel switches the interrupt off when it comes; a write switches it on."""
        try:
            os.write(self._file, (1).to_bytes(4, "little"))
            if select.select([self._file], [], [], seconds)[0]:
                os.read(self._file, 4)
        except OSError as error:
            raise StillnetError(
                f"{self.name} has no interrupt ({error.strerror}); give interrupt=False, or check "
                "'interrupts' in the device tree"
            ) from error

    def close(self) -> None:
        """See :class:`~stillnet.sw.host.driver.transport.Transport`."""
        if self._file >= 0:
            self._mapped.close()
            os.close(self._file)
            self._file = -1


def _number(device: str) -> str:
    """``uio0`` for a device by its path, its number, or its name."""
    known = {path.name: (path / "name").read_text().strip() for path in sorted(SYSTEM.glob("uio*"))}
    short = device.removeprefix("/dev/")
    if short in known:
        return short
    found = [number for number, name in known.items() if name == device]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} UIO devices have the name" if found else "there is no UIO device"
    listed = ", ".join(f"{number} ({name})" for number, name in known.items()) or "none"
    raise StillnetError(
        f"{what} '{device}' (found: {listed}); check the device tree and the driver uio_pdrv_genirq"
    )


def _region_bytes(number: str) -> int:
    """Size of the first region, which must hold the registers."""
    try:
        size = int((SYSTEM / number / "maps/map0/size").read_text(), 0)
    except (OSError, ValueError) as error:
        raise StillnetError(
            f"{number} has no region of registers ({error}); check 'reg' in the device tree"
        ) from error
    if size < REGION_BYTES:
        raise StillnetError(
            f"the region of {number} has {size} bytes, a core has {REGION_BYTES}; check 'reg' in "
            "the device tree"
        )
    return size


def _problem(path: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"no permission for {path}; run as root, or give yourself the device by a udev rule"
    return f"cannot open {path} ({error.strerror}); check that the device is there"
