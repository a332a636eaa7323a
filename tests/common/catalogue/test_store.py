from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from common.catalogue import Catalogue, load_catalogue
from common.catalogue.digest import digest_tables
from common.errors import CourseError, MissingArtifact
from common.settings import repository_root


def test_round_trip_is_equal_in_every_table(tables, tmp_path):
    catalogue = Catalogue.from_tables("test", **tables)
    loaded = catalogue.save(tmp_path / "saved")
    assert loaded.source == "test"
    assert loaded.digest == catalogue.digest == digest_tables(loaded.tables)
    for name, table in catalogue.tables.items():
        pd.testing.assert_frame_equal(getattr(loaded, name), table)
    again = load_catalogue(str(tmp_path / "saved"))
    assert [t.encode() for t in again.products["title"]] == [t.encode() for t in tables["products"]["title"]]


def test_pictures_travel_with_the_catalogue(tables, tmp_path, draw):
    draw("shop/images/a.png")
    outside = draw("elsewhere/b.png")
    tables["images"] = pd.DataFrame({"product_id": ["p1", "p2"], "path": ["images/a.png", str(outside)]})
    catalogue = Catalogue.from_tables("test", **tables, folder=tmp_path / "shop")
    loaded = catalogue.save(tmp_path / "saved")
    assert loaded.image_path("p1") == tmp_path / "saved" / "images" / "a.png"
    assert loaded.image_path("p1").read_bytes() == (tmp_path / "shop/images/a.png").read_bytes()
    assert loaded.image_path("p2") == outside
    assert loaded.image_path("p3") is None


def test_nothing_is_overwritten(tables, tmp_path):
    first = Catalogue.from_tables("test", **tables)
    first.save(tmp_path / "saved")
    first.save(tmp_path / "saved")  # the same again is no harm
    other = Catalogue.from_tables("test", **(tables | {"captions": None}))
    with pytest.raises(CourseError, match="something else"):
        other.save(tmp_path / "saved")
    assert Catalogue.load(tmp_path / "saved").digest == first.digest


@pytest.mark.parametrize("fault", ["cut", "flipped", "gone"])
def test_a_table_that_is_not_whole_is_refused(tables, tmp_path, fault):
    Catalogue.from_tables("test", **tables).save(tmp_path / "saved")
    path = tmp_path / "saved" / "judgements.parquet"
    content = path.read_bytes()
    if fault == "gone":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    with pytest.raises(CourseError, match=r"judgements\.parquet: (damaged|missing)"):
        Catalogue.load(tmp_path / "saved")


def test_no_catalogue_and_old_format_say_so(tables, tmp_path):
    with pytest.raises(MissingArtifact, match="no catalogue"):
        Catalogue.load(tmp_path)
    Catalogue.from_tables("test", **tables).save(tmp_path / "saved")
    manifest = tmp_path / "saved" / "catalogue.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 0'))
    with pytest.raises(CourseError, match="format 0"):
        Catalogue.load(tmp_path / "saved")


KILLED_SAVE = """
import os, signal, sys
import pandas as pd
import pyarrow.parquet as pq
from common.catalogue import Catalogue

folder, step, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
catalogue = Catalogue.from_tables(
    "test", products=pd.DataFrame({"product_id": [str(i) for i in range(n)], "title": "mug"})
)
module, name, deadly = {"write": (pq, "write_table", 4), "rename": (os, "rename", 1)}[step]
original, calls = getattr(module, name), [0]

def kill_in_the_middle(*arguments, **options):
    calls[0] += 1
    if calls[0] == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)

setattr(module, name, kill_in_the_middle)
catalogue.save(folder)
"""


@pytest.mark.parametrize("step", ["write", "rename"])
def test_killed_while_saving_leaves_nothing_or_the_old_whole(tables, tmp_path, step):
    old = Catalogue.from_tables("test", **tables).save(tmp_path / "old")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_SAVE, str(tmp_path / "new"), step, "50"], cwd=repository_root(), timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    assert any(tmp_path.glob(".staging-*")), "the kill came before anything was written: the test proves nothing"
    with pytest.raises(MissingArtifact):
        Catalogue.load(tmp_path / "new")
    assert Catalogue.load(tmp_path / "old").digest == old.digest
    Catalogue.from_tables("test", **tables).save(tmp_path / "new")  # the next run succeeds, and sweeps what was left
    assert Catalogue.load(tmp_path / "new").digest == old.digest
    assert not any(tmp_path.glob(".staging-*"))


def test_load_catalogue_refuses_unknown_names_and_parameters():
    with pytest.raises(CourseError, match=r"no catalogue 'shop'.*pocket_shop"):
        load_catalogue("shop")
    with pytest.raises(CourseError, match=r"unknown parameter 'colour'.*locale"):
        load_catalogue("esci", colour="red")


def test_load_catalogue_builds_once_and_again_when_a_file_changes(tmp_path, monkeypatch):
    import common.catalogue.your_own as source

    builds = []
    original = source.build_catalogue

    def counted(folder: Path, *, products=None, images=None, queries=None, judgements=None, pairs=None):
        builds.append(products)
        return original(folder, products=products, images=images)

    monkeypatch.setattr(source, "build_catalogue", counted)
    path = tmp_path / "my.csv"
    path.write_text("product_id,title\n1,mug\n")
    first = load_catalogue("your_own", products=str(path))
    assert load_catalogue("your_own", products=str(path), pairs=None).digest == first.digest
    assert len(builds) == 1
    path.write_text("product_id,title\n1,cup\n")
    assert load_catalogue("your_own", products=str(path)).digest != first.digest
    assert len(builds) == 2
