"""What is known of a network, and what quantizing and compressing it has cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .result import Result, checked_fields

__all__ = [
    "CompressReport",
    "CompressResult",
    "CompressedLayer",
    "DeadlineReport",
    "InputInfo",
    "LayerInfo",
    "MatrixInfo",
    "NetworkInfo",
    "OutputErrors",
    "QuantizeReport",
    "QuantizeResult",
    "VectorError",
    "WeightError",
]


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
        checked = checked_fields(values, cls)
        vectors = [VectorError(**checked_fields(v, VectorError)) for v in values["vectors"]]
        matrices = [WeightError(**checked_fields(m, WeightError)) for m in values["matrices"]]
        outputs = OutputErrors(**checked_fields(values["outputs"], OutputErrors))
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
        checked = checked_fields(values, cls)
        layers = [CompressedLayer(**checked_fields(v, CompressedLayer)) for v in values["layers"]]
        return cls(**{**checked, "layers": layers})


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
        return cls(**checked_fields(values, cls))


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
