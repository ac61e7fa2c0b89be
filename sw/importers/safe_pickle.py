"""Pickled data without running any of it.

A pickle is a program that may call any function of Python. :func:`read_pickle` follows the same
program with a table of its own: functions that the caller gives are called, and every other object
becomes a :class:`Thing`, which has its class's name and its contents and does nothing.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

__all__ = ["Name", "Thing", "read_pickle"]


@dataclass(frozen=True)
class Name:
    """A class or function by the name that the file has for it."""

    path: str


@dataclass(eq=False)
class Thing:
    """An object whose class is not known here."""

    kind: str
    """Name of the class, such as ``argparse.Namespace``."""
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


class _Mark:
    """Where the elements of a list, a tuple or a dictionary begin on the stack."""


_SIMPLE = (str, int, float, bool, bytes, type(None))
_VALUES = frozenset(
    ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
    + ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE")
    + ("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
)
_FIXED: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
}
_IGNORED = frozenset(("PROTO", "FRAME", "READONLY_BUFFER"))


def read_pickle(
    stream: IO[bytes],
    functions: Mapping[str, Callable[..., Any]],
    persistent: Callable[[Any], Any],
) -> Any:
    """The value of the pickle that begins where the stream stands, and ends where it stands then.

    Parameters
    ----------
    stream : binary file
    functions : mapping of str to callable
        What may be called, by its full name. Its results must be harmless.
    persistent : callable
        Takes what the file has in place of a value that lies elsewhere in it; gives the value.

    Raises
    ------
    ValueError
        The data are no pickle. What the functions raise passes through.
    """
    machine = _Machine(functions, persistent)
    try:
        for operation, argument, _ in pickletools.genops(stream):
            machine.step(operation.name, argument)
    except (IndexError, TypeError, AttributeError, KeyError, OverflowError) as e:
        raise ValueError(f"its pickle is damaged ({type(e).__name__}: {e})") from None
    return machine.result()


class _Machine:
    """The stack and the memory of a pickle."""

    def __init__(
        self, functions: Mapping[str, Callable[..., Any]], persistent: Callable[[Any], Any]
    ) -> None:
        self._functions = functions
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memory: dict[int, Any] = {}

    def result(self) -> Any:
        if len(self._stack) != 1:
            raise ValueError("its pickle ends before its value is complete")
        return self._stack[0]

    def step(self, name: str, argument: Any) -> None:
        """One operation."""
        stack = self._stack
        if name in _IGNORED or name == "STOP":
            return
        if name in _VALUES:
            stack.append(argument)
        elif name in _FIXED:
            stack.append(_FIXED[name]())
        elif name == "MARK":
            stack.append(_Mark())
        elif name.startswith("TUPLE") and name != "TUPLE":
            count = int(name[5:])
            if len(stack) < count:
                raise ValueError("its pickle is damaged (its stack is empty)")
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memory[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self._memory[len(self._memory)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memory[int(argument)])
        else:
            self._other(name, argument)

    def _other(self, name: str, argument: Any) -> None:
        handler = getattr(self, f"_{name.lower()}", None)
        if handler is None:
            raise ValueError(f"its pickle has the operation {name}, which is not supported")
        handler(argument)

    def _marked(self) -> list[Any]:
        """What stands above the last mark; both are taken off."""
        stack = self._stack
        for i in range(len(stack) - 1, -1, -1):
            if isinstance(stack[i], _Mark):
                found = stack[i + 1 :]
                del stack[i:]
                return found
        raise ValueError("its pickle is damaged (a mark is missing)")

    # -- containers

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._marked()))

    def _list(self, _: Any) -> None:
        self._stack.append(self._marked())

    _frozenset = _list

    def _dict(self, _: Any) -> None:
        found: dict[Any, Any] = {}
        _fill(found, self._marked())
        self._stack.append(found)

    def _append(self, _: Any) -> None:
        value = self._stack.pop()
        self._extend([value])

    def _appends(self, _: Any) -> None:
        self._extend(self._marked())

    _additems = _appends

    def _extend(self, values: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(values)

    def _setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._fill([key, value])

    def _setitems(self, _: Any) -> None:
        self._fill(self._marked())

    def _fill(self, values: list[Any]) -> None:
        top = self._stack[-1]
        _fill(top.items if isinstance(top, Thing) else top, values)

    def _pop(self, _: Any) -> None:
        self._stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._marked()

    def _dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    # -- objects

    def _global(self, argument: str) -> None:
        self._stack.append(Name(argument.replace(" ", ".")))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("its pickle is damaged (a name is no text)")
        self._stack.append(Name(f"{module}.{name}"))

    def _ext1(self, argument: Any) -> None:
        self._stack.append(Name(f"extension {argument}"))

    _ext2 = _ext4 = _ext1

    def _binpersid(self, _: Any) -> None:
        self._stack.append(self._persistent(self._stack.pop()))

    def _persid(self, argument: Any) -> None:
        self._stack.append(self._persistent(argument))

    def _next_buffer(self, _: Any) -> None:
        raise ValueError("its pickle keeps data outside of the file")

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._call(function, arguments)

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        self._stack.pop()
        self._reduce(None)

    def _inst(self, argument: str) -> None:
        self._call(Name(argument.replace(" ", ".")), tuple(self._marked()))

    def _obj(self, _: Any) -> None:
        function, *arguments = self._marked()
        self._call(function, tuple(arguments))

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(arguments, tuple):
            raise ValueError("its pickle is damaged (arguments are missing)")
        path = function.path if isinstance(function, Name) else "an object of its own"
        known = self._functions.get(path)
        self._stack.append(Thing(path, arguments) if known is None else known(*arguments))

    def _build(self, _: Any) -> None:
        state, top = self._stack.pop(), self._stack[-1]
        if isinstance(top, Thing):
            top.state = state


def _fill(target: Any, values: list[Any]) -> None:
    """Keys and values in turn. Keys that are no plain values are left out: no one asks for them."""
    if not isinstance(target, dict) or len(values) % 2:
        raise ValueError("its pickle is damaged (a dictionary is not complete)")
    for key, value in zip(values[::2], values[1::2]):
        if isinstance(key, _SIMPLE):
            target[key] = value
