"""The live page, by Bokeh: what a person at a board wants to see at a glance."""

from __future__ import annotations

import time
from html import escape
from typing import Any

from stillnet.sw.util.pictures import FAINT, INK, PALETTE
from stillnet.sw.util.shown import shown_count, shown_time

from .figures import ago, limited_by, quantile, recent, status
from .monitor import Monitor

__all__ = ["build_page"]

BAD = "#c0392b"
HEIGHT = 230
WORST_SHOWN = 5

STYLE = """
:host { font: 14px/1.45 system-ui, sans-serif; color: #22303c; display: block; width: 100%; }
:host .bk-clearfix { display: block; width: 100%; }
h1 { font-size: 1.35rem; margin: 0; } h2 { font-size: 1rem; margin: 0 0 .4rem; }
p { margin: .2rem 0; } .faint { color: #67737c; }
.pill { border-radius: 1rem; padding: .12rem .7rem; color: white; font-weight: 600;
  font-size: .85rem; margin-left: .5rem; vertical-align: .15rem; white-space: nowrap; }
.good { background: #1e8449; } .idle { background: #7f8c8d; } .bad { background: #c0392b; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.6rem, 1fr)); gap: .6rem; }
.tile { background: #f4f6f7; border-radius: .5rem; padding: .55rem .75rem; min-width: 0; }
.tile b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.tile.warn { background: #fdecea; } .tile.warn b { color: #c0392b; }
.tile small { color: #67737c; display: block; }
.alarm { border-left: .3rem solid #c0392b; background: #fdecea; padding: .4rem .7rem;
  margin: .3rem 0; border-radius: .25rem; }
.alarm.past { border-color: #aab3b9; background: #f4f6f7; }
.calm { border-left: .3rem solid #1e8449; background: #eaf5ee; padding: .4rem .7rem;
  border-radius: .25rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; color: #67737c; font-weight: 500; } td, th { padding: .25rem .6rem .25rem 0;
  border-bottom: 1px solid #e4e8ea; vertical-align: top; } td.n, th.n { text-align: right; }
.wide { overflow-x: auto; }
"""

TEMPLATE = """
{% extends base %}
{% block postamble %}
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { margin: 0; background: white; }
main { max-width: 78rem; margin: 0 auto; padding: 1rem; display: grid; gap: 1rem; }
main > div { min-width: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr));
  gap: 1rem; }
.charts > div { min-width: 0; }
</style>
{% endblock %}
{% block contents %}
<main>
  <div>{{ embed(roots.head) }}</div>
  <div>{{ embed(roots.alarms) }}</div>
  <div>{{ embed(roots.tiles) }}</div>
  <div class="charts">
    <div>{{ embed(roots.events) }}</div><div>{{ embed(roots.words) }}</div>
    <div>{{ embed(roots.times) }}</div><div>{{ embed(roots.histogram) }}</div>
  </div>
  <div>{{ embed(roots.tables) }}</div>
</main>
{% endblock %}
"""


class _Page:
    """One page in one browser."""

    def __init__(self, monitor: Monitor, document: Any) -> None:
        from bokeh import models
        from bokeh.core.templates import get_env

        # Its stubs know neither all models nor that properties convert what they are given.
        self.models: Any = models
        self.monitor, self.document = monitor, document
        names = list((monitor.document or {}).get("counters", {}).get("events", {}))
        self.vectors = names
        self.divs = {
            name: self.models.Div(name=name, sizing_mode="stretch_width", stylesheets=[STYLE])
            for name in ("head", "alarms", "tiles", "tables")
        }
        self._charts()
        for div in self.divs.values():
            document.add_root(div)
        document.title = "stillnet monitor"
        document.template = get_env().from_string(TEMPLATE)
        self.update()
        document.add_periodic_callback(self.update, 500)

    # -- charts -----------------------------------------------------------------------------------

    def _charts(self) -> None:
        models = self.models
        self.past = models.ColumnDataSource({"time": [], **{k: [] for k in self._columns()}})
        self.bars = models.ColumnDataSource({"left": [], "right": [], "top": [], "colour": []})
        self.events = events = self._chart("events", "Events per step, by vector")
        self._draw_vectors()
        words = self._chart("words", "Words per step")
        words.line("time", "words", source=self.past, color=PALETTE[0], line_width=2)
        times = self._chart("times", "Time per step (ms): mean and worst")
        times.line("time", "mean", source=self.past, color=PALETTE[0], line_width=2)
        times.scatter("time", "worst", source=self.past, color=PALETTE[1], size=4)
        self.histogram = self._chart("histogram", "Time per step: steps by time (ms)", time=False)
        self.histogram.x_range = models.Range1d(0, 1)
        self.histogram.quad(
            left="left",
            right="right",
            top="top",
            bottom=0,
            color="colour",
            line_color="white",
            source=self.bars,
        )
        self.lines = [
            models.Span(location=-1, dimension=d, line_color=BAD, line_dash="dashed", line_width=2)
            for d in ("width", "height")
        ]
        times.add_layout(self.lines[0])
        self.histogram.add_layout(self.lines[1])
        for chart in (events, words, times, self.histogram):
            self.document.add_root(chart)

    def _draw_vectors(self) -> None:
        """The areas of the vectors of the network that is on the board now."""
        chart = self.events
        chart.renderers = []
        for legend in chart.legend:
            legend.items = []
        if not self.vectors:
            return
        chart.varea_stack(
            [f"e{k}" for k in range(len(self.vectors))],
            x="time",
            color=[PALETTE[k % len(PALETTE)] for k in range(len(self.vectors))],
            alpha=0.85,
            source=self.past,
            legend_label=self.vectors,
        )
        if chart.below and any(legend in chart.below for legend in chart.legend):
            return
        for legend in chart.legend:
            legend.location, legend.orientation, legend.ncols = "top_left", "horizontal", 3
            legend.label_text_font_size, legend.padding, legend.spacing = "11px", 2, 6
            legend.background_fill_alpha, legend.border_line_color = 0.6, None
            chart.add_layout(legend, "below")

    def _columns(self) -> list[str]:
        return ["words", "mean", "worst", *(f"e{k}" for k in range(len(self.vectors)))]

    def _chart(self, name: str, title: str, *, time: bool = True) -> Any:
        from bokeh.plotting import figure

        chart: Any = figure(
            name=name,
            title=title,
            height=HEIGHT + (40 if name == "events" else 0),
            sizing_mode="stretch_width",
            x_axis_type="datetime" if time else "linear",
            y_range=self.models.DataRange1d(start=0),
            toolbar_location=None,
            tools="",
        )
        chart.title.text_color, chart.title.text_font_size = INK, "13px"
        chart.outline_line_color = None
        chart.xgrid.grid_line_color = None
        chart.ygrid.grid_line_color = "#e4e8ea"
        for axis in (*chart.xaxis, *chart.yaxis):
            axis.axis_line_color = axis.major_tick_line_color = FAINT
            axis.minor_tick_line_color = None
            axis.major_label_text_color = INK
        chart.yaxis.formatter = self.models.NumeralTickFormatter(format="0,0.[000]")
        return chart

    # -- news -------------------------------------------------------------------------------------

    def update(self) -> None:
        """Shows what the monitor knows now."""
        with self.monitor.lock:
            document = self.monitor.document
            self.divs["head"].text = self._head(document)
            self.divs["alarms"].text = self._alarms()
            if document is None or document["facts"] is None:
                return
            self.divs["tiles"].text = self._tiles(document)
            self.divs["tables"].text = self._vectors() + self._worst(document)
            self._draw(document)

    def _draw(self, document: dict[str, Any]) -> None:
        names = list(document["counters"].get("events", {}))
        if names != self.vectors:  # another network
            self.vectors = names
            self.past.data = {"time": [], **{k: [] for k in self._columns()}}
            self._draw_vectors()
        blocks = [b for b in self.monitor.blocks if b["steps"]]
        zone = -time.altzone if time.localtime().tm_isdst else -time.timezone
        data = {
            "time": [1000 * (b["time"] + zone) for b in blocks],
            "words": [b["counters"]["words"] / b["steps"] for b in blocks],
            "worst": [1000 * b["worst"] for b in blocks],
            "mean": [1000 * b["times"]["sum"] / max(b["times"]["count"], 1) for b in blocks],
        }
        for k, name in enumerate(self.vectors):
            data[f"e{k}"] = [b["counters"]["events"].get(name, 0) / b["steps"] for b in blocks]
        self.past.data = data
        deadline = document["deadline"]
        self._draw_histogram(document["times"], deadline)
        if deadline is not None:
            self.lines[0].location = 1000 * deadline

    def _draw_histogram(self, times: dict[str, Any], deadline: float | None) -> None:
        """Bars of one width, each between two bounds; the deadline is one of them."""
        bounds = [0.0, *times["bounds"]]
        used = [k for k, n in enumerate(times["counts"]) if n] or [0]
        first, last = used[0], used[-1] + 1
        edge = first
        if deadline is not None:
            edge = bounds.index(deadline)
            first, last = min(first, edge - 1), max(last, edge + 1)
            self.lines[1].location = edge
        places = range(first, last)
        self.bars.data = {
            "left": list(places),
            "right": [k + 1 for k in places],
            "top": times["counts"][first:last],
            "colour": [
                BAD if deadline is not None and bounds[k] >= deadline else PALETTE[0]
                for k in places
            ],
        }
        edges = [k for k in range(first, last + 1) if k < len(bounds)]
        self.histogram.x_range.start, self.histogram.x_range.end = first, last
        axis = self.histogram.xaxis[0]
        step = 1 + len(edges) // 12
        axis.ticker = edges[(edge - first) % step :: step]
        axis.major_label_overrides = {k: f"{1000 * bounds[k]:.3g}" for k in edges}

    def _head(self, document: dict[str, Any] | None) -> str:
        word, colour = status(document, self.monitor.reachable)
        facts = None if document is None else document["facts"]
        name = "stillnet" if facts is None else escape(facts["network"])
        text = f'<h1>{name}<span class="pill {colour}" data-name="status">{word}</span></h1>'
        if facts is None or document is None:
            return f"{text}<p class='faint'>waiting for {escape(self.monitor.client.name)}</p>"
        limit = "no deadline is set"
        if document["deadline"] is not None:
            limit = f"deadline {shown_time(document['deadline'])}"
        return (
            f"{text}<p class='faint'>on {escape(facts['board'])}, engine "
            f"{escape(facts['engine'])} at {facts['clock_hz'] / 1e6:g} MHz, over "
            f"{escape(facts['port'])}; since {ago(document['begin'])}; {limit}</p>"
        )

    def _alarms(self) -> str:
        rows = [
            f'<div class="alarm"><b>{escape(a.text)}.</b><br>'
            f'<span class="faint">since {ago(a.since)}, step {a.step:,}</span></div>'
            for a in self.monitor.alarms.active
        ]
        rows = rows or ['<div class="calm">Nothing is wrong.</div>']
        for a in [a for a in self.monitor.alarms if not a.active][:3]:
            rows.append(
                f'<div class="alarm past">{escape(a.text)}.<br><span class="faint">from '
                f"{ago(a.since)} to {ago(a.last)}, step {a.step:,}</span></div>"
            )
        doubts = [f'<p class="faint">{escape(d)}.</p>' for d in self.monitor.doubts]
        return "".join(rows + doubts)

    def _tiles(self, document: dict[str, Any]) -> str:
        now, counters, times = recent(self.monitor.blocks), document["counters"], document["times"]
        deadline = document["deadline"]
        late = deadline is not None and times["worst"] > deadline
        link = sum(document["link"].values())
        per_step = sum(now.get("events", {}).values())
        budget = sum(self.monitor.budgets.values())
        tiles: list[tuple[Any, ...]] = [
            (
                "steps",
                shown_count(document["steps"]),
                f"{now.get('steps_per_second', 0):.3g} per second",
            ),
            (
                "events",
                shown_count(sum(counters["events"].values())),
                f"{shown_count(per_step)} per step"
                + (f", budget {shown_count(budget)}" if budget else ""),
            ),
            (
                "words",
                shown_count(counters["words"]),
                f"{shown_count(now.get('words', 0.0))} per step",
            ),
            (
                "worst step",
                shown_time(times["worst"]) if document["steps"] else "–",
                f"99 % within {shown_time(quantile(times, 0.99))}",
                late,
            ),
            (
                "misses",
                shown_count(document["misses"]),
                "steps over the deadline",
                document["misses"],
            ),
            ("slow host", shown_count(document["host_late"]), "steps begun too late"),
            (
                "saturations",
                shown_count(counters["saturations"]),
                f"{now.get('saturations', 0.0):.3g} per step",
            ),
            ("link errors", shown_count(link), "all repaired"),
            _limit_tile(now, document),
        ]
        if counters.get("late"):
            tiles.append(("late events", shown_count(sum(counters["late"].values())), "by budgets"))
        if self.monitor.canary is not None:
            tiles.append(self._canary())
        return '<div class="tiles">' + "".join(_tile(*t) for t in tiles) + "</div>"

    def _canary(self) -> tuple[str, str, str, bool]:
        monitor = self.monitor
        error = monitor.verdicts[-1].error if monitor.verdicts else None
        words = "equal to the reference"
        if monitor.different:
            words = f"{monitor.different} checks DIFFER"
        if error is not None:
            words += f", float error {error:.3g}"
        return "canary", f"{monitor.checked:,} steps", words, bool(monitor.different)

    def _vectors(self) -> str:
        now = recent(self.monitor.blocks).get("events", {})
        drift = self.monitor.calibration
        budgets = self.monitor.budgets
        head = ["vector", "events per step", "of its elements"]
        head += ["in calibration"] if drift else []
        head += ["budget"] if budgets else []
        rows = []
        document = self.monitor.document
        sizes = {} if document is None else (document["facts"] or {}).get("vectors", {})
        for name, rate in now.items():
            row = [escape(name), f"{rate:.3g}", f"{rate / sizes[name]:.1%}" if sizes else ""]
            if drift:
                known = drift.events.get(name)
                row.append("–" if known is None else f"{known[0]:.3g} to {known[2]:.3g}")
            if budgets:
                row.append(shown_count(budgets[name]) if name in budgets else "–")
            rows.append(row)
        return _table("Vectors, the latest seconds", head, rows)

    def _worst(self, document: dict[str, Any]) -> str:
        rows = []
        for entry in document["worst"][:WORST_SHOWN]:
            why = reason(entry, document)
            rows.append(
                [f"{entry['step']:,}", ago(entry["time"]), shown_time(entry["seconds"]), why]
            )
        return "<br>" + _table("Slowest steps", ["step", "at", "time", "why"], rows, right=(0, 2))


def reason(entry: dict[str, Any], document: dict[str, Any]) -> str:
    """Why a step was slow, as far as the driver knows."""
    repairs = ", ".join(f"{v} {k}" for k, v in entry["link"].items())
    if repairs:
        return f"link: {repairs}"
    cycles = entry.get("latency")
    if cycles is None:
        return "not looked at"
    engine = cycles / document["facts"]["clock_hz"]
    who = "engine" if engine > 0.5 * entry["seconds"] else "link and host"
    text = f"{who}: {cycles:,} cycles, {shown_time(engine)} in the engine"
    if "counters" in entry:
        text += f", {entry['counters']['words']:,} words"
    return text


def _limit_tile(now: dict[str, Any], document: dict[str, Any]) -> tuple[str, str, str]:
    found = limited_by(now, document["facts"])
    rates = [f"{who} {found[who]:,.0f}" for who in ("engine", "link") if found[who]]
    small = f"steps per second: {', '.join(rates)}" if rates else ""
    return "limited by", found["by"] or "–", small


def _tile(name: str, value: str, small: str, warn: object = False) -> str:
    kind = "tile warn" if warn else "tile"
    return (
        f'<div class="{kind}">{name}<b data-name="{name}">{escape(value)}</b>'
        f"<small>{escape(small)}</small></div>"
    )


def _table(
    title: str, head: list[str], rows: list[list[str]], right: tuple[int, ...] = (1, 2)
) -> str:
    def cells(tag: str, row: list[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if k in right else ''}>{cell}</{tag}>" for k, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<h2>{title}</h2><div class="wide"><table><tr>{cells("th", head)}</tr>{body}</table></div>'
    )


def build_page(monitor: Monitor, document: Any) -> None:
    """Fills a Bokeh document, and keeps it up to date."""
    _Page(monitor, document)
