"""The host link: from a byte stream to the engine and back, by the protocol of ``contract.link``.

::

    bytes -> [frame receiver] -> commands -> [command processor] -> registers, inputs
                   |                               ^     |
                   | notices                outputs+     v
    bytes <- [frame transmitter] <--- replies --- [reply store]
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, ResetInserter, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.hw.host.register_bus import RegisterBusSignature
from stillnet.hw.parts.layouts import output_layout
from stillnet.hw.parts.register_slice import RegisterSlice
from stillnet.sw.contract import image
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACTIVATION_BITS
from stillnet.sw.contract.link import HEADER_BYTES, Identity
from stillnet.sw.contract.registers import ADDRESS_BITS

from .command_processor import CommandProcessor
from .receiver import FrameReceiver, frame_byte_layout
from .reply_store import ReplyStore
from .transmitter import FrameTransmitter

__all__ = ["HostLink"]

DEFAULT_RING = 4096
LEAST_CHANGES, MOST_CHANGES = 16, 1024


class HostLink(wiring.Component):
    """Connects one engine with a host.

    Parameters
    ----------
    config : EngineConfig
        Of the engine.
    clock_hz : :class:`int`
        For hosts that want to turn cycles into seconds.
    board : :class:`str`
        Name that the board tells the host.
    receive_bytes : :class:`int`, optional
        Ring of commands, a power of two; 4096, or more where a vector needs it.
    reply_bytes : :class:`int`, optional
        Ring of replies, a power of two; 4096. An output vector must fit, five bytes included.
    window : :class:`int`
        Commands that a host may have unanswered, a power of two.
    slots : :class:`bool`
        There is a :class:`~stillnet.hw.host.slots.Slots` between the link and the engine.
    changes : :class:`int`, optional
        Most elements of vectors that may come and go as changes, a power of two; 0 for none. As
        many as the engine's vectors have, up to 1024, which is a block RAM each way.

    Members
    -------
    rx : :py:`In(stream.Signature(8))`
        Bytes from the host. One is taken every other cycle, always.
    rx_error : :py:`In(1)`
        One cycle: a byte was lost (a UART's wrong stop bit).
    tx : :py:`Out(stream.Signature(8))`
        Bytes to the host.
    registers : :py:`Out(RegisterBusSignature)`
        To ``Engine.registers``.
    inputs : :py:`Out(stream of 16 bits)`
        To ``Engine.inputs``.
    outputs : :py:`In(stream of output_layout())`
        From ``Engine.outputs``.
    engine_reset : :py:`Out(1)`
        One cycle, when the host asks for it: resets the engine, and the memory adapter with it,
        for what was under way between them.
    blocked : :py:`In(1)`
        With ``slots``: the image that is loaded is not whole, so vectors are refused.
    lost : :py:`In(1)`
        With ``slots``: the watchdog has the engine reset, so vectors in it are refused too.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        clock_hz: int,
        board: str = "",
        receive_bytes: int | None = None,
        reply_bytes: int = DEFAULT_RING,
        window: int = 16,
        slots: bool = False,
        changes: int | None = None,
    ) -> None:
        self._config = config
        largest = HEADER_BYTES + 2 * config.inputs
        if receive_bytes is None:
            receive_bytes = max(DEFAULT_RING, 1 << largest.bit_length())
        if receive_bytes <= largest:
            raise ValueError(
                f"Receive buffer must be more than {largest} bytes for vectors of {config.inputs} "
                f"elements, not {receive_bytes}"
            )
        if changes is None:
            largest = max(config.inputs, config.units, LEAST_CHANGES)
            changes = min(MOST_CHANGES, 1 << (largest - 1).bit_length())
        self._identity = Identity(
            config=config,
            board=board,
            clock_hz=clock_hz,
            window=window,
            receive_bytes=receive_bytes - 1,
            reply_bytes=reply_bytes - 1,
            fingerprint=config.fingerprint,
            image_version=image.VERSION,
            slots=slots,
            changes=changes,
        )
        self._window = window
        self._receiver = FrameReceiver(receive_bytes)
        self._store = ReplyStore(reply_bytes, window)
        super().__init__(
            {
                "rx": In(stream.Signature(8)),
                "rx_error": In(1),
                "tx": Out(stream.Signature(8)),
                "registers": Out(RegisterBusSignature(ADDRESS_BITS)),
                "inputs": Out(stream.Signature(signed(ACTIVATION_BITS))),
                "outputs": In(stream.Signature(output_layout())),
                "engine_reset": Out(1),
                **({"blocked": In(1), "lost": In(1)} if slots else {}),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    @property
    def identity(self) -> Identity:
        """What the board tells the host."""
        return self._identity

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        receiver, store = self._receiver, self._store
        identity = self.identity
        processor = CommandProcessor(
            identity.pack(), self._window, slots=identity.slots, changes=identity.changes
        )
        transmitter = FrameTransmitter()
        restart = receiver.restart
        m.submodules.receiver = receiver
        # A reset asked for by the host spares the transmitter, which has a notice of it to send.
        m.submodules.processor = ResetInserter(restart)(processor)
        m.submodules.store = ResetInserter(restart)(store)
        m.submodules.transmitter = transmitter

        connect(m, flipped(self.rx), receiver.bytes)
        # The rings' addresses must not wait for what takes their bytes.
        commands, replies = RegisterSlice(frame_byte_layout()), RegisterSlice(frame_byte_layout())
        m.submodules.commands = ResetInserter(restart)(commands)
        m.submodules.replies = ResetInserter(restart)(replies)
        connect(m, receiver.frames, commands.i_stream)
        connect(m, commands.o_stream, processor.frames)
        connect(m, processor.replies, store.replies)
        connect(m, store.frames, replies.i_stream)
        connect(m, replies.o_stream, transmitter.frames)
        connect(m, transmitter.bytes, flipped(self.tx))
        connect(m, processor.registers, flipped(self.registers))
        connect(m, processor.inputs, flipped(self.inputs))
        connect(m, flipped(self.outputs), processor.outputs)
        m.d.comb += [
            receiver.line_error.eq(self.rx_error),
            transmitter.causes.eq(receiver.causes),
            transmitter.expected.eq(receiver.expected),
            transmitter.question.eq(receiver.question),
            transmitter.abort.eq(restart),
            store.begin.eq(processor.begin),
            store.sequence.eq(processor.sequence),
            store.resume.eq(receiver.resume),
            store.resume_sequence.eq(receiver.resume_sequence),
            self.engine_reset.eq(restart),
        ]
        if self.identity.slots:
            m.d.comb += [processor.blocked.eq(self.blocked), processor.lost.eq(self.lost)]
        return m
