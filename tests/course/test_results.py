"""The CSVs of results: what is wrong with one is said with file and column."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd
import pytest
import tyro

from chapter04_catalogue_reranker.evaluate import CHAPTER, EvaluateConfig
from chapter04_catalogue_reranker.studies.real_text import RealTextConfig
from common.artifacts import Artifacts
from common.cli import run_step
from common.errors import CourseError
from common.scoreboard import COLUMNS, save_scoreboard
from common.settings import repository_root
from course import result_files, results
from course.__main__ import main as course_main
from course.result_files import read_rows

GOOD = "name,value,low,note\na,0.5,0.25,first\nb,1e-3,,second\n"


def read(path: Path, text: str | bytes):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_rows(path, ["name", "note"], ["value", "low"], optional=["low"], key=["name"])


def test_texts_and_numbers_are_read(tmp_path):
    rows = read(tmp_path / "a.csv", GOOD)
    assert list(rows.columns) == ["name", "note", "value", "low"]
    assert rows["value"].tolist() == [0.5, 0.001] and rows["note"].tolist() == ["first", "second"]
    assert rows["low"][0] == 0.25 and rows["low"].isna().tolist() == [False, True]
    quoted = read(tmp_path / "a.csv", 'name,value,low,note\n"x, ""y""\nz",1,,NA\n')
    assert quoted["name"][0] == 'x, "y"\nz' and quoted["note"][0] == "NA", "NA is a text like others"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,value,low\na,1,1\n", "column 'note' is missing; there are: name, value, low"),
        (GOOD.replace("0.5", "half"), "column 'value' has 'half' in row 2; a number belongs there"),
        (GOOD.replace("0.25", "nan"), "column 'low' has 'nan' in row 2"),
        (GOOD.replace("1e-3", "inf"), "column 'value' has 'inf' in row 3"),
        (GOOD.replace("1e-3", " "), "column 'value' is empty in row 3"),
        (GOOD.replace("second", ""), "column 'note' is empty in row 3"),
        (GOOD.replace("b,", "a,"), "column 'name': row 3 is there before ('a'); keep one"),
        (GOOD.replace(",second", ""), "column 'note' is missing in row 3; each row needs 4 cells"),
        (GOOD.replace("second", "second,more"), "there are too many cells in row 3"),
        (GOOD.replace(",first", ",first,").replace(",second", ",second,"), "there are too many cells in row 2"),
        ("", "not a CSV table"),
        (b"name,value\n\xff,1\n", "not a CSV table in UTF-8"),
        ('name,value\n"a"b,1\n', "not a CSV table"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(CourseError) as error:
        read(tmp_path / "my.csv", text)
    assert str(error.value).startswith(f"{tmp_path / 'my.csv'}: {message}")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CourseError, match="there is no such file"):
        read_rows(tmp_path / "my.csv", ["name"], [], key=["name"])


def test_the_page_alone_needs_no_evaluation(artifacts_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(result_files, "repository_root", lambda: tmp_path)
    run_step(course_main, ["results", "--page"])
    assert capsys.readouterr().out == "results/README.md\n"
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["README.md"]
    with pytest.raises(SystemExit):
        run_step(course_main, ["results", "wands"])
    assert "nothing was measured on wands" in capsys.readouterr().err


def measured(digest: str, step: str, config: Any, *systems: str, value: float = 0.123456789) -> None:
    """A run of chapter 4 that measured these systems on abo."""
    row = dict.fromkeys(COLUMNS, value) | {"chapter": CHAPTER, "source": "abo", "n_queries": 10}
    rows = pd.DataFrame([row | {"system": name, "split": "val", "metric": "R@1"} for name in systems])
    with Artifacts("abo", digest, "pocket").new_run(CHAPTER, step, config=config) as folder:
        save_scoreboard(folder, rows)


def test_every_row_has_the_command_of_the_run_that_measured_it(artifacts_root, tmp_path, monkeypatch):
    """Of each step the newest run counts, whatever the digest of its catalogue."""
    monkeypatch.setattr(result_files, "repository_root", lambda: tmp_path)
    measured("aa", "studies.real_text", RealTextConfig(epochs=8), "reranker", "gone")
    measured(
        "bb", "studies.real_text", {**asdict(RealTextConfig(epochs=7, text="my encoder", seed=3)), "x": 1}, "reranker"
    )
    measured("aa", "evaluate", EvaluateConfig(catalogue="abo"), "learned ranker")
    results.main(results.Results(sources=("abo",)))
    kept = pd.read_csv(tmp_path / "results" / "abo.csv")
    assert list(kept.columns) == [*COLUMNS, "command", "seed", "commit", "hardware"]
    assert kept["system"].tolist() == ["learned ranker", "reranker"] and kept["seed"].tolist() == [0, 3]
    assert kept["command"].tolist() == [
        f"python -m {CHAPTER}.evaluate --catalogue abo --split test --gains linear --seed 0",
        f"python -m {CHAPTER}.studies.real_text --catalogue abo --text 'my encoder' --epochs 7 --batch-size 256 "
        "--learning-rate 0.001 --held-out 0.1 --seed 3",
    ], "what a run records beside its settings is no flag"
    assert kept["value"].tolist() == [0.123457] * 2, "six decimals"
    assert kept["hardware"].str.contains("cores").all()


def reporting_steps() -> list[str]:
    """The modules that save scoreboard rows, and the chapters' evaluations."""
    root = repository_root()
    modules = [path for path in root.glob("chapter*/**/*.py") if "save_scoreboard(" in path.read_text()]
    steps = [path for path in modules if "def main(" in path.read_text()] + [*root.glob("chapter*/evaluate.py")]
    return sorted({".".join(path.relative_to(root).with_suffix("").parts) for path in steps})


@pytest.mark.parametrize("module", reporting_steps())
def test_the_command_of_every_step_gives_the_same_settings_again(artifacts_root, module):
    chapter, _, step = module.partition(".")
    config = get_type_hints(import_module(module).main)["config"](seed=5)
    artifacts = Artifacts("toy", "aa", "pocket")
    with artifacts.new_run(chapter, step, config=config):
        pass
    _, _, name, *flags = shlex.split(results.made_by(artifacts.current(chapter, step).manifest)["command"])
    assert name == module and tyro.cli(type(config), args=flags) == config


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit):
        run_step(course_main, ["results", "--help"])
    out = capsys.readouterr().out
    assert all(flag in out for flag in ("SOURCE ...", "--page", "--profile")) and "None" not in out
