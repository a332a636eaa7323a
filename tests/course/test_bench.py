"""Benchmarks that are kept: at once, in place of their older rows, and of nobody else's."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CourseError
from common.settings import repository_root
from course import bench, result_files
from course.bench import FIELDS, SAVED, Bench, main, merged, read_saved, save
from course.benchmarks import evaluation
from course.result_files import MADE_BY

COMMIT = "0123456789abcdef-dirty"
HEADER = "name,ours,peer,unit,our_value,peer_value,ratio,command,commit,hardware"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of results, on a machine that is always the same."""
    monkeypatch.setattr(result_files, "repository_root", lambda: tmp_path)
    monkeypatch.setattr(result_files, "hardware", lambda: "a machine, 2 cores")
    monkeypatch.setattr(bench, "checkout_commit", lambda: COMMIT)
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def made_up_row(name: str, our_value: float = 30.0, **more: Any) -> dict[str, Any]:
    return dict(zip(FIELDS, (name, "x, y", "z", "docs/s", our_value, 10.0, our_value / 10), strict=True)) | more


def made_up(monkeypatch: pytest.MonkeyPatch, **benchmarks: Any) -> None:
    monkeypatch.setattr(bench, "import_module", {"made_up": SimpleNamespace(**benchmarks)}.__getitem__)
    monkeypatch.setattr(bench, "BENCHMARKS", {name: f"made_up:{name}" for name in benchmarks})


def table(*names: str, value: float = 30.0) -> pd.DataFrame:
    made = dict(zip(MADE_BY, ("a command", "c0ffee", "a machine"), strict=True))
    return pd.DataFrame([made_up_row(name, value) | made for name in names], columns=[*FIELDS, *MADE_BY])


def test_rows_are_kept_before_the_next_benchmark_begins(folder, monkeypatch, capsys):
    seen = []

    def second() -> list[dict[str, Any]]:
        seen.append((folder / SAVED).read_text())
        raise KeyboardInterrupt

    made_up(monkeypatch, first=lambda: [made_up_row("first, 9 docs", cosine=0.99, note="besides")], second=second)
    with pytest.raises(KeyboardInterrupt):
        main(Bench(save=True, json=True))
    kept = '"first, 9 docs","x, y",z,docs/s,30.0,10.0,3.0,python -m course bench first --save'
    assert seen == [f'{HEADER}\n{kept},0123456789ab,"a machine, 2 cores"\n']
    assert (folder / SAVED).read_text() == seen[0]
    assert '"cosine": 0.99' in capsys.readouterr().out


def test_nothing_is_kept_unless_asked(folder, monkeypatch):
    made_up(monkeypatch, first=lambda: [made_up_row("first")])
    main(Bench())
    assert list(folder.iterdir()) == []


def test_a_file_that_cannot_be_read_stops_before_anything_runs(folder, monkeypatch):
    made_up(monkeypatch, first=lambda: pytest.fail("it ran"))
    (folder / SAVED).write_text(HEADER.replace("ratio,", "") + "\n")
    with pytest.raises(CourseError, match=r"benchmarks\.csv: column 'ratio' is missing"):
        main(Bench(save=True))


def test_other_rows_stay_to_the_byte(folder):
    shutil.copy(repository_root() / "results" / SAVED, folder)
    before = (folder / SAVED).read_text().splitlines()
    save(
        "mining",
        [made_up_row("mining, 3 x 4"), made_up_row("mining, 5 x 6"), made_up_row("mining, 7 x 8")],
        folder,
        COMMIT,
    )
    save("unheard-of", [made_up_row("unheard-of")], folder, None)
    after = (folder / SAVED).read_text().splitlines()
    others = [line for line in before if not line.startswith('"mining')]
    place = next(number for number, line in enumerate(before) if line.startswith('"mining'))
    assert [line for line in after[:-1] if not line.startswith('"mining')] == others
    mining = [line.split('"')[1] for line in after[place : place + 3]]
    assert mining == ["mining, 3 x 4", "mining, 5 x 6", "mining, 7 x 8"]
    assert after[-1].startswith("unheard-of,") and ",uncommitted," in after[-1]


def test_a_benchmark_has_its_name_to_itself():
    saved = table("training, old size", "training-large", "trainings, one", "reranker-training", "renamed", value=1.0)
    new = table("training, new size", "renamed", value=2.0)
    found = merged(saved, new, "training")
    assert found["name"].tolist() == [
        "training, new size",
        "renamed",
        "training-large",
        "trainings, one",
        "reranker-training",
    ]
    assert found["our_value"].tolist() == [2.0, 2.0, 1.0, 1.0, 1.0]


NAMES = st.sampled_from(["a", "b", "ab", "c"]).flatmap(lambda key: st.sampled_from([key, f"{key}, 1", f"{key}, 2"]))


@given(st.lists(NAMES, unique=True), st.sampled_from("abc"), st.integers(1, 3))
def test_merging_replaces_and_never_piles_up(names, key, count):
    new = table(*[f"{key}, {number}" for number in range(count)], value=5.0)
    found = merged(table(*names), new, key)
    mine = [name for name in names if name.partition(", ")[0] == key]
    before = names[: names.index(mine[0])] if mine else names
    after = [name for name in names[len(before) :] if name not in mine]
    assert found["name"].tolist() == [*before, *new["name"], *after]
    assert merged(found, new, key).equals(found), "a second run changes nothing"


def test_rows_come_back_as_they_were_kept(folder):
    assert read_saved(folder).empty
    save("a", [made_up_row("a", 19186.84), made_up_row("a, small", 0.5)], folder, COMMIT)
    kept = read_saved(folder)
    assert list(kept.columns) == [*FIELDS, *MADE_BY]
    assert kept["our_value"].tolist() == [19186.84, 0.5] and kept["ours"].tolist() == ["x, y"] * 2


def test_large_figures_are_shown_in_full(monkeypatch, capsys):
    made_up(monkeypatch, first=lambda: [made_up_row("first", 19186.8444)])
    main(Bench())
    assert "19,186.844" in capsys.readouterr().out


def test_the_evaluation_benchmark_compares_equal_work():
    measured = evaluation.main(queries=30, hits=20, rounds=2)
    name = "evaluation, 30 queries x 20 hits"
    assert [row["name"] for row in measured] == [name, f"{name}, without Judged@k"]
    assert bench.BENCHMARKS["evaluation"] == "course.benchmarks.evaluation:main"
    for row, metrics in zip(measured, (12, 11), strict=True):
        assert set(FIELDS) <= set(row) and row["note"].startswith(f"{metrics} metrics, 9 judgements a query")
        assert row["our_value"] > 0 < row["peer_value"] and row["ratio"] > 0
        assert row["difference"] < 1e-12
    with pytest.raises(CourseError, match="at least one query"):
        evaluation.main(queries=0)


def test_the_evaluation_benchmark_has_no_ties_and_no_product_twice():
    hits, names, judgements = evaluation.made_up_case(40, 100)
    assert (np.diff(hits.scores) < 0).all()
    assert all(len(set(ids)) == 100 for ids in hits.ids)
    assert len(names) == 40 and judgements.groupby("query_id").size().tolist() == [25] * 40
    assert not judgements.duplicated(["query_id", "product_id"]).any()
