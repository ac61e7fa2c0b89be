"""Draws some signals of a VCD file as an SVG picture.

    make sim BENCH=encoder SIM=verilator WAVES=1 SEED=3
    python docs/pictures/draw_waveform.py build/sim/encoder.vcd \\
        docs/pictures/waveform.svg 800 940 \\
        clk row valid first last done count total

Arguments: the VCD, the picture, first and last time in ns, then names of signals of the top module.
Buses are shown in decimal.
"""

from __future__ import annotations

import sys
from pathlib import Path

INK, LINE, GRID, PAPER = "#1f2933", "#1769aa", "#e3e7eb", "#ffffff"
LEFT, RIGHT, WIDTH, ROW, HIGH = 80, 20, 900, 34, 18
"""Pixels: names, margin, picture, a row, a level."""

Changes = list[tuple[float, str]]


def read_vcd(path: Path, names: list[str]) -> dict[str, tuple[int, Changes]]:
    """Width and changes (time in ns, value) of signals of the outermost module."""
    codes: dict[str, str] = {}
    found: dict[str, tuple[int, Changes]] = {}
    scale = {"1ps": 1e-3, "1ns": 1.0}
    depth, time, unit = 0, 0.0, 1e-3
    for line in path.read_text().splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "$timescale" and len(words) > 1:
            unit = scale.get(words[1], unit)
        elif words[0] == "$scope":
            depth += words[2] != "TOP"  # Verilator puts one around the design
        elif words[0] == "$upscope":
            depth -= 1
        elif words[0] == "$var" and depth <= 1 and words[4] in names and words[4] not in found:
            codes[words[3]] = words[4]
            found[words[4]] = (int(words[2]), [])
        elif words[0][0] == "#":
            time = int(words[0][1:]) * unit
        elif words[0][0] in "bB" and len(words) == 2 and words[1] in codes:
            found[codes[words[1]]][1].append((time, words[0][1:]))
        elif words[0][0] in "01xXzZ" and words[0][1:] in codes:
            found[codes[words[0][1:]]][1].append((time, words[0][0]))
    missing = [name for name in names if name not in found]
    if missing:
        raise SystemExit(f"{path} has no signal {', '.join(missing)} in its top module")
    return found


def window(changes: Changes, first: float, last: float) -> Changes:
    """Values from ``first`` on, with the time at which each begins."""
    before = [value for time, value in changes if time <= first]
    inside = [(time, value) for time, value in changes if first < time < last]
    return [(first, before[-1] if before else "x"), *inside]


def row_of(name: str, width: int, parts: Changes, y: float, first: float, last: float) -> str:
    """One signal as SVG."""
    scale = (WIDTH - LEFT - RIGHT) / (last - first)

    def x(time: float) -> float:
        return round(LEFT + (time - first) * scale, 1)

    text = f'<text x="{LEFT - 10}" y="{y + HIGH - 4}" text-anchor="end">{name}</text>'
    ends = [time for time, _ in parts[1:]] + [last]
    if width == 1:
        points = []
        for (begin, value), end in zip(parts, ends):
            level = y if value == "1" else y + HIGH
            points += [f"{x(begin)},{level}", f"{x(end)},{level}"]
        return text + f'<polyline points="{" ".join(points)}"/>'
    for (begin, value), end in zip(parts, ends):
        a, b, middle = x(begin), x(end), y + HIGH / 2
        edge = min(4.0, (b - a) / 2)
        shape = f"{a},{middle} {a + edge},{y} {b - edge},{y} {b},{middle} "
        shape += f"{b - edge},{y + HIGH} {a + edge},{y + HIGH} {a},{middle}"
        text += f'<polyline points="{shape}"/>'
        shown = str(int(value, 2)) if set(value) <= {"0", "1"} else "x"
        if b - a > 7 * len(shown) + 4:
            text += f'<text x="{(a + b) / 2}" y="{y + HIGH - 5}" text-anchor="middle" '
            text += f'class="value">{shown}</text>'
    return text


def draw(path: Path, first: float, last: float, names: list[str]) -> str:
    """The picture."""
    signals = read_vcd(path, names)
    height = ROW * len(names) + 40
    step = 10 ** len(str(int((last - first) / 4))) // 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="monospace" font-size="13">',
        f"<style>polyline{{fill:none;stroke:{LINE};stroke-width:1.4}}"
        f"text{{fill:{INK}}}.value{{font-size:11px}}.grid{{stroke:{GRID}}}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>',
    ]
    for time in range(-(-int(first) // step) * step, int(last) + 1, step):
        at = round(LEFT + (time - first) * (WIDTH - LEFT - RIGHT) / (last - first), 1)
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="10" y2="{height - 24}"/>')
        label = f'<text class="value" x="{at}" y="{height - 8}" text-anchor="middle">'
        parts.append(f"{label}{time} ns</text>")
    for k, name in enumerate(names):
        width, changes = signals[name]
        y = 14 + k * ROW
        parts.append(row_of(name, width, window(changes, first, last), y, first, last))
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    source, target, begin, end, *wanted = sys.argv[1:]
    Path(target).write_text(draw(Path(source), float(begin), float(end), wanted))
