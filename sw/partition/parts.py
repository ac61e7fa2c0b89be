"""What the host does of a model, and how vectors go to the chip and come back.

A model is called once for a recording, or once for each step. A call has three parts: a graph in
front gives a tensor whose vectors go to the chip; the chip gives a vector for each; a graph behind
takes them and gives the outputs. States of the two graphs are carried from call to call by name.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.keys import check_keys

from .session import HostFailed, Session, session

_LARGEST = 1 << 28
"""Elements of the largest state."""

_WORTH = 0.5
"""Share of the multiplications below which a chip is called of little use."""

__all__ = ["FEATURE", "HostParts", "Kept", "Leave", "Port", "State", "output_rows"]

FEATURE = -1
"""Stands for the elements of a vector among the axes of a tensor."""


@dataclass(frozen=True)
class Leave:
    """A tensor that comes from the chip.

    Attributes
    ----------
    name : str
    dims : tuple of tuple of int
        For each of its axes the axes of the entering tensor that it consists of, outermost first;
        :data:`FEATURE` are the elements of the vector, and the numbers below it further axes that
        these elements lie in.
    last : bool
        It has the last step of a call only.
    first : int
        The first element of the chip's output that it has.
    sizes : tuple of int
        Of the axes of the vector's elements.
    """

    name: str
    dims: tuple[tuple[int, ...], ...]
    last: bool
    first: int
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements of a vector."""
        return math.prod(self.sizes)


@dataclass(frozen=True)
class Port:
    """The data input, or an output.

    Attributes
    ----------
    name : str
    type : str
        NumPy's name.
    shape : tuple of int
        Of a call; the size along ``time`` is that of a probe.
    time : int or None
        The axis that follows the length of the recording.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    time: int | None


@dataclass(frozen=True)
class State:
    """A state that the host carries from call to call; it begins at zero.

    Attributes
    ----------
    input, output : str
    shape : tuple of int
    type : str
    behind : bool
        It belongs to the graph behind the chip.
    """

    input: str
    output: str
    shape: tuple[int, ...]
    type: str
    behind: bool


@dataclass
class Kept:
    """What a call leaves for the graph behind the chip.

    Attributes
    ----------
    tensors : dict of str to array
    shape : tuple of int
        Of the tensor that entered.
    steps : int
        Vectors that went to the chip.
    """

    tensors: dict[str, np.ndarray]
    shape: tuple[int, ...]
    steps: int


@dataclass
class HostParts:
    """The graphs around the chip.

    Attributes
    ----------
    before, after : bytes
        ONNX models; empty where there is nothing to do.
    data : Port
    enter : str
        The tensor whose vectors go to the chip.
    feature_axes : tuple of int
        Its axes that are elements of a vector; all others are steps.
    tokens : bool
        Its elements are tokens.
    leave : tuple of Leave
    crossing : tuple of str
        Tensors that the graph behind takes from the one in front.
    outputs : tuple of Port
    states : tuple of State
    stepwise : bool
        A call is one step.
    pointwise : bool
        A call over a recording gives the same as one call for each of its steps.
    report : dict
        What runs where, for people: see ``docs/how-to/whole-models.md``.
    """

    before: bytes
    after: bytes
    data: Port
    enter: str
    feature_axes: tuple[int, ...]
    tokens: bool
    leave: tuple[Leave, ...]
    crossing: tuple[str, ...]
    outputs: tuple[Port, ...]
    states: tuple[State, ...]
    stepwise: bool
    pointwise: bool
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        """Elements of a step of a recording."""
        return math.prod(n for i, n in enumerate(self.data.shape) if i != self.data.time)

    @property
    def output_size(self) -> int:
        """Elements of a step of the outputs."""
        sizes = (math.prod(n for i, n in enumerate(o.shape) if i != o.time) for o in self.outputs)
        return sum(sizes)

    @property
    def every_step(self) -> bool:
        """The file gives what follows from the last step; here each step has such an answer."""
        alone = not self.stepwise and not self.crossing and not any(s.behind for s in self.states)
        alone = alone and all(o.time is None for o in self.outputs)
        return alone and bool(self.leave) and all(leave.last for leave in self.leave)

    def doubts(self) -> list[str]:
        """What one should know before the chip is used for this model."""
        share = self.report["chip"]["multiplications"]
        if share >= _WORTH:
            return []
        known = [n for n in self.report["nodes"] if n["where"] == "host" and n["why"]]
        heavy = max(known, key=lambda n: n["multiplications"], default=None)
        why = "the host the rest; 'stillnet check MODEL' says why, and what would have to change"
        if heavy is not None and heavy["multiplications"]:
            why = f"on the host is '{heavy['name']}' ({heavy['operator']}): {heavy['why']}"
        return [f"the chip does {100 * share:.0f} % of the multiplications only; {why}"]

    # -- recordings -------------------------------------------------------------------------------

    def enter_vectors(self, x: np.ndarray) -> tuple[np.ndarray, list[Kept]]:
        """The vectors that a recording sends to the chip.

        Parameters
        ----------
        x : array, shape (steps, inputs), or (steps,) of tokens

        Returns
        -------
        array, shape (vectors, features)
        list of Kept
            For :meth:`leave_outputs`, one for each call.
        """
        states = self.initial_states(behind=False)
        found = [self._front(feed, states) for feed in self.calls(x)]
        return np.concatenate([v for v, _ in found]), [k for _, k in found]

    def leave_outputs(self, vectors: np.ndarray, kept: list[Kept]) -> np.ndarray:
        """The outputs of a recording, from the vectors that came from the chip.

        Where the file gives the last step only, there is one row for each vector (``every_step``).

        Parameters
        ----------
        vectors : array of float, shape (vectors, outputs of the chip)
            May end before the recording does; calls that are not complete give no output.
        kept : list of Kept

        Returns
        -------
        array, shape (steps, outputs)
        """
        states = self.initial_states(behind=True)
        rows, first = [], 0
        for k in kept:
            part = vectors[first : first + k.steps]
            first += k.steps
            if len(part) < k.steps:
                break
            for vector in part[:, None] if self.every_step else (part,):
                rows.append(self._behind(vector, k, states))
        if not rows:
            return np.zeros((0, self.output_size))
        return np.concatenate(rows)

    def check_streams(self) -> None:
        """Refuses a model whose host parts look over several steps of a recording.

        Raises
        ------
        StillnetError
        """
        if not (self.stepwise or self.pointwise):
            raise StillnetError(
                f"the host parts of this model, around '{self.enter}', look over several steps of "
                "a recording, so that they cannot run step by step; export the model as one step "
                "with its states as inputs and outputs, or run whole recordings"
            )

    def initial_states(self, *, behind: bool | None = None) -> dict[str, np.ndarray]:
        """States at the start of a recording, by the name of the input."""
        return {
            s.input: np.zeros(s.shape, s.type)
            for s in self.states
            if behind is None or s.behind == behind
        }

    # -- one call ---------------------------------------------------------------------------------

    def step_front(self, row: np.ndarray, states: dict[str, np.ndarray]) -> tuple[Any, Kept]:
        """One step: the vectors that go to the chip, shape (vectors, features)."""
        (feed,) = self.calls(np.asarray(row)[None])
        return self._front(feed, states)

    def step_behind(
        self, vectors: np.ndarray, kept: Kept, states: dict[str, np.ndarray]
    ) -> np.ndarray:
        """One step: the outputs, shape (outputs,)."""
        return self._behind(vectors, kept, states)[-1]

    def calls(self, x: np.ndarray) -> Iterator[np.ndarray]:
        """The data input of each call."""
        x = np.asarray(x)
        x = x[:, None] if x.ndim == 1 else x
        if x.ndim != 2 or x.shape[1] != self.inputs or len(x) == 0:
            raise StillnetError(
                f"input has shape {x.shape}; the model takes (steps, {self.inputs}) with at least "
                "one step"
            )
        if not np.all(np.isfinite(x)):
            step, element = (int(i) for i in np.argwhere(~np.isfinite(x))[0])
            raise StillnetError(
                f"input holds {x[step, element]} at step {step}, element {element}; remove NaN and "
                "infinity from the recording"
            )
        x = x.astype(self.data.type)
        if self.stepwise:
            for row in x:
                yield row.reshape(self.data.shape)
            return
        assert self.data.time is not None
        rest = [n for i, n in enumerate(self.data.shape) if i != self.data.time]
        yield np.ascontiguousarray(np.moveaxis(x.reshape(len(x), *rest), 0, self.data.time))

    def _front(self, feed: np.ndarray, states: dict[str, np.ndarray]) -> tuple[np.ndarray, Kept]:
        with _fitting():
            return self._vectors_of(feed, states)

    def _behind(self, vectors: np.ndarray, kept: Kept, states: dict[str, np.ndarray]) -> np.ndarray:
        with _fitting():
            return self._outputs_of(vectors, kept, states)

    def _vectors_of(
        self, feed: np.ndarray, states: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, Kept]:
        known = {self.data.name: feed, **states}
        if self._before is not None:
            carried = [s for s in self.states if not s.behind]
            wanted = [self.enter, *self.crossing, *(s.output for s in carried)]
            wanted = [n for n in dict.fromkeys(wanted) if n not in known]
            inputs = {k: v for k, v in known.items() if k in self._before.inputs}
            known |= zip(wanted, self._before.run(wanted, inputs))
            states |= {s.input: np.asarray(known[s.output]) for s in carried}
        tensor = np.asarray(known[self.enter])
        steps = [i for i in range(tensor.ndim) if i not in self.feature_axes]
        size = math.prod(tensor.shape[i] for i in self.feature_axes)
        vectors = tensor.transpose(*steps, *self.feature_axes)
        vectors = vectors.reshape(-1) if self.tokens else vectors.reshape(-1, size)
        kept = {n: np.asarray(known[n]) for n in self.crossing}
        return vectors, Kept(kept, tensor.shape, len(vectors))

    def _outputs_of(
        self, vectors: np.ndarray, kept: Kept, states: dict[str, np.ndarray]
    ) -> np.ndarray:
        known = dict(kept.tensors)
        for leave in self.leave:
            known[leave.name] = self._restored(vectors, kept.shape, leave)
        if self._after is not None:
            carried = [s for s in self.states if s.behind]
            wanted = [*(o.name for o in self.outputs), *(s.output for s in carried)]
            wanted = [n for n in dict.fromkeys(wanted) if n not in known]
            inputs = {k: v for k, v in {**known, **states}.items() if k in self._after.inputs}
            known |= zip(wanted, self._after.run(wanted, inputs))
            states |= {s.input: np.asarray(known[s.output]) for s in carried}
        return np.hstack([output_rows(np.asarray(known[o.name]), o) for o in self.outputs])

    def _restored(self, vectors: np.ndarray, shape: tuple[int, ...], leave: Leave) -> np.ndarray:
        """A tensor from the vectors of the chip."""
        steps = [i for i in range(len(shape)) if i not in self.feature_axes]
        if self.every_step:  # of one step, which is the last so far
            shape = tuple(1 if i in steps else n for i, n in enumerate(shape))
        part = vectors[:, leave.first : leave.first + leave.size]
        part = part.reshape(*(shape[i] for i in steps), *leave.sizes)
        axes = [*steps, *(FEATURE - k for k in range(len(leave.sizes)))]
        order = [a for dim in leave.dims for a in dim]
        # What no axis of the tensor has is of size 1, or the last step is meant.
        tensor = part[tuple(slice(None) if a in order else -1 for a in axes)]
        left = [a for a in axes if a in order]
        sizes = dict(zip(axes, part.shape))
        result = tensor.transpose([left.index(a) for a in order]).reshape(
            [math.prod(sizes[a] for a in dim) for dim in leave.dims]
        )
        return np.ascontiguousarray(result, dtype=np.float32)

    @property
    def _before(self) -> Session | None:
        return session(self.before) if self.before else None

    @property
    def _after(self) -> Session | None:
        return session(self.after) if self.after else None

    # -- container --------------------------------------------------------------------------------

    def header(self) -> dict[str, Any]:
        """Everything but the graphs, for JSON."""
        values = {k: v for k, v in vars(self).items() if k in _KEYS}
        return {k: _plain(v) for k, v in values.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON; the graphs in base64."""
        graphs = {"before": self.before, "after": self.after}
        return self.header() | {k: base64.b64encode(v).decode() for k, v in graphs.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HostParts:
        """From what :meth:`to_dict` gave."""
        graphs = {k: base64.b64decode(values[k]) for k in ("before", "after")}
        return cls.read({k: v for k, v in values.items() if k not in graphs}, **graphs)

    @classmethod
    def read(cls, header: Mapping[str, Any], before: bytes, after: bytes) -> HostParts:
        """From what :meth:`header` gave."""
        check_keys(header, _KEYS, "the host part of the network")
        h = dict(header)
        return cls(
            before=before,
            after=after,
            data=_port(h["data"]),
            enter=str(h["enter"]),
            feature_axes=_whole(h["feature_axes"]),
            tokens=bool(h["tokens"]),
            leave=tuple(map(_leave, h["leave"])),
            crossing=tuple(map(str, h["crossing"])),
            outputs=tuple(map(_port, h["outputs"])),
            states=tuple(map(_state, h["states"])),
            stepwise=bool(h["stepwise"]),
            pointwise=bool(h["pointwise"]),
            report=dict(h["report"]),
        )


@contextmanager
def _fitting() -> Iterator[None]:
    """Names, axes and sizes that do not fit the graphs belong to a damaged file."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AssertionError, MemoryError) as error:
        raise HostFailed(f"{type(error).__name__}: {error}") from error


_KEYS = (
    *("data", "enter", "feature_axes", "tokens", "leave", "crossing", "outputs", "states"),
    *("stepwise", "pointwise", "report"),
)


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def _whole(values: Sequence[Any]) -> tuple[int, ...]:
    """Whole numbers; anything else belongs to a damaged file."""
    if not all(type(v) is int for v in values):
        raise TypeError(f"{values!r} are not whole numbers")
    return tuple(values)


def _port(values: Mapping[str, Any]) -> Port:
    time = values["time"]
    shape = _whole(values["shape"])
    if time is not None and not 0 <= _whole([time])[0] < len(shape):
        raise ValueError(f"axis {time} is not one of {len(shape)}")
    return Port(str(values["name"]), str(np.dtype(values["type"])), shape, time)


def _leave(values: Mapping[str, Any]) -> Leave:
    dims, sizes = tuple(map(_whole, values["dims"])), _whole(values["sizes"])
    return Leave(
        str(values["name"]), dims, bool(values["last"]), _whole([values["first"]])[0], sizes
    )


def _state(values: Mapping[str, Any]) -> State:
    if math.prod(_whole(values["shape"])) > _LARGEST:
        raise ValueError(f"a state of shape {values['shape']} is too large")
    return State(
        str(values["input"]),
        str(values["output"]),
        _whole(values["shape"]),
        str(np.dtype(values["type"])),
        bool(values["behind"]),
    )


def output_rows(value: np.ndarray, port: Port) -> np.ndarray:
    """An output as (steps, elements)."""
    if port.time is None or value.ndim <= port.time:
        return value.reshape(1, -1)
    moved = np.moveaxis(value, port.time, 0)
    return moved.reshape(len(moved), -1)
