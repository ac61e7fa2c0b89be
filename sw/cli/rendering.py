"""Tables for people: of networks, their errors, and memory images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillnet.sw.util.results.networks import DeadlineReport, NetworkInfo, QuantizeReport
from stillnet.sw.util.results.products import ImageInfo

__all__ = [
    "columns",
    "figure",
    "percent",
    "print_tables",
    "show_deadline",
    "show_image",
    "show_network",
]


def print_tables(*tables: Any) -> None:
    """Prints tables as wide as the terminal, or 120 columns wide into a pipe."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    for table in tables:
        console.print(table)


def columns(title: str, names: Mapping[str, str]) -> Any:
    """An empty table.

    Parameters
    ----------
    title : str
    names : dict of column title to ``"left"`` or ``"right"``
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name, justify in names.items():
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    return table


def figure(value: float | None, digits: int = 3) -> str:
    """A number, or a dash."""
    return "-" if value is None else f"{value:.{digits}g}"


def percent(value: float | None) -> str:
    """A share, or a dash."""
    return "-" if value is None else f"{100 * value:.1f} %"


_VECTOR = {
    "vector": "left",
    "cell": "left",
    "size": "right",
    "fraction": "right",
    "events": "left",
    "threshold": "right",
}


def _vector(
    name: str,
    cell: str,
    size: int,
    fraction: int,
    mode: str,
    threshold: int,
    recurrent: int | None = None,
) -> tuple[str, ...]:
    """Cells of the columns ``_VECTOR``. Thresholds are integers; they are shown as values."""
    shown = figure(threshold / 2.0**fraction)
    if recurrent is not None:
        shown += f" / {figure(recurrent / 2.0**fraction)}"
    return name, cell, str(size), str(fraction), mode, shown


def show_network(network: NetworkInfo) -> None:
    """Layers of a network, and its errors where they are known."""
    extra = {"exponent": "right", "headroom": "right", "bytes": "right", "fed by": "left"}
    table = columns(
        f"Network '{network.name}': {network.inputs} in, {network.outputs} out, "
        f"{network.weights:,} weights, {network.bytes:,} bytes",
        _VECTOR | extra,
    )
    first = network.input
    table.add_row(
        *_vector("input", "", network.inputs, first.fraction, first.mode, first.threshold)
    )
    for layer in network.layers:
        feeds = [f"{m.source} (.{m.fraction})" for m in layer.matrices]
        feeds += [f"{s} of {name}" for s, name in layer.peers.items()]
        table.add_row(
            *_vector(
                layer.name,
                layer.cell,
                layer.units,
                layer.fraction,
                layer.mode,
                layer.threshold,
                layer.threshold_recurrent,
            ),
            str(layer.exponent),
            f"{layer.headroom_bits:.1f} bits",
            f"{layer.bytes:,}",
            ", ".join(feeds),
        )
    print_tables(table)
    if network.report:
        _show_report(network.report)
    if network.deadline:
        show_deadline(network.deadline)


def _show_report(report: QuantizeReport) -> None:
    right = "right"
    vectors = columns(
        f"Against the float model, {report.steps} steps of calibration: {_outputs(report)}, "
        f"{report.saturations} clipped",
        {
            "vector": "left",
            "rms": right,
            "peak": right,
            "error rms": right,
            "error max": right,
            "relative": right,
            "SNR": right,
            "active": right,
        },
    )
    for v in report.vectors:
        active = percent(v.activity)
        if v.activity is None:
            active = f"{v.events_per_step:.2f} per step"
        if v.activity_recurrent is not None:
            active += f" / {percent(v.activity_recurrent)}"
        vectors.add_row(
            v.name,
            *(figure(n) for n in (v.rms, v.peak, v.error_rms, v.error_max)),
            percent(v.relative_rms),
            "-" if v.snr_db is None else f"{v.snr_db:.1f} dB",
            active,
        )
    matrices = columns(
        "Weights",
        {
            "layer": "left",
            "from": "left",
            "gates": "left",
            "fraction": right,
            "SNR": right,
            "clipped": right,
        },
    )
    for m in report.matrices:
        matrices.add_row(
            m.layer,
            m.source,
            " ".join(m.gates),
            str(m.fraction),
            "exact" if m.snr_db is None else f"{m.snr_db:.1f} dB",
            str(m.clipped),
        )
    print_tables(vectors, matrices)
    for advice in report.advice:
        print(f"Advice: {advice}.")


def _outputs(report: QuantizeReport) -> str:
    """The outputs' errors in a few words."""
    mean = f"mean output error {report.output_error:.4g}"
    worst = report.outputs.worst
    if worst is None:
        return mean
    return (
        f"{mean}; worst output {worst}: {report.outputs.snr_db[worst]:.1f} dB, largest error "
        f"{report.outputs.error_max[worst]:.3g}"
    )


def show_image(image: ImageInfo) -> None:
    """Layers of an image, and the engine that it is for."""
    table = columns(
        f"Image of '{image.name}': {image.bytes:,} bytes for engine '{image.engine['name']}' "
        f"({image.engine['lanes']} lanes), fingerprint {image.fingerprint}",
        _VECTOR | {"fed by, columns": "left"},
    )
    table.add_row(
        *_vector(
            "input",
            "",
            image.inputs,
            image.input_fraction,
            image.input_mode,
            image.input_threshold,
        )
    )
    keys = ("name", "cell", "units", "fraction", "mode", "threshold", "threshold_recurrent")
    for layer in image.layers:
        feeds = [
            f"{m['source']}: {m['columns']} of {_words(m)} words, {m['format']}{_hot(m)}"
            for m in layer["matrices"]
        ]
        feeds += [f"{s} of {name}" for s, name in layer.get("peers", {}).items()]
        table.add_row(*_vector(*(layer[k] for k in keys)), "\n".join(feeds))
    print_tables(table)


def _hot(matrix: dict[str, Any]) -> str:
    """How many columns of a matrix are in the hot store, where any are."""
    return f", {matrix['hot_columns']} hot" if matrix["hot_columns"] else ""


def _words(matrix: dict[str, Any]) -> str:
    """Words of a column; their mean where columns differ in length."""
    if matrix["words"] == matrix["columns"] * matrix["column_words"]:
        return str(matrix["column_words"])
    return f"{matrix['words'] / matrix['columns']:.1f}"


def show_deadline(report: DeadlineReport | None) -> None:
    """What is guaranteed, and what it costs."""
    if report is None:
        return
    print(
        f"No step takes more than {report.guaranteed_cycles:,} cycles, {report.guaranteed_ms:.3g} "
        f"ms at {report.clock_mhz:g} MHz, whatever the input is (deadline "
        f"{report.milliseconds:g} ms)."
    )
    if not report.budgets:
        print("That needs no budgets.")
        return
    budgets = ", ".join(f"{name} {budget}" for name, budget in report.budgets.items())
    print(
        f"Without budgets it would be {report.without_cycles:,} cycles. Events per step: {budgets}."
    )
    print(
        f"On {report.steps} steps of calibration {percent(report.late)} of the events come later, "
        f"and outputs differ by {report.deviation:.2g} on average; no element waits longer than "
        f"{max(report.longest_wait.values())} steps."
    )
