"""The page of results says what the CSVs say, today; so does the scoreboard of the front page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from common.errors import CourseError
from common.settings import repository_root
from course import bench, results_page
from course.results_chart import interval_chart
from course.results_page import FIXTURES, GROWTH, SOURCES, read_scores, render, write_page

RESULTS = repository_root() / "results"
FRONT = repository_root() / "README.md"
ORACLES = {"ceiling: text", "ceiling: text and picture"}
"""Of the front page's lines, those that no system reached and no CSV has."""
HALF_A_DIGIT = 0.0005 + 0.0000005 + 1e-9
"""Three decimals on the page, six in the CSV: each was rounded once from the same figure."""
SVG = "{http://www.w3.org/2000/svg}"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def tables(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """Header and lines of every Markdown table."""
    found = re.findall(r"^(\|.*\|)\n\|[ :|-]+\|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
    return [(cells(header), [cells(line) for line in lines.splitlines()]) for header, lines in found]


def scores(source: str, **changes: object) -> pd.DataFrame:
    """Two systems of a source, one row of each."""
    rows = pd.read_csv(RESULTS / "pocket_shop.csv").groupby("system", sort=False).head(1).head(2)
    return rows.assign(source=source, **changes)


@pytest.fixture
def write(tmp_path: Path):
    def written(name: str, rows: pd.DataFrame) -> Path:
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
        return tmp_path / f"{name}.csv"

    return written


def test_the_page_and_its_picture_are_not_stale():
    rendered = render(RESULTS)
    assert set(rendered) == {"README.md", "pocket_shop.svg"}
    for name, text in rendered.items():
        assert (RESULTS / name).read_bytes() == text.encode(), f"results/{name}: run python -m course results --page"


def test_rendering_needs_the_csvs_and_nothing_else(tmp_path):
    for path in RESULTS.glob("*.csv"):
        shutil.copy(path, tmp_path)
    assert [path.name for path in write_page(tmp_path)] == ["README.md", "pocket_shop.svg"]
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in render(tmp_path)} == render(RESULTS)


def test_every_system_and_every_benchmark_stands_on_the_page():
    page = tables(render(RESULTS)["README.md"])
    firsts = [line[0] for _, lines in page for line in lines]
    for name in SOURCES:
        assert set(read_scores(RESULTS / f"{name}.csv")["system"]) <= set(firsts)
    assert set(bench.read_saved(RESULTS)["name"]) <= set(firsts)
    assert all(len(line) == len(header) for header, lines in page for line in lines)


def test_every_headline_metric_is_measured():
    for name, source in SOURCES.items():
        measured = set(read_scores(RESULTS / f"{name}.csv")["metric"])
        assert {metric for task in source.tasks for metric in task.metrics} <= measured, name


def test_the_front_page_says_what_the_csvs_say():
    boards = [(header, lines) for header, lines in tables(FRONT.read_text(encoding="utf-8")) if header[0] == "system"]
    oracles = set()
    for (header, lines), source in zip(boards, ("pocket_shop", "chorus_icecat"), strict=True):
        rows = read_scores(RESULTS / f"{source}.csv").set_index(["system", "metric"])
        for system, *figures in lines:
            if system.strip("*") in ORACLES:
                oracles.add(system.strip("*"))
                continue
            for metric, figure in zip(header[1:], figures, strict=True):
                shown = [float(number) for number in re.findall(r"\d\.\d{3}", figure)]
                kept = rows.loc[(system.strip("*"), metric), ["value", "ci_low", "ci_high"]].tolist()
                assert len(shown) in (1, 3), f"{source}, {system}, {metric}: {figure}"
                assert shown == pytest.approx(kept[: len(shown)], abs=HALF_A_DIGIT, rel=0), (
                    f"{source}: {system}, {metric}"
                )
    assert oracles == ORACLES


def test_what_was_only_checked_on_fixtures_is_what_the_front_page_says():
    (data,) = [lines for header, lines in tables(FRONT.read_text(encoding="utf-8")) if header[-1] == "checked here on"]
    for source, _, checked in data:
        assert (source in FIXTURES) == ("fixtures" in checked), f"{source}: {checked}"
    kept = [read_scores(RESULTS / f"{name}.csv") for name in SOURCES]
    hardware = pd.concat([*kept, bench.read_saved(RESULTS)])["hardware"]
    assert hardware.str.endswith("cores").all(), "a GPU has rows now: say so in the page's last section"


def test_figures_intervals_and_counts(write):
    rows = scores("esci", split="test", chapter="chapter01_baseline").assign(
        system=["with", "without | *"], value=[0.12345, 1], ci_low=[0.1, None], ci_high=[0.2, None], n_queries=[1234, 7]
    )
    page = render(write("esci", rows).parent)
    assert set(page) == {"README.md"}, "there is a picture of one source only"
    assert "| with | 0.123 [0.100, 0.200] | 1,234 |\n" in page["README.md"]
    assert "| without \\| \\* | 1.000 | 7 |\n" in page["README.md"]
    made = rows.iloc[0]
    assert page["README.md"].count(f"- `{made.command}`: commit `{made.commit}`, {made.hardware}\n") == 1


def test_counts_that_differ_stand_in_the_order_of_the_columns(write):
    rows = scores("pocket_shop", system="head", metric=["FITB", "AUC"], n_queries=[251, 1862])
    page = render(write("pocket_shop", rows).parent)["README.md"]
    assert "| system | AUC | FITB | queries |" in page and " | 1,862 / 251 |\n" in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "abo"}, "column 'source' has 'abo'; the file holds rows of esci only"),
        ({"metric": "clicks"}, "column 'metric' has nothing of 'BM25'"),
        ({"value": "high"}, "column 'value' has 'high' in row 2"),
        ({"ci_low": None}, "column 'ci_high' makes no interval with ci_low for nDCG@10 of 'BM25'"),
        ({"ci_low": 0.9}, "column 'ci_high' makes no interval"),
        ({"n_queries": None}, "column 'n_queries' is empty in row 2"),
        ({"commit": ""}, "column 'commit' is empty in row 2"),
        ({"system": "twins"}, "column 'metric': row 3 is there before"),
    ],
)
def test_a_malformed_csv_is_named_with_its_column(write, changes, message):
    path = write("esci", scores("esci").assign(**changes))
    with pytest.raises(CourseError) as error:
        write_page(path.parent)
    assert str(error.value).startswith(f"{path}: {message}")
    assert not (path.parent / "README.md").exists()


@pytest.mark.parametrize("column", ["chapter", "metric", "seconds", "hardware"])
def test_a_missing_column_is_named(write, column):
    path = write("esci", scores("esci").drop(columns=column))
    with pytest.raises(CourseError, match=f"esci.csv: column '{column}' is missing"):
        render(path.parent)


def test_malformed_benchmarks_are_named_too(tmp_path):
    (tmp_path / bench.SAVED).write_text("name,ours\na,b\n")
    with pytest.raises(CourseError, match=r"benchmarks\.csv: column 'peer' is missing"):
        render(tmp_path)


def test_less_is_better_where_it_is(write):
    made = {"ours": "x", "peer": "y", "our_value": 1, "peer_value": 2, "ratio": 0.5, "command": "c", "commit": "d"}
    units = ["GB peak", "ms, median", "queries/s", "share"]
    rows = pd.DataFrame([{"name": unit, "unit": unit, "hardware": "a machine"} | made for unit in units])
    page = render(write("benchmarks", rows).parent)["README.md"]
    assert re.findall(r"\| (\S.*?) \(less is better\)", page.replace("| x | y ", "")) == [
        f"{unit} | {unit}" for unit in units[:2]
    ]
    assert page.count("- `c`: commit `d`, a machine") == 1


def test_the_page_says_which_ratios_are_no_quotients():
    page = render(RESULTS)["README.md"]
    assert "the median of the rounds' own ratios" in page and "the ratios to Flat in the same round" in page
    rows = bench.read_saved(RESULTS)
    quotients = rows[rows["name"].str.contains("^(?:service|constellation|cached-loss)")]
    assert len(quotients) > 2
    for row in quotients.itertuples():
        # A few milliseconds with one decimal give their quotient to a few hundredths.
        assert row.ratio == pytest.approx(row.our_value / row.peer_value, rel=0.03), row.name


def test_indices_stand_size_by_size_and_a_malformed_csv_is_named(tmp_path):
    shutil.copy(RESULTS / GROWTH, tmp_path)
    points = pd.read_csv(tmp_path / GROWTH)
    ((header, lines),) = tables(render(tmp_path)["README.md"])
    assert header[:5] == ["queries", "products", "index", "setting", "recall@10"]
    chosen = points[points["chosen"]].set_index(["queries", "size", "kind"])
    assert len(lines) == len(chosen) and set(points["queries"]) == {line[0] for line in lines}
    for queries, size, kind, _, recall, *_ in lines:
        assert float(recall) == pytest.approx(chosen["recall"][queries, int(size.replace(",", "")), kind], abs=0.0005)
    points.drop(columns="hardware").to_csv(tmp_path / GROWTH, index=False)
    with pytest.raises(CourseError, match=rf"{GROWTH}.*'hardware'"):
        render(tmp_path)


def test_the_picture_shows_every_system_in_its_place():
    rows = read_scores(RESULTS / "pocket_shop.csv")
    rows = rows[rows["metric"] == results_page.HEADLINE]
    drawn = ElementTree.fromstring(interval_chart(rows, "a < b"))
    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    assert texts[0] == "a < b" and set(rows["system"]) <= set(texts)
    points = [float(point.get("cx")) for point in drawn.iter(f"{SVG}circle")]
    bars = [line for line in drawn.iter(f"{SVG}line") if "bar" in line.get("class")]
    assert len(points) == len(bars) == len(rows)
    ends = [(float(bar.get("x1")), float(bar.get("x2"))) for bar in bars]
    assert all(left <= point <= right for (left, right), point in zip(ends, points, strict=True))
    assert sorted(range(len(points)), key=points.__getitem__) == sorted(
        range(len(points)), key=lambda number: (points[number], rows["value"].iloc[number])
    )
    heights = [float(point.get("cy")) for point in drawn.iter(f"{SVG}circle")]
    assert heights == sorted(heights) and heights[-1] < float(drawn.get("height"))


def test_the_axis_holds_all_and_is_never_empty():
    one = pd.DataFrame(
        {"chapter": ["c"], "system": ["<s>"], "value": [0.5], "ci_low": [float("nan")], "ci_high": [float("nan")]}
    )
    drawn = ElementTree.fromstring(interval_chart(one, "t"))
    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    assert texts == ["t", "0.5", "0.6", "c", "<s>", "0.500"]
    (point,) = drawn.iter(f"{SVG}circle")
    assert float(point.get("cx")) == 296
    wide = one.assign(ci_low=0.29, ci_high=0.71)
    texts = [text.text for text in ElementTree.fromstring(interval_chart(wide, "t")).iter(f"{SVG}text")]
    assert texts[1:8] == ["0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8"]
