"""Render the page of measured results from the CSVs beside it, and from nothing else.

This module adds what a CSV cannot say: what each source is, which of its metrics are the headline, and what was not
measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from chapter01_baseline.studies.index_growth import read_points, summary
from common.atomic import atomic_write
from common.errors import CourseError
from common.scoreboard import COLUMNS
from course import bench
from course.result_files import MADE_BY, read_rows
from course.results_chart import in_words, interval_chart
from course.results_sources import SEARCH, SOURCES, Source, Task

if TYPE_CHECKING:
    import pandas as pd

PAGE = "README.md"
GROWTH = "index_at_scale.csv"
"""File in the folder of results: what `chapter01_baseline.studies.index_at_scale` measured, for every index and
setting."""
CHARTED = "pocket_shop"
"""The source that has a picture."""
HEADLINE = "nDCG@10"

CHAPTERS = {
    "chapter01_baseline": "Chapter 1: baseline",
    "chapter02_two_tower": "Chapter 2: two towers",
    "chapter03_multimodal": "Chapter 3: multimodal",
    "chapter04_catalogue_reranker": "Chapter 4: catalogue reranker",
}
NUMBERS = ("value", "ci_low", "ci_high", "n_queries", "seconds")
MAY_BE_EMPTY = ("ci_low", "ci_high", "seconds")
SCORED = ("chapter", "system", "split", "metric")
LESS_IS_BETTER = ("GB", "MB", "ms", "s", "seconds")
"""First words of units of which less is better."""

OPENING = """\
# Measured results

What every system of the course reached: for each source of products and each chapter the headline figures, on how many
queries, and the command, commit and hardware behind them. At the end: [our fast paths beside public tools and plain
code](#benchmarks), and [what no figure here stands for](#only-checked-on-fixtures).

The page is rendered from the CSV files beside it by `python -m course results --page`. Rendering measures nothing, and
a test fails where page and files differ. The files hold more metrics than the tables; `python -m course results SOURCE`
writes them anew from the newest evaluations, `python -m course bench --save` the benchmarks.

Figures are rounded to three decimals. In brackets: the 95% bootstrap interval over the queries, where one was computed.
A "query" is whatever was asked: a search, a photo, a title, a pair. Where the metrics of a table were measured on
different numbers of queries, these are given in the order of the columns."""

FIXTURES = """\
## Only checked on fixtures

No figure above stands for any of this. It runs through the same code in the tests, but only on small files made in the
public schema, or with models of random weights:

- `abo`: the pictures. The texts are the real ones.
- `esci`: all of it but 16 real judged rows.
- `wands`, `ms_marco`, `shopify_catalogue`: all of it.
- Chapter 1: the hub's cross-encoder (profile `full`), by a tiny model with random weights.
- Profile `full`, chapter 3: a large CLIP, by ViT-B-32 with random weights: saved to and loaded from a folder, embedded,
  fine-tuned for two steps, indexed, searched.
- Profile `full`, chapter 4: SigLIP2 and BGE with their public weights. Their real sizes train, stop, resume and export
  with random ones.
- A GPU: all rows above were measured on a CPU."""


def write_page(folder: Path) -> list[Path]:
    """Render the CSVs of ``folder`` into its page and picture, and return the files written.

    Raises ``CourseError`` as ``render`` does, before anything is written.
    """
    rendered = render(folder)
    for name, text in rendered.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(text.encode("utf-8"))
    return [folder / name for name in rendered]


def render(folder: Path) -> dict[str, str]:
    """Return the text of every file that is made from the CSVs of ``folder``, by name.

    Raises ``CourseError``, with file and column, for a malformed CSV, rows of another source, half an interval, and a
    system none of whose metrics is shown.
    """
    found = sorted(path.stem for path in folder.glob("*.csv") if path.name not in (bench.SAVED, GROWTH))
    ordered = [name for name in SOURCES if name in found] + [name for name in found if name not in SOURCES]
    files, sections = {}, []
    for name in ordered:
        rows = read_scores(folder / f"{name}.csv")
        charted = rows[rows["metric"] == HEADLINE]
        if name == CHARTED and len(charted):
            title = f"{HEADLINE} on the pocket shop, with 95% intervals"
            files[f"{name}.svg"] = interval_chart(charted.assign(chapter=charted["chapter"].map(_chapter_title)), title)
        sections.append("\n\n".join(_section(name, rows, f"{name}.svg" in files)))
    benchmarks = bench.read_saved(folder)
    if len(benchmarks):
        sections.append("\n\n".join(_benchmarks(benchmarks)))
    if (folder / GROWTH).is_file():
        sections.append("\n\n".join(_growth(folder / GROWTH)))
    return {PAGE: "\n\n".join([OPENING, *sections, FIXTURES]) + "\n"} | files


def read_scores(path: Path) -> pd.DataFrame:
    """Read the rows of one source: the columns of the scoreboard, and how they were made."""
    texts = [column for column in (*COLUMNS, *MADE_BY) if column not in NUMBERS]
    rows = read_rows(path, texts, NUMBERS, optional=MAY_BE_EMPTY, key=SCORED)
    foreign = rows["source"][rows["source"] != path.stem]
    if len(foreign):
        raise CourseError(f"{path}: column 'source' has {foreign.iloc[0]!r}; the file holds rows of {path.stem} only")
    low, high = rows["ci_low"], rows["ci_high"]
    wrong = rows[(low.isna() != high.isna()) | (low > high)]
    if len(wrong):
        named = f"{wrong['metric'].iloc[0]} of {wrong['system'].iloc[0]!r}"
        raise CourseError(f"{path}: column 'ci_high' makes no interval with ci_low for {named}; give both or neither")
    shown = {metric for task in _source(path.stem).tasks for metric in task.metrics}
    for (chapter, system), group in rows.groupby(["chapter", "system"], sort=False):
        if shown.isdisjoint(group["metric"]):
            raise CourseError(
                f"{path}: column 'metric' has nothing of {system!r} ({chapter}) that the page shows; name one of its "
                "metrics in SOURCES of course/results_sources.py"
            )
    return rows


def _source(name: str) -> Source:
    return SOURCES.get(name, Source(name, "", (SEARCH,)))


def _chapter_title(folder: str) -> str:
    return CHAPTERS.get(folder, folder)


def _section(name: str, rows: pd.DataFrame, charted: bool) -> Iterator[str]:
    source = _source(name)
    yield f"## {_plain(source.title)}"
    yield f"{source.about} All metrics: [{name}.csv]({name}.csv).".strip()
    if charted:
        yield f"![{HEADLINE} of every system with its interval]({name}.svg)"
    for chapter, of_chapter in rows.groupby("chapter", sort=False):
        yield f"### [{_plain(_chapter_title(chapter))}](../{chapter}/README.md)"
        for task in source.tasks:
            measured = of_chapter[of_chapter["metric"].isin(task.metrics)]
            for split, of_split in measured.groupby("split", sort=False):
                yield f"**{task.title}** (split: {_plain(split)})"
                yield _table(task, of_split)
        yield "\n".join(_provenance(of_chapter))


def _table(task: Task, rows: pd.DataFrame) -> str:
    metrics = [metric for metric in task.metrics if metric in set(rows["metric"])]
    lines = [["system", *map(_plain, metrics), "queries"], ["---", *["---:"] * (len(metrics) + 1)]]
    for system, of_system in rows.groupby("system", sort=False):
        scores = {row.metric: row for row in of_system.itertuples()}
        counts = dict.fromkeys(f"{scores[metric].n_queries:,.0f}" for metric in metrics if metric in scores)
        cells = [in_words(scores[metric]) if metric in scores else "" for metric in metrics]
        lines.append([_plain(system), *cells, " / ".join(counts)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _provenance(rows: pd.DataFrame) -> Iterator[str]:
    for row in rows[list(MADE_BY)].drop_duplicates().itertuples():
        yield f"- `{row.command}`: commit `{row.commit}`, {_plain(row.hardware)}"


def _benchmarks(rows: pd.DataFrame) -> Iterator[str]:
    yield "## Benchmarks"
    yield (
        "Ours beside its peer, both measured in one run on the same machine. Values are medians over rounds. The "
        "ratio, ours over the peer's, is the median of the rounds' own ratios, which need not be the quotient of the "
        "two values; it is that quotient only for the service, the constellation (medians over frames) and the cached "
        f"loss (measured once). All rows: [{bench.SAVED}]({bench.SAVED})."
    )
    lines = [["benchmark", "ours", "peer", "unit", "our value", "peer's value", "ratio"], ["---"] * 4 + ["---:"] * 3]
    for row in rows.itertuples():
        less = " (less is better)" if row.unit.split(" ")[0].strip(",") in LESS_IS_BETTER else ""
        texts = [*map(_plain, (row.name, row.ours, row.peer)), _plain(row.unit) + less]
        lines.append([*texts, bench.figure(row.our_value), bench.figure(row.peer_value), bench.figure(row.ratio)])
    yield "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    yield "\n".join(_provenance(rows))


def _growth(path: Path) -> Iterator[str]:
    points = read_points(path)
    table, first = summary(points), points.iloc[0]
    table["reached"] = table["reached"].map({True: "yes", False: "no"})
    yield "## Indices as they grow"
    yield (
        f"Over generated products, with vectors that stand in for an encoder's: recall of the {first['k']} exact "
        'neighbours of what shoppers write, and of products of other shops ("similar products"); queries a second of '
        f"{first['threads']} threads, {first['batch']:,} at once. Of each index the fastest setting that surely "
        f'reaches {first["target"]} on other queries. Queries a second are medians over the rounds; so is "x Flat", of '
        "the ratios to Flat in the same round, which need not be the quotient of two medians. All settings: "
        f"[{path.name}]({path.name}). [The story](../chapter01_baseline/06_past_one_machine.ipynb)."
    )
    lines = [[*table], ["---" if name in ("queries", "index", "setting") else "---:" for name in table]]
    lines += [[cell if isinstance(cell, str) else bench.figure(cell) for cell in row] for row in table.to_numpy()]
    yield "\n".join(f"| {' | '.join(map(_plain, cells))} |" for cells in lines)
    yield "\n".join(_provenance(points))


def _plain(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))
