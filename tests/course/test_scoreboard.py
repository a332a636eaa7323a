"""The board: which runs it shows, in which order, and how."""

from __future__ import annotations

import json
import os

import pandas as pd
import pytest

from common.artifacts import Artifacts
from common.errors import CourseError
from common.scoreboard import COLUMNS, save_scoreboard
from course.scoreboard import Scoreboard, collect, main, show

CHAPTERS = ("chapter01_baseline", "chapter02_two_tower")


def rows_of(chapter: str, system: str, **metrics: float) -> pd.DataFrame:
    shared = {"chapter": chapter, "system": system, "source": "pocket_shop", "split": "test", "n_queries": 250}
    values = [
        {**shared, "metric": metric.replace("_", "@"), "value": value, "ci_low": value - 0.1, "ci_high": value + 0.1}
        for metric, value in metrics.items()
    ]
    return pd.DataFrame(values).assign(seconds=1.25)


def write_rows(digest: str, chapter: str, rows: pd.DataFrame, profile: str = "pocket", step: str = "evaluate") -> None:
    artifacts = Artifacts("pocket_shop", digest, profile)
    with artifacts.new_run(chapter, step, config={}) as folder:
        save_scoreboard(folder, rows)


def test_json_is_the_rows_of_every_chapters_current_run_and_nothing_else(artifacts_root, capsys):
    write_rows("aa", CHAPTERS[1], rows_of("2", "towers", nDCG_10=0.7))
    write_rows("aa", CHAPTERS[0], rows_of("1", "stale", nDCG_10=0.1))
    write_rows("aa", CHAPTERS[0], rows_of("1", "bm25", nDCG_10=0.5, R_5=0.25).assign(note="dropped"))
    main(Scoreboard(json=True))
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    assert captured.err == ""
    names = [(row["system"], row["metric"]) for row in rows]
    assert names == [("bm25", "nDCG@10"), ("bm25", "R@5"), ("towers", "nDCG@10")]
    assert all(tuple(row) == COLUMNS for row in rows)
    assert rows[0] | {"value": 0.5, "ci_low": 0.4, "n_queries": 250, "seconds": 1.25} == rows[0]


def test_every_step_reports_in_the_order_of_the_board(artifacts_root):
    """By chapter; in it evaluate, then flat steps, then those in folders, by name. Old runs do not count."""
    steps = ("outfits.compatibility", "studies.real_photos", "retrieval", "categories.classifier", "evaluate", "choose")
    for step in steps:
        write_rows("aa", CHAPTERS[1], rows_of("2", f"old {step}", AUC=0.1), step=step)
        write_rows("aa", CHAPTERS[1], rows_of("2", step, AUC=0.5), step=step)
    with Artifacts("pocket_shop", "aa").new_run(CHAPTERS[1], "train", config={}):
        pass
    write_rows("aa", CHAPTERS[0], rows_of("1", "first", nDCG_10=0.5), step="studies.last")
    flat, nested = ["choose", "retrieval"], ["categories.classifier", "outfits.compatibility", "studies.real_photos"]
    assert collect("pocket_shop", "pocket")["system"].tolist() == ["first", "evaluate", *flat, *nested]


def test_missing_figures_are_null_in_json(artifacts_root, capsys):
    write_rows("aa", CHAPTERS[0], rows_of("1", "bm25", nDCG_10=0.5).assign(ci_low=float("nan"), seconds=float("nan")))
    main(Scoreboard(json=True))
    [row] = json.loads(capsys.readouterr().out)
    assert row["ci_low"] is None and row["seconds"] is None and row["value"] == 0.5


@pytest.mark.parametrize("as_json", [False, True])
def test_an_empty_board_says_what_to_run(artifacts_root, capsys, as_json):
    with pytest.raises(SystemExit) as stopped:
        main(Scoreboard(json=as_json))
    captured = capsys.readouterr()
    assert stopped.value.code == 1
    assert captured.out == ("[]\n" if as_json else "")
    assert captured.err.endswith("Fill the scoreboard with: python -m course run\n")
    with pytest.raises(SystemExit):
        main(Scoreboard(profile="smoke", json=as_json))
    assert "python -m course run --profile smoke" in capsys.readouterr().err


def test_which_catalogue_and_profile(artifacts_root):
    write_rows("bb", CHAPTERS[0], rows_of("1", "older", nDCG_10=0.1))
    write_rows("aa", CHAPTERS[0], rows_of("1", "newer", nDCG_10=0.2))
    write_rows("cc", CHAPTERS[0], rows_of("1", "smoke", nDCG_10=0.3), profile="smoke")
    pointer = artifacts_root / "pocket_shop@bb" / "pocket" / CHAPTERS[0] / "evaluate" / "current.json"
    os.utime(pointer, (1, 1))
    assert collect("pocket_shop", "pocket")["system"].tolist() == ["newer"]
    assert collect("pocket_shop@bb", "pocket")["system"].tolist() == ["older"]
    assert collect("pocket_shop", "smoke")["system"].tolist() == ["smoke"]
    assert collect("pocket", "pocket") is None, "a source is matched whole"
    assert collect("pocket_shop@dd", "pocket") is None


def test_a_run_without_judgements_has_no_rows(artifacts_root):
    with Artifacts("pocket_shop", "aa").new_run(CHAPTERS[0], "evaluate", config={}):
        pass
    assert collect("pocket_shop", "pocket") is None


def test_a_table_that_lacks_a_column_is_named(artifacts_root):
    with Artifacts("pocket_shop", "aa").new_run(CHAPTERS[0], "evaluate", config={}) as folder:
        rows_of("1", "bm25", nDCG_10=0.5).drop(columns="ci_low").to_parquet(folder / "scoreboard.parquet")
    with pytest.raises(CourseError, match=r"scoreboard\.parquet: column 'ci_low' is missing"):
        collect("pocket_shop", "pocket")


def test_the_table_is_a_line_a_system(artifacts_root, capsys):
    bm25 = rows_of("1", "bm25", nDCG_10=0.5, R_5=0.111, R_10=0.25)
    fused = rows_of("1", "fusion [rrf]", nDCG_10=0.625, R_5=0.222, R_10=0.3)
    images = rows_of("3", "clip", AUC=0.9).assign(split="val")
    show(pd.concat([bm25, fused, images], ignore_index=True))
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if "│" in line]
    assert [name for line in lines for name in ("bm25", "fusion [rrf]", "clip") if name in line] == [
        "bm25",
        "fusion [rrf]",
        "clip",
    ]
    assert "0.625 [0.525, 0.725]" in out and "pocket_shop, test queries" in out and "pocket_shop, val queries" in out
    assert "R@10" in out and "R@5" not in out and "0.111" not in out, "the depths in between are left to --json"
    assert "…" not in out
