"""Draw the picture on the page of results: each system's figure with its interval, as SVG.

The same rows give the same text on every machine. The picture has a background of its own and follows the reader's
choice of light or dark, so that it can be read on either page.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    import pandas as pd

WIDTH, LINE, TOP, BOTTOM = 920, 24, 66, 16
LEFT, RIGHT, FIGURE = 296, 740, 764
"""Pixels from the left: start and end of the axis, and the figures in words."""
TICK = 0.1
COLOURS = (("#0969da", "#58a6ff"), ("#1a7f37", "#3fb950"), ("#9a6700", "#d29922"), ("#8250df", "#bc8cff"))
"""Colours of each chapter, on light and on dark; from the fifth chapter on they repeat."""
INKS = {
    "page": ("#ffffff", "#0d1117"),
    "edge": ("#d1d9e0", "#3d444d"),
    "grid": ("#e3e8ee", "#262c36"),
    "ink": ("#1f2328", "#e6edf3"),
    "soft": ("#59636e", "#9198a1"),
}


def interval_chart(rows: pd.DataFrame, title: str) -> str:
    """Return the SVG: one line for each row, in the given order, under the name of its chapter.

    rows: at least one, with chapter, system, value, ci_low and ci_high in [0, 1] (NaN: a point without an interval).
    """
    low, high = _axis(rows[["value", "ci_low", "ci_high"]])
    chapters = list(dict.fromkeys(rows["chapter"]))
    height = TOP + LINE * (len(rows) + len(chapters)) + BOTTOM

    def across(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * (value - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' role="img" aria-labelledby="title">',
        f'<title id="title">{escape(title)}</title>',
        _style(len(chapters)),
        f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        f'<text class="ink strong" x="16" y="28">{escape(title)}</text>',
    ]
    for number in range(round((high - low) / TICK) + 1):
        value = low + number * TICK
        x = f"{across(value):.1f}"
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{height - BOTTOM}"/>')
        parts.append(f'<text class="soft" x="{x}" y="{TOP - 14}" text-anchor="middle">{value:.1f}</text>')
    y = TOP + LINE / 2
    for number, chapter in enumerate(chapters):
        parts.append(f'<text class="c{number} strong" x="16" y="{y + 4:g}">{escape(chapter)}</text>')
        y += LINE
        for row in rows[rows["chapter"] == chapter].itertuples():
            parts += _line(row, number, y, across)
            y += LINE
    return "\n".join([*parts, "</svg>"]) + "\n"


def in_words(row: Any) -> str:
    """Format the value of a row, with its interval if it has one, to three decimals."""
    interval = "" if math.isnan(row.ci_low) else f" [{row.ci_low:.3f}, {row.ci_high:.3f}]"
    return f"{row.value:.3f}{interval}"


def _axis(known: pd.DataFrame) -> tuple[float, float]:
    """Return the ticks below and above all known values; they always differ."""
    low = math.floor(round(float(known.min().min()) / TICK, 6))
    high = math.ceil(round(float(known.max().max()) / TICK, 6))
    return round(low * TICK, 6), round(max(high, low + 1) * TICK, 6)


def _line(row: Any, number: int, y: float, across: Callable[[float], float]) -> list[str]:
    drawn = []
    if not math.isnan(row.ci_low):
        x1, x2 = f"{across(row.ci_low):.1f}", f"{across(row.ci_high):.1f}"
        drawn = [f'<line class="c{number} bar" x1="{x1}" x2="{x2}" y1="{y:g}" y2="{y:g}"/>']
    return [
        f'<text class="ink" x="32" y="{y + 4:g}">{escape(row.system)}</text>',
        *drawn,
        f'<circle class="c{number}" cx="{across(row.value):.1f}" cy="{y:g}" r="4.5"/>',
        f'<text class="soft" x="{FIGURE}" y="{y + 4:g}">{in_words(row)}</text>',
    ]


def _style(chapters: int) -> str:
    def rules(mode: int) -> str:
        inks = {name: shades[mode] for name, shades in INKS.items()}
        lines = [
            f".page{{fill:{inks['page']};stroke:{inks['edge']}}}",
            f".grid{{stroke:{inks['grid']}}}",
            f".ink{{fill:{inks['ink']}}}",
            f".soft{{fill:{inks['soft']}}}",
        ]
        for number in range(chapters):
            colour = COLOURS[number % len(COLOURS)][mode]
            lines.append(f".c{number}{{fill:{colour};stroke:none}}.bar.c{number}{{stroke:{colour}}}")
        return "".join(lines)

    fonts = "-apple-system,BlinkMacSystemFont,'Segoe UI','Noto Sans',Helvetica,Arial,sans-serif"
    return (
        f"<style>text{{font:13px {fonts};font-variant-numeric:tabular-nums}}.strong{{font-weight:600}}"
        f".bar{{stroke-width:3;stroke-linecap:round;stroke-opacity:.55}}\n{rules(0)}\n"
        f"@media (prefers-color-scheme:dark){{{rules(1)}}}</style>"
    )
