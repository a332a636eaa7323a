"""The export against a loop by hand, with bad pictures in it, and what reading it refuses."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from chapter03_multimodal.outfits import export_embeddings as module
from chapter03_multimodal.outfits.embeddings import load_embeddings, save_embeddings
from chapter03_multimodal.outfits.export_embeddings import (
    ExportConfig,
    catalogue_items,
    load_export,
    main,
    read_items,
)
from common.digests import file_sha256
from common.errors import CourseError, MissingArtifact


class MeanColour:
    """An encoder whose vector is the mean colour, not normalised; it knows the calls it got."""

    def __init__(self, encoder_id="mean-colour"):
        self.encoder_id, self.dimension, self.asked = encoder_id, 3, []

    def encode_images(self, images, *, desc=None):
        self.asked.append(list(images))
        rows, vectors, unusable = [], [], {}
        for at, path in enumerate(images):
            try:
                vectors.append(np.asarray(Image.open(path).convert("RGB"), np.float32).mean(axis=(0, 1)))
                rows.append(at)
            except OSError:
                unusable[at] = "damaged image"
        made = np.array(vectors, dtype=np.float32).reshape(-1, 3)
        return SimpleNamespace(vectors=made, rows=np.array(rows, int), unusable=unusable, encoder_id=self.encoder_id)


@pytest.fixture
def encoder(monkeypatch):
    found = MeanColour()
    monkeypatch.setattr(module, "load_encoder", lambda model, artifacts=None: found)
    return found


@pytest.fixture
def shelf(tmp_path):
    """items.csv with two good pictures among a broken one, a missing one, an empty path and an empty id."""
    (tmp_path / "pics").mkdir()
    Image.new("RGB", (4, 4), (200, 0, 0)).save(tmp_path / "pics" / "red.png")
    Image.new("RGB", (4, 4), (0, 90, 120)).save(tmp_path / "pics" / "sea.png")
    (tmp_path / "pics" / "broken.png").write_bytes(b"no picture")
    rows = [
        "id,path",
        "007,pics/red.png",
        "b,pics/broken.png",
        "c,",
        "d,pics/none.png",
        ",pics/red.png",
        "e,pics/sea.png",
    ]
    (tmp_path / "items.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_a_table_of_ids_and_paths_is_enough(shelf, encoder):
    result = main(ExportConfig(items=shelf / "items.csv", output=shelf / "out"))
    vectors = np.load(shelf / "out" / "embeddings.npy", allow_pickle=False)
    assert vectors.dtype == np.float32 and vectors.shape == (2, 3)
    expected = np.array([[200, 0, 0], [0, 90, 120]]) / [[200], [150]]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert json.loads((shelf / "out" / "ids.json").read_text()) == ["007", "e"]
    found = load_embeddings(shelf / "out")
    np.testing.assert_array_equal(found.vectors, vectors)
    assert (found.ids, found.encoder_id, len(found), found.dimension) == (["007", "e"], "mean-colour", 2, 3)
    assert result.run is None and result.embeddings.ids == found.ids


def test_bad_pictures_are_left_out_counted_and_listed(shelf, encoder, capsys, monkeypatch):
    monkeypatch.delenv("COURSE_QUIET", raising=False)
    found = main(ExportConfig(items=shelf / "items.csv", output=shelf / "out")).embeddings
    assert "4 of 6 items left out" in capsys.readouterr().err
    assert found.left_out["row"].tolist() == [1, 2, 3, 4]
    assert found.left_out["id"].tolist() == ["b", "c", "d", ""]
    assert found.left_out["reason"].tolist() == ["damaged image", "no id or no path"] * 2
    assert json.loads((shelf / "out" / "export.json").read_text())["left_out"] == 4
    assert len(encoder.asked[0]) == 4  # what names no picture is not handed to the encoder


def test_parquet_and_rows_by_id(shelf, encoder):
    table = read_items(shelf / "items.csv")
    table.iloc[[0, 5]].to_parquet(shelf / "items.parquet")  # absolute paths by now
    found = main(ExportConfig(items=shelf / "items.parquet", output=shelf / "out")).embeddings
    assert found.rows(["e", "007", "e"]).tolist() == [1, 0, 1]
    assert "e" in found and "b" not in found
    with pytest.raises(CourseError, match="no embedding of item 'b'"):
        found.rows(["e", "b"])


def test_a_catalogue_is_exported_into_a_run_and_made_again_only_for_another_encoder(
    photo_shop, photo_shop_artifacts, encoder
):
    config = ExportConfig(catalogue=str(photo_shop.folder))
    first = main(config)
    assert first.embeddings.ids == photo_shop.images["product_id"].tolist()
    assert encoder.asked[0][0] == photo_shop.image_path(first.embeddings.ids[0])
    assert main(config).run.name == first.run.name and len(encoder.asked) == 1
    encoder.encoder_id = "same name, other weights"
    second = main(config)
    assert second.run.name != first.run.name and len(encoder.asked) == 2
    assert load_export(photo_shop_artifacts).embeddings.encoder_id == "same name, other weights"


def test_of_several_pictures_the_first_counts(photo_shop):
    more = photo_shop.images.head(1).assign(path="images/other.jpg", position=1)
    shop = SimpleNamespace(images=pd.concat([more, photo_shop.images.head(2)]), folder=photo_shop.folder, source="shop")
    table = catalogue_items(shop)
    assert [path.rsplit("/")[-1] for path in table["path"]] == [f"{item}.jpg" for item in table["id"]]
    with pytest.raises(CourseError, match="has no pictures"):
        catalogue_items(SimpleNamespace(images=photo_shop.images.head(0), folder=None, source="shop"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("id,picture\na,b.png\n", "no column 'path'"), ("id,path\na,b.png\na,c.png\n", "'a' stands in more than one row")],
)
def test_a_table_that_cannot_be_used_is_an_error(tmp_path, text, message):
    (tmp_path / "items.csv").write_text(text)
    with pytest.raises(CourseError, match=message):
        read_items(tmp_path / "items.csv")


def test_nothing_usable_and_no_output_are_errors(tmp_path, encoder):
    (tmp_path / "items.csv").write_text("id,path\na,none.png\n")
    with pytest.raises(CourseError, match="none of the 1 items has a usable picture; the first: damaged image"):
        main(ExportConfig(items=tmp_path / "items.csv", output=tmp_path / "out"))
    with pytest.raises(CourseError, match="say with --output"):
        main(ExportConfig(items=tmp_path / "items.csv"))
    with pytest.raises(MissingArtifact, match=r"python -m chapter03_multimodal\.outfits\.export_embeddings"):
        load_embeddings(tmp_path / "out")


def test_what_is_not_an_embedding_is_not_written(tmp_path):
    good = np.eye(2, dtype=np.float32)
    for vectors, ids, message in (
        (good, ["a"], "1 ids for embeddings"),
        (good * [[1], [0]], ["a", "b"], "'b' has no direction"),
        (good * [[1], [np.nan]], ["a", "b"], "'b' has no direction"),
        (good, ["a", "a"], "1 ids are repeated"),
        (good, ["a", 7], "must be str"),
    ):
        with pytest.raises(CourseError, match=message):
            save_embeddings(tmp_path / "out", vectors, ids, "x")
    assert not (tmp_path / "out" / "export.json").exists()


def test_reading_refuses_what_was_changed(tmp_path):
    save_embeddings(tmp_path, 5 * np.eye(3), ["a", "b", "c"], "one")
    assert np.array_equal(load_embeddings(tmp_path).vectors, np.eye(3, dtype=np.float32))
    (tmp_path / "ids.json").write_text('["a", "c", "b"]')
    with pytest.raises(CourseError, match=r"ids\.json: missing, or changed"):
        load_embeddings(tmp_path)
    save_embeddings(tmp_path, np.eye(2), ["a", "b"], "two")  # over the older one
    assert load_embeddings(tmp_path).ids == ["a", "b"]


@pytest.mark.parametrize(
    ("vectors", "ids", "message"),
    [
        (np.eye(2), ["a", "b"], "float64"),
        (np.eye(2, dtype=np.float32) * 2, ["a", "b"], "length 1"),
        (np.eye(2, dtype=np.float32), ["a", "a"], "repeated"),
        (np.eye(2, dtype=np.float32), ["a"], "1 ids and embeddings"),
    ],
)
def test_an_export_made_elsewhere_is_checked_beyond_its_digests(tmp_path, vectors, ids, message):
    save_embeddings(tmp_path, np.eye(2), ["a", "b"], "one")
    np.save(tmp_path / "embeddings.npy", vectors)
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    manifest = json.loads((tmp_path / "export.json").read_text())
    manifest["sha256"] = {name: file_sha256(tmp_path / name) for name in manifest["sha256"]}
    (tmp_path / "export.json").write_text(json.dumps(manifest))
    with pytest.raises(CourseError, match=message):
        load_embeddings(tmp_path)


def test_a_clip_of_a_folder_makes_the_vectors(shelf, tiny_clip, monkeypatch):
    from chapter03_multimodal.encoder import load_clip_encoder

    monkeypatch.setenv("COURSE_ARTIFACTS", str(shelf / "artifacts"))
    found = main(ExportConfig(items=shelf / "items.csv", output=shelf / "out", model=str(tiny_clip))).embeddings
    direct = load_clip_encoder(str(tiny_clip)).encode_images([shelf / "pics" / "red.png", shelf / "pics" / "sea.png"])
    assert found.ids == ["007", "e"] and found.encoder_id == direct.encoder_id and len(found.left_out) == 4
    np.testing.assert_allclose(found.vectors, direct.vectors, atol=1e-5)


def test_a_trained_model_is_one_of_a_catalogue(shelf):
    with pytest.raises(CourseError, match="give the folder of that model"):
        main(ExportConfig(items=shelf / "items.csv", output=shelf / "out", model="trained"))
