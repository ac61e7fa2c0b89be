"""What a command writes: images, hardware, drivers, testbenches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .result import Result

__all__ = [
    "CDriverResult",
    "CellResult",
    "GenerateResult",
    "ImageInfo",
    "PackResult",
    "TestbenchResult",
]


@dataclass(frozen=True, kw_only=True)
class ImageInfo(Result):
    """A memory image, explained.

    Attributes
    ----------
    engine : dict
        Fields of the engine configuration that it was packed for.
    hot_words : int
        Words for the engine's hot store; ``hot_columns`` of each matrix are in it.
    layers : list of dict
        Formats and sizes, as they lie in the image.
    budgets : dict of str to int
        Most events per step, by number of the vector (-1 is the input); empty where none has any.
    """

    kind: str = "image"
    name: str
    bytes: int
    fingerprint: str
    engine: dict[str, Any]
    inputs: int
    input_mode: str
    input_fraction: int
    input_threshold: int
    hot_words: int
    layers: list[dict[str, Any]]
    budgets: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CellResult(Result):
    """The pipeline of a cell: which operation works in which cycle, and what it costs."""

    kind: str = "cell"
    cell: str
    sharing: int
    latency: int
    cycles_per_unit: float
    products: int
    multipliers: int
    tables: int
    table_blocks: int
    rows: int
    accumulators: list[str]
    parameters: dict[str, str]
    peers: dict[str, str]
    state: dict[str, str]
    state_bits: int
    registers: int
    comb: int
    operations: list[dict[str, Any]]


# -- what commands make ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PackResult(Result):
    """What ``stillnet pack`` prints.

    Attributes
    ----------
    matrices : list of dict
        Words of each matrix in every format; empty for an engine with one format.
    """

    image: str
    network: str
    engine: str
    fingerprint: str
    bytes: int
    words: int
    word_bits: int
    matrices: list[dict[str, Any]] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class GenerateResult(Result):
    """A generated core: the content of its JSON description, and the files.

    Attributes
    ----------
    module : str
        The top module.
    stillnet : str
        Version of the generator.
    preset, fingerprint, config
        The engine configuration: name, fingerprint, all fields.
    image_version : int
        Version of the images that it reads.
    capacities : dict of str to int
        How large a network may be.
    streams : str
        How vectors come and go: ``axis`` or ``registers``.
    ports, registers, control_bits, status_bits, errors, interrupts, state_regions : list of dict
        The interface, with a sentence for each.
    cells : list of dict
        What the pipeline of each cell costs.
    files : dict of str to str
        Paths by kind: ``verilog``, ``example``, ``json``, ``config``, and packages.
    """

    module: str
    stillnet: str
    preset: str
    fingerprint: str
    image_version: int
    config: dict[str, Any]
    capacities: dict[str, int]
    word_bits: int
    memory: str
    streams: str
    state_names: list[str]
    cells: list[dict[str, Any]]
    ports: list[dict[str, Any]]
    registers: list[dict[str, Any]]
    control_bits: list[dict[str, Any]]
    status_bits: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    interrupts: list[dict[str, Any]]
    state_regions: list[dict[str, Any]]
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class CDriverResult(Result):
    """The host driver in C, as it was written.

    Attributes
    ----------
    folder : str
    engine, fingerprint : str
        The engine that it is for.
    files : list of str
        Names of the files in the folder.
    """

    folder: str
    engine: str
    fingerprint: str
    files: list[str]


@dataclass(frozen=True, kw_only=True)
class TestbenchResult(Result):
    """A cocotb project for a network on a generated core.

    Attributes
    ----------
    folder : str
    preset : str
        Name of the engine configuration that was asked for.
    engine : str
        Name of the one that was generated.
    added : list of str
        Fields of the configuration that were changed to make the network fit.
    memory : str
        The core's memory: ``ram``, ``axi4`` or ``port``.
    steps : int
        Vectors with golden outputs.
    words : int
        Memory words of the image.
    files : list of str
        Names of the files in the folder.
    """

    folder: str
    preset: str
    engine: str
    added: list[str] = field(default_factory=list)
    memory: str
    steps: int
    words: int
    files: list[str]
