"""The CSVs of results: what is wrong with one is said with file and column."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pandas as pd
import pytest
import tyro

from chapter03_multimodal import evaluate as evaluate_3
from chapter04_catalogue_reranker import evaluate as evaluate_4
from chapter04_catalogue_reranker.evaluate import CHAPTER, EvaluateConfig
from chapter04_catalogue_reranker.studies.real_text import RealTextConfig
from common.artifacts import Artifacts, write_json
from common.cli import run_step
from common.errors import CourseError, MissingArtifact
from course import results
from course.__main__ import main as course_main
from course.results import read_rows
from course.scoreboard import COLUMNS

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
    monkeypatch.setattr(results, "repository_root", lambda: tmp_path)
    run_step(course_main, ["results", "--page"])
    assert capsys.readouterr().out == "results/README.md\n"
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["README.md"]
    with pytest.raises(SystemExit):
        run_step(course_main, ["results", "wands"])
    assert "no evaluation of wands" in capsys.readouterr().err


@pytest.fixture
def gathering(artifacts_root, tmp_path, monkeypatch) -> Artifacts:
    """Chapter 4's evaluation of abo, in which `real_text` measured all but one row; since then it ran again."""
    monkeypatch.setattr(results, "repository_root", lambda: tmp_path)
    artifacts = Artifacts("abo", "aa", "pocket")
    row = dict.fromkeys(COLUMNS, 0.123456789) | {"chapter": CHAPTER, "source": "abo", "n_queries": 10}
    own = pd.DataFrame([row | {"system": "learned ranker", "split": "test", "metric": "R@10"}])
    titles = pd.DataFrame([row | {"system": name, "split": "val", "metric": "R@1"} for name in ("one", "other")])

    def measure_titles(config: RealTextConfig) -> None:
        with artifacts.new_run(CHAPTER, "studies.real_text", config=asdict(config) | {"digest": "no flag"}) as folder:
            titles.to_parquet(folder / "scoreboard.parquet", index=False)
            pd.DataFrame().to_parquet(folder / "comparisons.parquet")
            write_json(folder / "facts.json", {})

    measure_titles(RealTextConfig(epochs=7, text="my encoder", seed=3))
    inputs = {"studies.real_text": artifacts.current(CHAPTER, "studies.real_text")}
    with artifacts.new_run(CHAPTER, "evaluate", config=EvaluateConfig(catalogue="abo"), inputs=inputs) as folder:
        pd.concat([own, titles]).to_parquet(folder / "scoreboard.parquet", index=False)
    measure_titles(RealTextConfig(epochs=8))
    return artifacts


def test_what_was_only_gathered_has_the_command_of_the_step_that_measured_it(gathering, tmp_path):
    results.main(results.Results(sources=("abo",)))
    kept = pd.read_csv(tmp_path / "results" / "abo.csv").set_index("system")
    own = f"python -m {CHAPTER}.evaluate --catalogue abo --split test --gains linear --seed 0"
    titles = (
        f"python -m {CHAPTER}.studies.real_text --catalogue abo --text 'my encoder' --epochs 7 --batch-size 256 "
        "--learning-rate 0.001 --held-out 0.1 --seed 3"
    )
    assert kept["command"].to_dict() == {"learned ranker": own, "one": titles, "other": titles}
    assert kept["seed"].to_dict() == {"learned ranker": 0, "one": 3, "other": 3}
    assert kept["value"].tolist() == [0.123457] * 3, "six decimals"


def test_a_run_that_was_removed_is_named_with_its_command(gathering):
    for run in (gathering.folder / CHAPTER / "studies.real_text").glob("2*"):
        shutil.rmtree(run)
    with pytest.raises(MissingArtifact, match=rf"no studies.real_text yet(.|\n)*python -m {CHAPTER}\.studies\.real_text"):
        results.main(results.Results(sources=("abo",)))


GATHERED = [(module, step) for module in (evaluate_3, evaluate_4) for step in module.OTHERS]


@pytest.mark.parametrize(("module", "step"), [*GATHERED, (evaluate_3, "evaluate")])
def test_the_command_of_every_step_gives_the_same_settings_again(artifacts_root, module, step):
    main = import_module(f"{module.CHAPTER}.{step}").main
    config = get_type_hints(main)["config"](seed=5)
    artifacts = Artifacts("toy", "aa", "pocket")
    with artifacts.new_run(module.CHAPTER, step, config=config):
        pass
    _, _, name, *flags = shlex.split(results._made_by(artifacts.current(module.CHAPTER, step))["command"])
    assert name == main.__module__ and tyro.cli(type(config), args=flags) == config


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit):
        run_step(course_main, ["results", "--help"])
    out = capsys.readouterr().out
    assert all(flag in out for flag in ("SOURCE ...", "--page", "--profile")) and "None" not in out
