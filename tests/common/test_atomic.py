"""Half-written files and folders: never seen by a reader, whatever happened to the writer.

The kills are real: see ``kill_at_pause`` in conftest.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from common.atomic import ABANDONED_AFTER_SECONDS, FLUSH_ONE_BY_ONE, atomic_folder, atomic_write, read_json, write_json
from common.errors import CourseError


def staging_left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_write_replaces_the_old_file_and_keeps_the_name_that_libraries_look_at(tmp_path):
    target = tmp_path / "deep" / "vectors.npy"
    for value in (1, 2):
        with atomic_write(target) as temporary:
            assert temporary.name == "vectors.npy" and temporary != target
            np.save(temporary, np.full(3, value))
    assert np.load(target).tolist() == [2, 2, 2]
    assert [path.name for path in target.parent.iterdir()] == ["vectors.npy"]


def test_an_error_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="boom"), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("boom")
    with pytest.raises(CourseError, match=r"a\.txt: nothing was written"), atomic_write(target):
        pass
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_json_round_trip_and_its_errors(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"é": [1, None]})
    assert read_json(target) == {"é": [1, None]}
    assert "é" in target.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(target, float("nan"))
    assert read_json(target) == {"é": [1, None]}
    target.write_text('{"half": ')
    with pytest.raises(CourseError, match=r"a\.json: not valid JSON"):
        read_json(target)
    with pytest.raises(CourseError, match=r"b\.json: there is no such file"):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize("files", [0, 3, FLUSH_ONE_BY_ONE + 1])
def test_folder_appears_whole(tmp_path, files):
    target = tmp_path / "catalogue"
    with atomic_folder(target) as staging:
        (staging / "inner").mkdir()
        for number in range(files):
            (staging / "inner" / f"{number}.txt").write_text("x")
        assert not target.exists()
    assert len(list((target / "inner").iterdir())) == files
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue"]


def test_a_complete_folder_is_kept_and_an_error_leaves_none(tmp_path):
    target = tmp_path / "catalogue"
    with pytest.raises(RuntimeError), atomic_folder(target) as staging:
        (staging / "a").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        with atomic_folder(target) as staging:
            (staging / "a").write_text(text)
    assert (target / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue"]
    with pytest.raises(CourseError, match="a file stands where a folder"), atomic_folder(target / "a"):
        pass


@pytest.mark.parametrize(
    "before_pause",
    ["pass", "temporary.write_text('ha')", "temporary.write_text('new'); atomic.os.replace = lambda *_: pause()"],
    ids=["nothing written", "half written", "written, not yet moved"],
)
@pytest.mark.parametrize("old", [None, "old"])
def test_killed_while_writing_a_file(tmp_path, kill_at_pause, before_pause, old):
    target = tmp_path / "a.txt"
    if old:
        target.write_text(old)
    script = f"""
    from common import atomic
    with atomic.atomic_write(folder / "a.txt") as temporary:
        {before_pause}
        if atomic.os.replace.__name__ != "<lambda>":
            pause()
    """
    kill_at_pause(script, tmp_path)
    assert (target.read_text() if target.exists() else None) == old
    assert len(staging_left(tmp_path)) == 1, "the child was not killed inside the write"
    with atomic_write(target) as temporary:
        temporary.write_text("next")
    assert target.read_text() == "next"
    assert staging_left(tmp_path) == []


@pytest.mark.parametrize("written", [0, 2, 5])
@pytest.mark.parametrize("last_moment", [False, True])
def test_killed_while_writing_a_folder(tmp_path, kill_at_pause, written, last_moment):
    script = f"""
    from common import atomic
    with atomic.atomic_folder(folder / "index") as staging:
        for number in range({written}):
            (staging / f"{{number}}.bin").write_bytes(b"x" * 1000)
        if {last_moment}:
            atomic.os.rename = lambda *_: pause()
        else:
            pause()
    """
    kill_at_pause(script, tmp_path)
    assert not (tmp_path / "index").exists()
    assert len(staging_left(tmp_path)) == 1
    with atomic_folder(tmp_path / "index") as staging:
        (staging / "whole").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_killed_after_the_move_the_new_one_is_whole(tmp_path, kill_at_pause):
    kill_at_pause(
        """
        from common import atomic
        move = atomic.os.replace
        atomic.os.replace = lambda *names: (move(*names), pause())
        with atomic.atomic_write(folder / "a.txt") as temporary:
            temporary.write_text("new")
        """,
        tmp_path,
    )
    assert (tmp_path / "a.txt").read_text() == "new"


def test_only_the_staging_of_the_dead_is_swept(tmp_path, kill_at_pause):
    with atomic_write(tmp_path / "a") as alive:
        alive.write_text("x")
        kill_at_pause("from common import atomic\nwith atomic.atomic_write(folder / 'b'):\n    pause()", tmp_path)
        mine, foreign, forgotten = alive.parent, tmp_path / ".staging-0000-1-a", tmp_path / ".staging-0000-1-b"
        foreign.mkdir()
        forgotten.mkdir()
        past = time.time() - ABANDONED_AFTER_SECONDS - 60
        os.utime(forgotten, (past, past))
        with atomic_write(tmp_path / "c") as other:
            other.write_text("x")
        assert set(staging_left(tmp_path)) == {mine.name, foreign.name}
    assert (tmp_path / "a").read_text() == "x"
