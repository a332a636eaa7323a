"""The pictures' indices against brute force, and what they refuse when CLIP has changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from chapter03_multimodal import reindex
from chapter03_multimodal.encoder import load_clip_encoder
from chapter03_multimodal.reindex import FINE_TUNED, ReindexConfig, load_pictures, main
from chapter03_multimodal.train import clip_folders
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.errors import CourseError, MissingArtifact

pytestmark = pytest.mark.slow

WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def pictures(thread):
    return load_pictures(thread[1])


def files_of(catalogue: Catalogue) -> dict[str, list[Path]]:
    return {
        product_id: [Path(catalogue.folder, path) for path in rows["path"]]
        for product_id, rows in catalogue.images.groupby("product_id")
    }


def test_a_product_s_vector_is_the_mean_of_its_usable_pictures(thread, pictures):
    catalogue, artifacts = thread
    encoder = load_clip_encoder(clip_folders(artifacts)["best"])
    expected = {}
    for product_id, files in files_of(catalogue).items():
        found = encoder.encode_images(files).vectors
        if len(found):
            expected[product_id] = found.sum(axis=0) / np.linalg.norm(found.sum(axis=0))
    assert max(map(len, files_of(catalogue).values())) == 2
    assert pictures.product_ids == [one for one in catalogue.products["product_id"] if one in expected]
    assert catalogue.images["product_id"].iloc[-3] not in expected, "the picture that was destroyed"
    cosines = (pictures.embeddings.vectors * np.stack([expected[one] for one in pictures.product_ids])).sum(axis=1)
    assert cosines.min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(pictures.embeddings.vectors, axis=1), 1, atol=1e-5)
    assert pictures.embeddings.encoder_id == pictures.encoder.encoder_id


def test_indices_vectors_and_metadata_are_of_the_same_products(thread, pictures):
    catalogue, _ = thread
    folder = pictures.run.path
    assert set(pictures.indices) == {"flat", "hnsw"} and pictures.indices["hnsw"].kind == "hnsw"
    rows = {product_id: row for row, product_id in enumerate(pictures.product_ids)}
    for index in pictures.indices.values():
        assert len(index) == len(rows)
        order = [rows[product_id] for product_id in index.ids]
        np.testing.assert_array_equal(index.vectors, pictures.embeddings.vectors[order])
    np.testing.assert_array_equal(np.load(folder / "pictures.npy"), pictures.embeddings.vectors)
    table = pd.read_parquet(folder / "metadata.parquet")
    products = catalogue.products.set_index("product_id").loc[pictures.product_ids].reset_index()
    pd.testing.assert_frame_equal(table, products[["product_id", "title", "category_path", "split"]])


def brute_force(pictures, vector, k, shut=(), allowed=None):
    scores = pictures.embeddings.vectors @ vector
    pairs = [
        (product_id, score)
        for product_id, score in zip(pictures.product_ids, scores, strict=True)
        if product_id not in shut and (allowed is None or product_id in allowed)
    ]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:k]


def check(hits, expected):
    for row, pairs in enumerate(expected):
        found = hits.row(row)
        assert len(found) == len(pairs)
        np.testing.assert_allclose([s for _, s in found], [s for _, s in pairs], atol=1e-5)
        scores = dict(pairs)
        # Where two scores are equal but for rounding, either may come first.
        assert all(abs(scores.get(product_id, score) - score) < 1e-5 for product_id, score in found)
        assert len({product_id for product_id, _ in found} & scores.keys()) >= len(pairs) - 1


def test_a_picture_finds_what_brute_force_finds(thread, pictures):
    files = [paths[0] for paths in list(files_of(thread[0]).values())[:5]]
    in_memory = Image.new("RGB", (50, 40), (200, 30, 30))
    queries = [files[0], str(files[1]), "nowhere.jpg", in_memory, *files[2:]]
    found = pictures.encoder.encode_images(queries)
    assert found.rows.tolist() == [0, 1, 3, 4, 5, 6]
    vectors = dict(zip(found.rows, found.vectors, strict=True))
    own = [set(), {pictures.product_ids[1]}, {"x"}, set(pictures.product_ids[:9]), *({one} for one in "abc")]
    allowed = pictures.product_ids[::2]
    for k, exclude, only in ((7, None, None), (5, own, None), (300, own, allowed), (4, None, [])):
        hits = pictures.by_picture.search(queries, k, exclude=exclude, allowed=only)
        expected = [
            brute_force(pictures, vectors[row], k, exclude[row] if exclude else (), only) if row in vectors else []
            for row in range(len(queries))
        ]
        assert hits.ids.shape == (7, k)
        check(hits, expected)
    assert pictures.by_picture.search([files[3]], 1).row(0)[0][1] == pytest.approx(1, abs=1e-4)


def test_pictures_that_cannot_be_used_have_empty_rows(pictures, tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    hits = pictures.by_picture.search([tmp_path / "empty.jpg", "nowhere.jpg"], 3, exclude=[["a"], []])
    assert hits.ids.tolist() == [[None] * 3] * 2 and np.isneginf(hits.scores).all()
    assert pictures.by_picture.search([], 3).ids.shape == (0, 3)


def test_what_makes_no_sense_is_refused(thread, pictures):
    file = files_of(thread[0])[pictures.product_ids[0]][0]
    for arguments, message in (
        (([file], 0), "at least 1"),
        ((str(file), 3), "must be a list"),
        (([np.zeros(3)], 3), "picture 0 is ndarray"),
    ):
        with pytest.raises(CourseError, match=message):
            pictures.by_picture.search(*arguments)
    with pytest.raises(CourseError, match="2 entries for 1 queries"):
        pictures.by_picture.search([file], 3, exclude=[[], []])


def test_a_text_finds_what_brute_force_finds(pictures):
    texts = ["a green rug", "desk lamp"]
    vectors = pictures.encoder.encode(texts).vectors
    check(pictures.by_text.search(texts, 6), [brute_force(pictures, vector, 6) for vector in vectors])


def other_weights(folder: Path, target: Path) -> Path:
    """The CLIP of a folder, a little turned, in `target`."""
    if folder != target:
        shutil.copytree(folder, target)
    weights = load_file(target / WEIGHTS)
    save_file(weights | {"visual.proj": weights["visual.proj"].flip(0).contiguous()}, target / WEIGHTS)
    return target


@pytest.fixture
def small(photo_shop, artifacts_root, tmp_path) -> Catalogue:
    """Twelve products, eight of them with a picture, and nothing made of them yet."""
    images = photo_shop.images.iloc[:8]
    images = images.assign(path=[str(photo_shop.folder / path) for path in images["path"]])
    products = photo_shop.products.head(12)
    made = Catalogue.from_tables("small", products=products, images=images, verify_images=False)
    return made.save(tmp_path / "small")


def pretend_training(artifacts: Artifacts, clip: Path) -> None:
    with artifacts.new_run("chapter03_multimodal", "train", config={}) as folder:
        shutil.copytree(clip, folder / "best")


def test_it_is_built_once_and_again_after_another_training(small, tiny_clip, tmp_path):
    artifacts, config = Artifacts.for_catalogue(small), ReindexConfig(catalogue=str(small.folder), encoder=FINE_TUNED)
    pretend_training(artifacts, tiny_clip)
    first = main(config)
    assert main(config).run.name == first.run.name == load_pictures(artifacts).run.name
    pretend_training(artifacts, other_weights(tiny_clip, tmp_path / "other"))
    with pytest.raises(CourseError, match=r"another CLIP.*\n.*python -m chapter03_multimodal\.reindex"):
        load_pictures(artifacts)
    again = main(config)
    assert again.run.name != first.run.name and again.encoder.encoder_id != first.encoder.encoder_id
    assert not np.allclose(again.embeddings.vectors, first.embeddings.vectors, atol=1e-2)


def test_what_is_advised_helps_when_a_folder_holds_other_weights_than_before(small, tiny_clip, tmp_path):
    clip = Path(shutil.copytree(tiny_clip, tmp_path / "clip"))
    config = ReindexConfig(catalogue=str(small.folder), encoder=str(clip))
    first, artifacts = main(config), Artifacts.for_catalogue(small)
    assert main(config).run.name == first.run.name
    other_weights(clip, clip)
    with pytest.raises(CourseError, match=r"python -m chapter03_multimodal\.reindex"):
        load_pictures(artifacts)
    assert main(config).run.name != first.run.name


def test_a_large_catalogue_has_a_quantised_index_too(thread, tiny_clip, monkeypatch):
    monkeypatch.setattr(reindex, "FEWEST_TO_QUANTISE", 400)
    # Another profile, so that the index in force for the other tests stays.
    config = ReindexConfig(catalogue=str(thread[0].folder), profile="smoke", encoder=str(tiny_clip))
    found = main(config)
    assert list(found.indices) == ["flat", "hnsw", "ivf_pq"]
    sizes = {kind: index.memory_mb for kind, index in found.indices.items()}
    assert sizes["hnsw"] > sizes["flat"]
    hits = found.indices["ivf_pq"].search_vectors(found.embeddings, 10)
    own = [product_id in hits.ids[row] for row, product_id in enumerate(found.product_ids)]
    assert np.mean(own) > 0.2, "by chance it would be 0.02; the vectors of an untrained CLIP are all much alike"


def test_what_is_missing_is_said_with_the_command_that_makes_it(small, tiny_clip, tmp_path):
    with pytest.raises(MissingArtifact, match=r"python -m chapter03_multimodal\.train"):
        main(ReindexConfig(catalogue=str(small.folder), encoder=FINE_TUNED))
    with pytest.raises(MissingArtifact, match=r"python -m chapter03_multimodal\.reindex"):
        load_pictures(Artifacts.for_catalogue(small))
    broken = small.images.assign(path=[str(tmp_path / f"{row}.jpg") for row in range(len(small.images))])
    tables = {"products": small.products, "images": broken}
    blind = Catalogue.from_tables("blind", **tables, verify_images=False).save(tmp_path / "blind")
    with pytest.raises(CourseError, match="blind: none of the products has a usable picture"):
        main(ReindexConfig(catalogue=str(blind.folder), encoder=str(tiny_clip)))
