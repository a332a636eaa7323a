"""The CSVs of results: what is wrong with one is said with file and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.cli import run_step
from common.errors import CourseError
from course import results
from course.__main__ import main as course_main
from course.results import read_rows

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


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit):
        run_step(course_main, ["results", "--help"])
    out = capsys.readouterr().out
    assert all(flag in out for flag in ("SOURCE ...", "--page", "--profile")) and "None" not in out
