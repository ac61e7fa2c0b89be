"""What a user says of a model that the model does not say itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["CutOptions"]


@dataclass(frozen=True)
class CutOptions:
    """How a whole model is called, and where it is cut.

    Attributes
    ----------
    states : dict of str to str
        Inputs that carry a state, and the outputs that give its next value.
    constants : dict of str to float
        Inputs that are the same in every call, such as a sampling rate.
    shapes : dict of str to tuple of int
        Shapes of inputs whose dimensions are dynamic, for one call.
    enter, leave : str or None
        The tensor, or the node that writes it, at which the chip begins and ends.
    elements : int or None
        Elements of a step, as the recordings show.
    """

    states: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    enter: str | None = None
    leave: str | None = None
    elements: int | None = None

    @property
    def given(self) -> bool:
        """Whether anything but the recordings was said."""
        return bool(self.states or self.constants or self.shapes or self.enter or self.leave)
