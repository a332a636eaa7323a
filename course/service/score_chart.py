"""Write the scoreboard as HTML: a chart of every system's figure with its interval, and the same as a table."""

from __future__ import annotations

from math import ceil, isfinite
from typing import TYPE_CHECKING

from course.service.cards import escaped

if TYPE_CHECKING:
    import pandas as pd

SMALLEST_AXIS = 0.1
KNOWN_CHAPTERS = 4
"""Number of chapters that have a colour in page.css."""
HEADERS = ("Chapter", "System", "Value", "95% interval", "Queries", "Seconds")


def metrics(board: pd.DataFrame) -> list[str]:
    """Return the metrics of the board, in its order; the first is the headline."""
    return list(dict.fromkeys(board["metric"]))


def chart_and_table(board: pd.DataFrame, metric: str) -> str:
    """Return chart and table of all systems with that metric, in the order of `board` (a scoreboard)."""
    rows = board[board["metric"] == metric].dropna(subset=["value"])
    return "".join(
        f'<section class="board">{_chart(group, metric, f"{source}, {split} queries")}{_table(group, metric)}</section>'
        for (source, split), group in rows.groupby(["source", "split"], sort=False)
    )


def chapter_name(chapter: str) -> str:
    """Turn "chapter02_two_tower" into "2, two tower"."""
    number, _, name = chapter.removeprefix("chapter").partition("_")
    return f"{number.lstrip('0')}, {name.replace('_', ' ')}" if name else chapter


def _chart(rows: pd.DataFrame, metric: str, where: str) -> str:
    highest = max(
        rows["value"].max(), rows["ci_high"].max(), SMALLEST_AXIS
    )  # without an interval it is NaN, which never wins
    step = 0.1 if highest <= 0.5 else 0.2
    steps = ceil(highest / step - 1e-9)
    scale = 100 / (steps * step)
    numbers = {chapter: position for position, chapter in enumerate(dict.fromkeys(rows["chapter"]), start=1)}
    best = rows["value"].max()
    lines = []
    for row in rows.itertuples():
        interval = ""
        if isfinite(row.ci_low) and isfinite(row.ci_high):
            left, width = (scale * share for share in (row.ci_low, row.ci_high - row.ci_low))
            interval = f'<i class="whisker" style="left:{left:.2f}%;width:{width:.2f}%"></i>'
        classes = f"c{min(numbers[row.chapter], KNOWN_CHAPTERS)}{' best' if row.value == best else ''}"
        lines.append(
            f'<div class="line {classes}"><span class="system">{escaped(row.system)}</span>'
            f'<span class="track">{interval}<i class="dot" style="left:{scale * row.value:.2f}%"></i></span>'
            f'<span class="figure">{row.value:.3f}</span></div>'
        )
    ticks = "".join(f"<span>{step * number:.1f}</span>" for number in range(steps + 1))
    legend = "".join(
        f'<span class="c{min(number, KNOWN_CHAPTERS)}"><i></i>chapter {escaped(chapter_name(chapter))}</span>'
        for chapter, number in numbers.items()
    )
    label = escaped(f"{metric} on {where}: dots with their 95% intervals; the table below has the figures")
    return (
        f'<h2>{escaped(metric)} <small>{escaped(where)}</small></h2><div class="key" aria-hidden="true">{legend}</div>'
        f'<div class="chart" role="img" aria-label="{label}" style="--step:{100 / steps:.4f}%">{"".join(lines)}'
        f'<div class="line axis"><span></span><span class="ticks">{ticks}</span><span></span></div></div>'
    )


def _table(rows: pd.DataFrame, metric: str) -> str:
    head = "".join(f'<th scope="col">{header}</th>' for header in HEADERS)
    body = []
    for row in rows.itertuples():
        known = isfinite(row.ci_low) and isfinite(row.ci_high)
        cells = (
            f"{row.value:.4f}",
            f"{row.ci_low:.3f} to {row.ci_high:.3f}" if known else "",
            f"{row.n_queries:,}",
            f"{row.seconds:.2f}" if isfinite(row.seconds) else "",
        )
        figures = "".join(f"<td>{cell}</td>" for cell in cells)
        name = f'<th scope="row">{escaped(row.system)}</th>'
        body.append(f"<tr><td>{escaped(chapter_name(row.chapter))}</td>{name}{figures}</tr>")
    label = escaped(f"{metric} of every system")
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
