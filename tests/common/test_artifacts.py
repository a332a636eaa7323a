from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import artifacts as module
from common.artifacts import Artifacts, fingerprint, jsonable
from common.errors import CourseError, MissingArtifact

CHAPTER = "chapter01_baseline"


@dataclass(frozen=True)
class Config:
    k: int = 10
    path: Path = Path("a/b")
    seed: int = 7


class Kind(Enum):
    FLAT = "flat"


@pytest.fixture
def shop(tmp_path) -> Artifacts:
    return Artifacts("pocket_shop", "0123456789abcdef", root=tmp_path / "root")


def make_run(shop: Artifacts, step: str = "reindex", text: str = "x", **keywords) -> Path:
    with shop.new_run(CHAPTER, step, config=keywords.pop("config", Config()), **keywords) as folder:
        (folder / "out.txt").write_text(text)
    return shop.current(CHAPTER, step).path


def test_fingerprint_is_the_same_in_another_process():
    value = {"b": [1, 2.5, None, True], "a": "é"}
    code = f"from common.artifacts import fingerprint; print(fingerprint({value!r}))"
    environment = {**os.environ, "PYTHONHASHSEED": "12"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert other.stdout.strip() == fingerprint(value)
    assert len(fingerprint(value)) == 16 and int(fingerprint(value), 16) >= 0


def test_fingerprint_takes_what_configs_hold_and_nothing_vague():
    assert fingerprint(Config()) == fingerprint({"k": 10, "path": "a/b", "seed": 7})
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint((1, 2)) == fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint({"x", "y"}) == fingerprint({"y", "x"})
    assert fingerprint(b"a") != fingerprint(b"b")
    assert jsonable([np.float32(0.5), np.int64(3), Kind.FLAT, {3: 100}]) == [0.5, 3, "flat", {"3": 100}]
    with pytest.raises(TypeError, match="no fingerprint for object"):
        fingerprint({"a": object()})
    with pytest.raises(TypeError, match="no fingerprint for type"):
        fingerprint(Config)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, json_values)
def test_fingerprints_agree_exactly_when_the_json_does(a, b):
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (fingerprint(a) == fingerprint(b)) is same


def test_a_run_becomes_current_with_its_manifest(shop):
    inputs = {"catalogue": _current(shop, make_run(shop, "prepare_data"), "prepare_data")}
    path = make_run(shop, inputs=inputs)
    run = shop.current(CHAPTER, "reindex")
    assert run.path == path and (path / "out.txt").read_text() == "x"
    assert path.parent == shop.root / "pocket_shop@0123456789abcdef" / "pocket" / CHAPTER / "reindex"
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest == run.manifest
    assert manifest["config"] == {"k": 10, "path": "a/b", "seed": 7}
    assert manifest["seed"] == 7
    assert manifest["inputs"] == {"catalogue": inputs["catalogue"].name}
    assert shop.root / run.name == path
    assert manifest["versions"]["numpy"] == np.__version__
    assert manifest["seconds"] >= 0 and {"commit", "started", "code"} <= set(manifest)
    assert str(shop.root) not in (path / "manifest.json").read_text(), "a manifest must not name a machine's path"


def _current(shop, path, step):
    run = shop.current(CHAPTER, step)
    assert run.path == path
    return run


def test_a_reader_keeps_its_run_when_a_newer_one_appears(shop):
    first = make_run(shop, text="first")
    second = make_run(shop, text="second")
    assert first != second and (first / "out.txt").read_text() == "first"
    assert shop.current(CHAPTER, "reindex").path == second


def test_a_failed_run_changes_nothing(shop):
    first = make_run(shop)
    with pytest.raises(RuntimeError), shop.new_run(CHAPTER, "reindex", config=Config()) as folder:
        assert not folder.is_relative_to(first) and folder != first
        (folder / "out.txt").write_text("half")
        raise RuntimeError
    assert shop.current(CHAPTER, "reindex").path == first
    assert sorted(path.name for path in first.parent.iterdir()) == sorted([first.name, "current.json"])


def test_missing_says_which_command_makes_it(shop):
    with pytest.raises(MissingArtifact, match=r"Make it with: python -m chapter01_baseline\.reindex"):
        shop.current(CHAPTER, "reindex")
    smoke = Artifacts("pocket_shop", "0123", "smoke", root=shop.root)
    with pytest.raises(MissingArtifact, match=r"COURSE_PROFILE=smoke python -m chapter01_baseline\.reindex"):
        smoke.current(CHAPTER, "reindex")


def test_a_run_removed_by_hand_is_missing(shop):
    path = make_run(shop)
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    with pytest.raises(MissingArtifact):
        shop.current(CHAPTER, "reindex")
    assert shop.reuse(CHAPTER, "reindex", config=Config()) is None


def test_reuse_only_what_would_come_out_the_same(shop, monkeypatch):
    assert shop.reuse(CHAPTER, "reindex", config=Config()) is None
    make_run(shop, "prepare_data")
    data = shop.current(CHAPTER, "prepare_data")
    path = make_run(shop, inputs={"data": data})
    found = shop.reuse(CHAPTER, "reindex", config=Config(), inputs={"data": data})
    assert found is not None and found.path == path
    assert shop.reuse(CHAPTER, "reindex", config=Config(k=11), inputs={"data": data}) is None
    assert shop.reuse(CHAPTER, "reindex", config=Config()) is None
    make_run(shop, "prepare_data")
    newer = shop.current(CHAPTER, "prepare_data")
    assert shop.reuse(CHAPTER, "reindex", config=Config(), inputs={"data": newer}) is None
    monkeypatch.setattr(module, "code_digest", lambda chapter: "edited since")
    assert shop.reuse(CHAPTER, "reindex", config=Config(), inputs={"data": data}) is None


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A repository of `common`, two chapters and the course, with one module each."""
    monkeypatch.setattr(module, "repository_root", lambda: tmp_path)
    for package in ("common", "chapter01_words", "chapter02_towers", "course"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "model.py").write_text("a = 1")
    module.code_digest.cache_clear()
    yield tmp_path
    module.code_digest.cache_clear()


@pytest.mark.parametrize(
    ("package", "digests_that_change"),
    [
        ("common", {"chapter01_words", "chapter02_towers"}),
        ("chapter01_words", {"chapter01_words", "chapter02_towers"}),
        ("chapter02_towers", {"chapter02_towers"}),
        ("course", set()),
    ],
)
def test_code_digest_sees_an_edit_of_what_a_chapter_can_import(repository, package, digests_that_change):
    def digests() -> dict[str, str]:
        module.code_digest.cache_clear()
        return {name: module.code_digest(name) for name in ("chapter01_words", "chapter02_towers")}

    before = digests()
    (repository / package / "model.py").write_text("a = 2")
    after = digests()
    assert {name for name in before if before[name] != after[name]} == digests_that_change


def test_a_step_runs_again_after_an_edit_in_an_earlier_chapter_and_not_after_one_in_a_later(repository, shop):
    def is_reused(chapter: str) -> bool:
        module.code_digest.cache_clear()
        return shop.reuse(chapter, "evaluate", config={}) is not None

    def edit(chapter: str) -> None:
        (repository / chapter / "new.py").write_text("b = 1")

    for chapter in ("chapter01_words", "chapter02_towers"):
        with shop.new_run(chapter, "evaluate", config={}) as folder:
            (folder / "out.txt").write_text("x")
    assert is_reused("chapter01_words") and is_reused("chapter02_towers")
    edit("chapter02_towers")
    assert is_reused("chapter01_words") and not is_reused("chapter02_towers")
    with shop.new_run("chapter02_towers", "evaluate", config={}) as folder:
        (folder / "out.txt").write_text("x")
    assert is_reused("chapter02_towers")
    edit("chapter01_words")
    assert not is_reused("chapter01_words") and not is_reused("chapter02_towers")


def test_names_cannot_leave_the_root(shop):
    for name in ("../x", "a/b", "", ".hidden", "a b"):
        with pytest.raises(CourseError, match="cannot be part of an artifact path"):
            Artifacts(name, "0123", root=shop.root)
        with pytest.raises(CourseError), shop.new_run(name, "reindex", config={}):
            pass


def test_for_catalogue_and_defaults(artifacts_root, monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    artifacts = Artifacts.for_catalogue(SimpleNamespace(source="esci", digest="ab12"))
    assert artifacts.folder == artifacts_root / "esci@ab12" / "smoke"
    with pytest.raises(CourseError, match="unknown profile"):
        Artifacts("esci", "ab12", "tiny")


KILLED_RUN = """
from common import artifacts, atomic
shop = artifacts.Artifacts("pocket_shop", "0123456789abcdef", "pocket", root=folder)
{patch}
with shop.new_run("chapter01_baseline", "reindex", config={{}}) as run:
    for number in range({files}):
        (run / f"{{number}}.bin").write_bytes(b"x" * 1000)
    {inside}
"""


@pytest.mark.parametrize(
    ("files", "patch", "inside"),
    [
        (0, "", "pause()"),
        (3, "", "pause()"),
        (3, "artifacts.write_json = lambda *_: pause()", ""),
        (3, "atomic.os.rename = lambda *_: pause()", ""),
    ],
    ids=["empty", "files written", "before the manifest", "before the rename"],
)
@pytest.mark.parametrize("had_a_run", [False, True])
def test_killed_run_leaves_the_old_one_or_none(shop, kill_at_pause, files, patch, inside, had_a_run):
    old = make_run(shop, text="old") if had_a_run else None
    kill_at_pause(KILLED_RUN.format(files=files, patch=patch, inside=inside or "pass"), shop.root)
    step = shop.folder / CHAPTER / "reindex"
    assert sum(path.name.startswith(".") for path in step.iterdir()) == 1, "the child was not killed inside the run"
    if old is None:
        with pytest.raises(MissingArtifact):
            shop.current(CHAPTER, "reindex")
    else:
        assert shop.current(CHAPTER, "reindex").path == old and (old / "out.txt").read_text() == "old"
    new = make_run(shop, text="new")
    kept = {new.name, "current.json"} | ({old.name} if old else set())
    assert {path.name for path in step.iterdir()} == kept


def test_killed_between_the_rename_and_the_pointer(shop, kill_at_pause):
    old = make_run(shop, text="old")
    patch = (
        "whole = artifacts.write_json\n"
        "artifacts.write_json = lambda path, value: pause() if path.name == 'current.json' else whole(path, value)"
    )
    kill_at_pause(KILLED_RUN.format(files=1, patch=patch, inside="pass"), shop.root)
    assert len([path for path in old.parent.iterdir() if path.is_dir()]) == 2, "the new run was in place, whole"
    assert shop.current(CHAPTER, "reindex").path == old


def test_pinned_artifacts_keep_the_runs_of_their_moment(shop):
    assert shop.runs == shop.pinned().runs == {}
    first = make_run(shop, "reindex", "old")
    make_run(shop, "choose")
    pinned, runs = shop.pinned(), shop.runs
    second = make_run(shop, "reindex", "new")
    make_run(shop, "train")
    assert pinned.current(CHAPTER, "reindex").path == first
    assert shop.current(CHAPTER, "reindex").path == second
    assert pinned.runs == runs == {f"{CHAPTER}/reindex": first.name, f"{CHAPTER}/choose": runs[f"{CHAPTER}/choose"]}
    with pytest.raises(MissingArtifact, match="train"):
        pinned.current(CHAPTER, "train")
    assert shop.pinned().current(CHAPTER, "train").name == shop.current(CHAPTER, "train").name


def test_pinning_reads_the_pointers_until_they_hold_still(shop, monkeypatch):
    make_run(shop, "reindex", "old")
    make_run(shop, "train", "old")
    read, left = module.read_json, ["reindex", "train"]

    def swapped_meanwhile(path):
        """While the pointers are read, one run and then another is swapped, twice in all."""
        found = read(path)
        if Path(path).name == "current.json" and left and Path(path).parent.name == "train":
            make_run(shop, left.pop(), "new")
        return found

    monkeypatch.setattr(module, "read_json", swapped_meanwhile)
    pinned = shop.pinned()
    assert not left
    assert {(pinned.current(CHAPTER, step).path / "out.txt").read_text() for step in ("reindex", "train")} == {"new"}
