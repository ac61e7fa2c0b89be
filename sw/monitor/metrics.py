"""The same numbers for Prometheus, by ``prometheus-client``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stillnet.sw.contract.errors import StillnetError

from .figures import CAUSES, limited_by, recent
from .monitor import Monitor

__all__ = ["prometheus_text"]

_STALLS = {"stall_cell": "cell", "stall_memory": "memory", "stall_events": "events"}
_PLAIN = {
    "words": ("words", "Memory words that entered the lanes."),
    "words_hot": ("words_hot", "Words that came from the hot store."),
    "cycles": ("cycles", "Clock cycles in which a step was in progress."),
    "saturations": ("saturations", "Elements that were clipped to 16 bits."),
}


def prometheus_text(monitor: Monitor) -> tuple[bytes, str]:
    """What ``/metrics`` gives, and its content type.

    Raises
    ------
    StillnetError
        Without prometheus-client.
    """
    try:
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
    except ImportError:
        raise StillnetError(
            'the metrics need prometheus-client; pip install "stillnet[monitor]"'
        ) from None

    class Collector:
        def collect(self) -> Iterator[Any]:
            with monitor.lock:
                yield from _families(monitor)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())  # type: ignore[arg-type]
    return generate_latest(registry), CONTENT_TYPE_LATEST


def _families(monitor: Monitor) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    yield GaugeMetricFamily("stillnet_up", "The driver answers.", value=int(monitor.reachable))
    alarms = GaugeMetricFamily("stillnet_alarm", "What is wrong now.", labels=["kind", "where"])
    for alarm in monitor.alarms.active:
        alarms.add_metric([alarm.kind, alarm.where], 1)
    yield alarms
    document = monitor.document
    if document is None:
        return
    yield CounterMetricFamily("stillnet_steps", "Steps that were done.", value=document["steps"])
    yield from _engine(document["counters"], monitor.budgets)
    yield from _times(document)
    yield from _limit(monitor, document)
    link = CounterMetricFamily("stillnet_link_errors", "Repairs of the line.", labels=["kind"])
    for kind, count in document["link"].items():
        link.add_metric([kind], count)
    yield link
    yield CounterMetricFamily(
        "stillnet_faults", "Times that the driver gave up.", value=document["faults"]
    )
    if monitor.canary is None:
        return
    yield CounterMetricFamily(
        "stillnet_canary_steps", "Steps computed again.", value=monitor.checked
    )
    yield CounterMetricFamily(
        "stillnet_canary_mismatches", "Checks that differed.", value=monitor.different
    )
    errors = [v.error for v in monitor.verdicts if v.error is not None]
    if errors:
        text = "Mean absolute error against the float model, of the latest check."
        yield GaugeMetricFamily("stillnet_canary_error", text, value=errors[-1])


def _limit(monitor: Monitor, document: dict[str, Any]) -> Iterator[Any]:
    """What limits the steps per second now, and bytes on the line."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    by = limited_by(recent(monitor.blocks), document["facts"])["by"]
    limits = GaugeMetricFamily(
        "stillnet_limited_by", "1 for what limits the steps per second.", labels=["by"]
    )
    for cause in CAUSES:
        limits.add_metric([cause], int(cause == by))
    yield limits
    moved = CounterMetricFamily("stillnet_link_bytes", "On the line.", labels=["direction"])
    for direction, count in document.get("moved", {}).items():
        moved.add_metric([direction], count)
    yield moved


def _engine(counters: dict[str, Any], budgets: dict[str, int]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for key, (name, text) in _PLAIN.items():
        if key in counters:
            yield CounterMetricFamily(f"stillnet_{name}", text, value=counters[key])
    stalls = CounterMetricFamily(
        "stillnet_stall_cycles", "Cycles without a multiplication.", labels=["cause"]
    )
    for key, cause in _STALLS.items():
        if key in counters:
            stalls.add_metric([cause], counters[key])
    yield stalls
    for key, text in (("events", "Events sent."), ("late", "Events that a budget made late.")):
        if not counters.get(key):
            continue
        family = CounterMetricFamily(f"stillnet_{key}", text, labels=["vector"])
        for name, count in counters[key].items():
            family.add_metric([name], count)
        yield family
    if budgets:
        gauge = GaugeMetricFamily(
            "stillnet_budget_events", "Most events of a step.", labels=["vector"]
        )
        for name, limit in budgets.items():
            gauge.add_metric([name], limit)
        yield gauge


def _times(document: dict[str, Any]) -> Iterator[Any]:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    times, total, buckets = document["times"], 0, []
    for bound, count in zip([*times["bounds"], float("inf")], times["counts"]):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else repr(bound), total))
    histogram = HistogramMetricFamily(
        "stillnet_step_seconds", "Time from a vector to its output, at the host."
    )
    histogram.add_metric([], buckets, times["sum"])
    yield histogram
    yield GaugeMetricFamily("stillnet_step_worst_seconds", "The slowest.", value=times["worst"])
    if document["deadline"] is not None:
        text = "Seconds that a step may take."
        yield GaugeMetricFamily("stillnet_deadline_seconds", text, value=document["deadline"])
    late = CounterMetricFamily(
        "stillnet_deadline_misses", "Steps that were late, by who was.", labels=["cause"]
    )
    late.add_metric(["board"], document["misses"])
    late.add_metric(["host"], document["host_late"])
    yield late
