"""What the functions of the API and the commands return.

A result is a dataclass: ``result.words`` in Python, ``"words"`` under ``--json``. Both have exactly
the same fields, because :meth:`Result.to_dict` is what a command prints. A field with the metadata
``json: False`` is for Python only: arrays are too large to print.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .keys import check_keys

if TYPE_CHECKING:
    import numpy as np

    from stillnet.sw.contract.config import EngineConfig

__all__ = [
    "BenchResult",
    "BoardResult",
    "CDriverResult",
    "CellResult",
    "CheckResult",
    "CheckedLayer",
    "CheckedNode",
    "CompressReport",
    "CompressResult",
    "CompressedLayer",
    "DeadlineReport",
    "Energy",
    "GenerateResult",
    "HardwareResult",
    "ImageInfo",
    "InputInfo",
    "LayerInfo",
    "MatrixInfo",
    "NetworkInfo",
    "OutputErrors",
    "PackResult",
    "QuantizeReport",
    "QuantizeResult",
    "Result",
    "RtlResult",
    "RunResult",
    "SdramUse",
    "SearchResult",
    "SweepResult",
    "TestbenchResult",
    "TrainResult",
    "VectorError",
    "WeightError",
]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a command prints; the base of all results."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, results inside of it as dictionaries too."""
        return {
            f.name: _plain(getattr(self, f.name))
            for f in fields(self)
            if f.metadata.get("json", True)
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _checked(values: Mapping[str, Any], kind: type[Result]) -> dict[str, Any]:
    """The values, which are those that ``kind`` has fields for."""
    names = [f.name for f in fields(kind)]
    needed = [f.name for f in fields(kind) if f.default is MISSING]
    check_keys(values, needed, f"the network's {kind.__name__}", optional=names)
    return dict(values)


# -- run ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RunResult(Result):
    """A network on an engine, over a recording.

    Attributes
    ----------
    engine : str
        As it was asked for, for example ``"rtl"`` or ``"sim:ulx3s-85f"``.
    preset : str
        Name of the engine configuration that was used.
    steps : int
        Steps that ran.
    mismatches : int
        0, or 1: the first difference from the reference ends a run.
    difference : str or None
        That difference in a sentence.
    first_difference : dict or None
        The same in parts: what, layer, unit, step, engine, reference.
    events : dict of str to int
        Events by source.
    words : int
        Memory words that were fetched.
    cycles : int
        Clock cycles. The reference gives the lower bound, one word per cycle.
    utilisation : float or None
        Words per cycle; the reference has none.
    saturations : int
        Values that were clipped, those of the input included.
    added : list of str
        Fields of the configuration that were changed to make the network fit.
    lacking : list of str
        Fields that the network asks for and the configuration does not have. Only the reference
        runs all the same.
    doubts : list of str
        What one should know before the outputs are trusted.
    output : str or None
        The file, or the folder, that the command wrote.
    report : str or None
        The page about the run that it wrote.
    recordings : int
        Over which the counts are.
    outputs : array of float, shape (steps, outputs)
        Not printed.
    config : EngineConfig or None
        The engine, complete. Not printed.
    energy : Energy or None
        Of a step, where something is known of it.
    """

    engine: str = ""
    preset: str = ""
    steps: int
    mismatches: int = 0
    difference: str | None = None
    first_difference: dict[str, Any] | None = None
    events: dict[str, int]
    words: int
    cycles: int
    utilisation: float | None = None
    saturations: int = 0
    added: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    output: str | None = None
    report: str | None = None
    recordings: int = 1
    energy: Energy | None = None
    outputs: np.ndarray = field(repr=False, compare=False, metadata={"json": False})
    config: EngineConfig | None = field(
        default=None, repr=False, compare=False, metadata={"json": False}
    )


@dataclass(frozen=True, kw_only=True)
class HardwareResult(RunResult):
    """A run on hardware, with its counters.

    Attributes
    ----------
    latency : float or None
        Cycles from the first input word to the last output word, or None where steps overlap. A
        simulation gives the mean; a board gives the last step.
    stall_cell, stall_memory, stall_events : int
        Cycles without a multiplication, by cause.
    words_hot : int
        Words that came from the engine's hot store.
    """

    latency: float | None
    stall_cell: int
    stall_memory: int
    stall_events: int
    words_hot: int = 0


@dataclass(frozen=True, kw_only=True)
class RtlResult(HardwareResult):
    """A run of the generated hardware in a simulator.

    Attributes
    ----------
    rtl_cycles_per_second : int
        Speed of the simulation.
    history : int
        Steps that the reference took before.
    trace : str or None
        The waveforms.
    """

    rtl_cycles_per_second: int
    history: int = 0
    trace: str | None = None


@dataclass(frozen=True, kw_only=True)
class SdramUse(Result):
    """What a board's SDRAM did, from the clearing of the counters on.

    Attributes
    ----------
    part : str
    clock_hz : int
        Of the SDRAM.
    counts : dict of str to int
        By the names of :class:`~stillnet.sw.contract.registers.SdramCounter`, in lower case.
    """

    part: str
    clock_hz: int
    counts: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Energy(Result):
    """Energy of a step, in joules.

    Attributes
    ----------
    sdram : float or None
        Of the SDRAM's core, where the board counts and the part's currents are known.
    sdram_parts : dict of str to float
        What that went into, in this run.
    sdram_idle_watts : float or None
        Of the core while nothing is asked of it.
    sdram_source, sdram_stand_in : str
        Where the currents are from; whose they are, where not the part's own.
    slower : float or None
        Seconds of a step in this run, where that is longer than ``rate`` allows: then ``sdram`` is
        that of the run.
    rate : float or None
        Steps per second in use.
    watts : float or None
        What the meter read, of the whole board.
    board : float or None
        Of the whole board, by the meter.
    """

    sdram: float | None = None
    sdram_parts: dict[str, float] = field(default_factory=dict)
    sdram_idle_watts: float | None = None
    sdram_source: str = ""
    sdram_stand_in: str = ""
    slower: float | None = None
    rate: float | None = None
    watts: float | None = None
    board: float | None = None


@dataclass(frozen=True, kw_only=True)
class BoardResult(HardwareResult):
    """A run on a board, real or virtual.

    Attributes
    ----------
    board : str
        Its name, as it gives it.
    steps_per_second : float or None
        Of this run, on the board's own clock.
    engine_steps_per_second, link_steps_per_second : float or None
        What the engine alone does by its counters, and what the serial line alone carries of steps
        that are as many bytes as these were.
    bytes_to_board, bytes_from_board : float or None
        On the line, per step, framing and escapes among them.
    limited_by : str or None
        ``"link"`` where that is slower than the engine; else what took most of the engine's cycles:
        ``"lanes"``, ``"memory"``, ``"cells"`` or ``"events"``.
    clock_hz : int or None
        Of the engine.
    sdram : SdramUse or None
        Where the board counts what its SDRAM does.
    """

    board: str
    steps_per_second: float | None
    engine_steps_per_second: float | None = None
    link_steps_per_second: float | None = None
    bytes_to_board: float | None = None
    bytes_from_board: float | None = None
    limited_by: str | None = None
    clock_hz: int | None = None
    sdram: SdramUse | None = None


# -- networks and images --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class InputInfo(Result):
    """Format and events of the input vector."""

    mode: str
    fraction: int
    threshold: int
    threshold_value: float


@dataclass(frozen=True, kw_only=True)
class MatrixInfo(Result):
    """One matrix of a layer."""

    source: str
    gates: list[str]
    rows: int
    columns: int
    fraction: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class LayerInfo(Result):
    """One layer of a network.

    Attributes
    ----------
    fraction : int
        Bits after the binary point: an element is integer / 2**fraction.
    exponent : int
        The same for its accumulators.
    threshold, threshold_recurrent : int
        Delta thresholds as integers; ``threshold_value`` and ``threshold_recurrent_value`` are
        the same numbers in units of the values.
    headroom_bits : float
        Bits of the accumulators that no input can reach.
    """

    name: str
    cell: str
    units: int
    fraction: int
    mode: str
    threshold: int
    threshold_value: float
    threshold_recurrent: int | None
    threshold_recurrent_value: float | None
    exponent: int
    shift: int
    write_shift: int
    headroom_bits: float
    bytes: int
    initial: list[str]
    parameters: list[str]
    peers: dict[str, str]
    exponents: dict[str, Any]
    matrices: list[MatrixInfo]


@dataclass(frozen=True, kw_only=True)
class VectorError(Result):
    """One vector of a quantized network against the float model."""

    name: str
    events_per_step: float
    activity: float | None = None
    activity_recurrent: float | None = None
    peak: float | None = None
    rms: float | None = None
    error_rms: float | None = None
    error_max: float | None = None
    relative_rms: float | None = None
    relative_max: float | None = None
    snr_db: float | None = None


@dataclass(frozen=True, kw_only=True)
class OutputErrors(Result):
    """Every output of a quantized network against the float model.

    Attributes
    ----------
    snr_db : list of float or None
        Variance of the output over its mean square error; None where nothing varies or is lost.
    error, error_max : list of float
        Mean absolute error, and that of the worst step.
    """

    snr_db: list[float | None] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    error_max: list[float] = field(default_factory=list)

    @property
    def worst(self) -> int | None:
        """The output of the least SNR."""
        known = [(r, k) for k, r in enumerate(self.snr_db) if r is not None]
        return min(known)[1] if known else None


@dataclass(frozen=True, kw_only=True)
class WeightError(Result):
    """One matrix of a quantized network against the float model."""

    layer: str
    source: str
    gates: list[str]
    fraction: int
    snr_db: float | None
    clipped: int


@dataclass(frozen=True, kw_only=True)
class QuantizeReport(Result):
    """Errors of a quantized network, layer by layer, over the calibration recordings.

    Attributes
    ----------
    output_error : float
        Mean absolute error over all outputs against the float model.
    doubts : list of str
        What one should know before the network is trusted.
    advice : list of str
        What would make it better, and what that costs.
    """

    steps: int
    output_error: float
    outputs: OutputErrors
    saturations: int
    vectors: list[VectorError]
    matrices: list[WeightError]
    doubts: list[str]
    advice: list[str] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QuantizeReport:
        """From ``notes["report"]`` of a network."""
        checked = _checked(values, cls)
        vectors = [VectorError(**_checked(v, VectorError)) for v in values["vectors"]]
        matrices = [WeightError(**_checked(m, WeightError)) for m in values["matrices"]]
        outputs = OutputErrors(**_checked(values["outputs"], OutputErrors))
        return cls(**{**checked, "outputs": outputs, "vectors": vectors, "matrices": matrices})


@dataclass(frozen=True, kw_only=True)
class CompressedLayer(Result):
    """One layer after compression.

    Attributes
    ----------
    density : float
        Part of the weights that was kept.
    error, nearest_error : float
        What the layer loses, and what rounding to the nearest weights would lose.
    formats : list of str
        How its columns are stored.
    active : float or None
        Part of its elements that sends an event in a step.
    """

    name: str
    cell: str
    density: float
    error: float
    nearest_error: float
    formats: list[str]
    active: float | None


@dataclass(frozen=True, kw_only=True)
class CompressReport(Result):
    """Errors and costs of a compressed network on the calibration recordings.

    Attributes
    ----------
    options, engine : dict
        What was asked, and the engine configuration whose words were counted.
    steps, judged_steps : int
        Steps that were used, and those on which error and words were measured.
    output_error : float
        Mean absolute error of the output against the float model.
    words_a_step, bytes_a_step, frame_ms : float
        Cost of a step by the cost model.
    unheard : dict or None
        Where scenes were left out: ``ratios``, the error on each over that on the others; the error
        ``expected`` on one more scene, ``low`` and ``high`` end of its interval of 90 %.
    """

    options: dict[str, Any]
    engine: dict[str, Any]
    steps: int
    judged_steps: int
    output_error: float
    words_a_step: float
    bytes_a_step: float
    frame_ms: float
    saturations: int
    layers: list[CompressedLayer]
    unheard: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CompressReport:
        """From ``notes["compression"]`` of a network."""
        checked = _checked(values, cls)
        layers = [CompressedLayer(**_checked(v, CompressedLayer)) for v in values["layers"]]
        return cls(**{**checked, "layers": layers})


@dataclass(frozen=True, kw_only=True)
class CheckedLayer(Result):
    """A layer of the chip's part of a model."""

    name: str
    cell: str
    units: int
    weights: int


@dataclass(frozen=True, kw_only=True)
class CheckedNode(Result):
    """A node of a whole model.

    Attributes
    ----------
    where : str
        ``"chip"``, ``"host"`` or ``"both"``.
    why : str
        Why it is not on the chip; empty where it is, and where it has no work to do.
    weights, multiplications : int
        The second of one step.
    """

    name: str
    operator: str
    where: str
    why: str
    weights: int
    multiplications: int


@dataclass(frozen=True, kw_only=True)
class CheckResult(Result):
    """Which part of a model runs on the chip.

    Attributes
    ----------
    inputs, outputs : int
        Elements of a step of the whole model.
    vector : int
        Elements of a vector that goes to the chip.
    enter : str or None
        The tensor at which the chip begins; None where all of the model runs there.
    leave : list of str
        The tensors that come from the chip.
    states : dict of str to str
        States that the host carries: inputs and outputs.
    streams : bool
        The model runs step by step, not only on whole recordings.
    every_step : bool
        The file gives what follows from the last step of a recording; here each step gives that.
    chip_weights, chip_multiplications : float
        Shares of the chip.
    """

    name: str
    inputs: int
    outputs: int
    vector: int
    enter: str | None = None
    leave: list[str] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    streams: bool = True
    every_step: bool = False
    chip_weights: float = 1.0
    chip_multiplications: float = 1.0
    layers: list[CheckedLayer]
    nodes: list[CheckedNode] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class DeadlineReport(Result):
    """What ``--deadline`` chose, and what it guarantees.

    Attributes
    ----------
    milliseconds, clock_mhz : float
        The deadline, and the clock of the engine.
    engine : str
    guaranteed_cycles : int
        No step takes more, whatever its input is.
    guaranteed_ms : float
    without_cycles : int
        The same of the network without budgets.
    budgets : dict of str to int
        Most events per step, by vector; empty where the deadline is kept without.
    longest_wait : dict of str to int
        Steps within which an element that stays above its threshold is sent, by vector.
    steps : int
        Steps of calibration that the following are of.
    late : float
        Part of the events that were refused and came later.
    deviation : float
        Mean absolute difference between the outputs with budgets and those without.
    """

    milliseconds: float
    clock_mhz: float
    engine: str
    guaranteed_cycles: int
    guaranteed_ms: float
    without_cycles: int
    budgets: dict[str, int]
    longest_wait: dict[str, int]
    steps: int
    late: float
    deviation: float

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DeadlineReport:
        """The report from the notes of a network file."""
        return cls(**_checked(values, cls))


@dataclass(frozen=True, kw_only=True)
class NetworkInfo(Result):
    """A quantized network, explained.

    Attributes
    ----------
    weights, bytes : int
        Number of weights, and bytes with biases and parameters.
    report : QuantizeReport or None
        Of ``quantize``.
    options : dict or None
        Options of ``quantize``.
    compression : CompressReport or None
        Of ``compress``.
    deadline : DeadlineReport or None
        Where ``--deadline`` was given.
    """

    kind: str = "network"
    name: str
    inputs: int
    outputs: int
    input: InputInfo
    weights: int
    bytes: int
    layers: list[LayerInfo]
    report: QuantizeReport | None = None
    options: dict[str, Any] | None = None
    compression: CompressReport | None = None
    deadline: DeadlineReport | None = None

    @property
    def doubts(self) -> list[str]:
        """Those of the report."""
        return [] if self.report is None else self.report.doubts


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
class QuantizeResult(NetworkInfo):
    """What ``stillnet quantize`` prints: the network that it wrote to ``output``."""

    output: str


@dataclass(frozen=True, kw_only=True)
class CompressResult(CompressReport):
    """What ``stillnet compress`` prints: the network that it wrote to ``output``."""

    output: str
    name: str
    doubts: list[str] = field(default_factory=list)
    deadline: DeadlineReport | None = None


@dataclass(frozen=True, kw_only=True)
class SweepResult(Result):
    """What ``stillnet sweep`` prints: a row for each point."""

    model: str
    rows: list[dict[str, Any]]
    plot: str | None = None


@dataclass(frozen=True, kw_only=True)
class SearchResult(Result):
    """What ``stillnet search`` prints.

    Attributes
    ----------
    trials, stopped : int
        All that ended, and those of them that were given up early.
    layers : list of str
        Whose ``bits`` and ``kept`` the rows have.
    rows : list of dict
        The front, the fastest first.
    networks : list of dict
        Those that were written: ``trial``, ``output``, figures of the integers.
    """

    model: str
    trials: int
    stopped: int
    layers: list[str]
    rows: list[dict[str, Any]]
    networks: list[dict[str, Any]]
    plot: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainResult(Result):
    """What ``stillnet train`` prints: the network that it wrote to ``output``.

    Attributes
    ----------
    before, after : dict
        ``error``, ``words``, ``kilobytes``, ``cycles`` and ``frame_ms`` per step of the integers on
        the recordings; with ``test_`` in front on those that nothing was learnt from.
    kept : float
        Part of the weights that may be other than zero.
    history : list of dict
        The course: ``update``, ``loss``, ``words``, ``multiplier``, ``kept``.
    mismatches : int or None
        Outputs that differ on generated hardware, where that was asked.
    """

    output: str
    name: str
    updates: int
    before: dict[str, float]
    after: dict[str, float]
    kept: float
    history: list[dict[str, float]]
    mismatches: int | None = None
    doubts: list[str] = field(default_factory=list)


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


@dataclass(frozen=True, kw_only=True)
class BenchResult(Result):
    """A measurement: its name and its rows of plain values."""

    bench: str
    rows: list[dict[str, Any]]
