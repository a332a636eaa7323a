"""prepare_data: on a small pocket shop, and on a catalogue in which everything that can be odd about a list is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from chapter03_multimodal.prepare_data import given_or_drawn_splits
from chapter04_catalogue_reranker import prepare_data
from chapter04_catalogue_reranker.prepare_data import (
    PrepareDataConfig,
    RerankerData,
    load_reranker_data,
    main,
    print_summary,
    product_text,
    summary,
)
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.category_path import parent_of
from common.encoders import Embeddings
from common.errors import CourseError, MissingArtifact
from common.index import DenseIndex

DEEP = " > ".join(f"Level {number}" for number in range(1, 13))
MUGS, CUPS, JARS, LAMPS = "Kitchen > Mugs", "Kitchen > Cups", "Kitchen > Jars", "Home > Lamps"
LISTS = {
    "plain": [(CUPS, False), (MUGS, True), (JARS, False)],
    "single": [(CUPS, True)],
    "no_true": [(MUGS, False), (JARS, False)],
    "twice": [(MUGS, False), (MUGS, False), (JARS, True), (JARS, True)],
    "two_true": [(LAMPS, False), (JARS, True), (CUPS, True), (MUGS, False)],
    "deep": [(LAMPS, False), (DEEP, True)],
    "long": [*((f"Wrong > {number}", False) for number in range(12)), (MUGS, True)],
    "no_list": [],
    "silent": [(MUGS, True), (CUPS, False)],
    "no_picture": [(MUGS, True), (CUPS, False)],
    "no_text": [(MUGS, True), (CUPS, False)],
}
SPLITS = {"no_picture": "val", "no_text": "test"}


@pytest.fixture(scope="module")
def odd_shop(tmp_path_factory) -> Catalogue:
    """`LISTS` as a catalogue. "silent" has but a picture, and that is destroyed after it was catalogued; "plain" has
    two, and the first is destroyed."""
    folder = tmp_path_factory.mktemp("odd")
    for name in ("first", "second"):
        Image.new("RGB", (8, 8), "red").save(folder / f"{name}.png")
    titled = {name: None if name in ("silent", "no_text") else f"A {name} thing" for name in LISTS}
    products = pd.DataFrame({"product_id": titled.keys(), "title": titled.values()})
    products["description"] = [None if name in ("silent", "no_text") else "Of use." for name in LISTS]
    products["split"] = [SPLITS.get(name, "train") for name in LISTS]
    products["category_path"] = [MUGS if name == "no_list" else None for name in LISTS]
    pictures = [("plain", "first"), ("plain", "second"), ("silent", "first"), ("no_text", "second")]
    images = pd.DataFrame(pictures, columns=["product_id", "path"])
    images["path"] = [str(folder / f"{name}.png") for name in images["path"]]
    rows = [(name, path, true) for name, listed in LISTS.items() for path, true in listed]
    candidates = pd.DataFrame(rows, columns=["product_id", "category_path", "is_true"])
    tables = {"products": products, "images": images, "category_candidates": candidates}
    catalogue = Catalogue.from_tables("odd", **tables).save(folder / "catalogue")
    (folder / "first.png").write_bytes(b"no picture")
    return catalogue


@pytest.fixture
def prepare(odd_shop, tiny_text_encoder, artifacts_root):
    """`prepare(**changes)`: the data of the odd shop, in artifacts of the test's own; not widened unless asked."""

    def run(catalogue: Catalogue = odd_shop, **changes) -> RerankerData:
        config = PrepareDataConfig(catalogue=str(catalogue.folder), encoder=str(tiny_text_encoder), widen=0)
        return main(replace(config, **changes))

    return run


def paths_of(data: RerankerData, product_id: str, source: str | None = None) -> list[str]:
    rows = data.candidates[data.candidates["product_id"] == product_id]
    assert rows["position"].tolist() == list(range(len(rows)))
    return rows.loc[rows["source"].eq(source) if source else slice(None), "category_path"].tolist()


@pytest.mark.parametrize(
    "title, description, expected",
    [
        ("Red mug", "Holds tea.", "Title: Red mug / Description: Holds tea."),
        ("Red mug ", None, "Title: Red mug"),
        (None, "Holds tea.", "Description: Holds tea."),
        ("  ", "", ""),
        (None, None, ""),
    ],
)
def test_a_text_names_its_parts_and_leaves_out_what_is_missing(title, description, expected):
    assert product_text(title, description) == expected


def test_the_lists_of_the_shop_come_first_and_unchanged(reranker_data, reranker_shop):
    listed = reranker_data.candidates[reranker_data.candidates["source"] == "listed"]
    columns = ["product_id", "category_path", "is_true", "position"]
    expected = reranker_shop.category_candidates[columns]
    pd.testing.assert_frame_equal(listed[columns].reset_index(drop=True), expected, check_dtype=False)
    first_added = reranker_data.candidates[reranker_data.candidates["source"] != "listed"].groupby("product_id")
    last_listed = listed.groupby("product_id")["position"].max()
    assert (first_added["position"].min() == last_listed[first_added["position"].min().index] + 1).all()


def test_every_list_has_distinct_paths_and_one_true_one(reranker_data, reranker_shop):
    lists = reranker_data.candidates.groupby("product_id", sort=False)
    assert (lists["category_path"].nunique() == lists.size()).all()
    assert lists["is_true"].sum().eq(1).all()
    true = reranker_data.candidates[reranker_data.candidates["is_true"]].set_index("product_id")["category_path"]
    assert reranker_data.products["true_path"].tolist() == true[reranker_data.products["product_id"]].tolist()
    assert reranker_data.products["product_id"].tolist() == reranker_shop.products["product_id"].tolist()
    given = reranker_shop.products.set_index("product_id")["category_path"].dropna()
    assert (true[given.index] == given).all()
    assert reranker_data.candidates["position"].dtype == np.int64 and reranker_data.candidates["is_true"].dtype == bool


def test_only_training_lists_are_widened_and_by_what_was_asked(reranker_data):
    products = reranker_data.products.set_index("product_id")
    added = reranker_data.candidates[reranker_data.candidates["source"] != "listed"]
    assert set(products["split"][added["product_id"]]) == {"train"}
    assert added.groupby("product_id").size().eq(4).all()
    assert added["product_id"].nunique() == (products["split"] == "train").sum()
    assert set(added["source"]) == {"sibling", "lookalike"} and not added["is_true"].any()
    true = products["true_path"][added["product_id"]].map(parent_of).to_numpy()
    siblings = added["source"].eq("sibling").to_numpy()
    assert (added["category_path"].map(parent_of).to_numpy() == true)[siblings].all()
    trained = set(products.loc[products["split"] == "train", "true_path"])
    assert set(added.loc[~siblings, "category_path"]) <= trained  # no look-alike is of a held-out product


def test_all_paths_of_the_catalogue_are_there(reranker_data, reranker_shop):
    from common.pocket_shop.vocabulary import leaves

    assert reranker_data.paths == sorted(leaf.path for leaf in leaves())
    assert set(reranker_data.candidates["category_path"]) <= set(reranker_data.paths)


def test_no_group_is_cut_and_the_pictures_are_the_shops(reranker_data, reranker_shop):
    products = reranker_data.products
    assert products.groupby("group_id")["split"].nunique().eq(1).all()
    assert products["split"].tolist() == reranker_shop.products["split"].tolist()
    shown = products.set_index("product_id")["image"].dropna()
    assert shown.to_dict() == reranker_shop.images.set_index("product_id")["path"].to_dict()
    assert products["image"].isna().any() and all(path is None for path in products["image"][products["image"].isna()])
    assert products["text"].str.startswith("Title: ").all()


def test_the_step_is_done_once_and_read_again(reranker_data, reranker_shop):
    read = load_reranker_data(Artifacts.for_catalogue(reranker_shop), reranker_shop)
    assert read.run.name == reranker_data.run.name and read.paths == reranker_data.paths
    config = PrepareDataConfig(
        catalogue=str(reranker_shop.folder), encoder=reranker_data.run.manifest["config"]["encoder"]
    )
    assert main(config).run.name == reranker_data.run.name
    pd.testing.assert_frame_equal(read.candidates, reranker_data.candidates)


def test_odd_lists_have_a_defined_outcome(prepare):
    data = prepare()
    products = data.products.set_index("product_id")
    assert paths_of(data, "plain") == [CUPS, MUGS, JARS]
    assert paths_of(data, "single") == [CUPS] and products.loc["single", "true_path"] == CUPS
    assert paths_of(data, "no_true") == [MUGS, JARS] and products.loc["no_true", "true_path"] is None
    assert paths_of(data, "twice") == [MUGS, JARS] and products.loc["twice", "true_path"] == JARS
    assert paths_of(data, "two_true") == [LAMPS, JARS, MUGS] and products.loc["two_true", "true_path"] == JARS
    assert paths_of(data, "deep") == [LAMPS, DEEP] and products.loc["deep", "true_path"] == DEEP
    assert paths_of(data, "long") == [*(f"Wrong > {number}" for number in range(8)), MUGS]
    assert set(data.candidates["source"]) == {"listed"}
    assert len(data.paths) == 17 and "Wrong > 11" in data.paths  # cut from the list, not from the taxonomy


def test_products_without_a_list_or_without_anything_to_embed_are_left_out_and_counted(prepare, capsys, monkeypatch):
    monkeypatch.delenv("COURSE_QUIET", raising=False)
    data = prepare()
    assert data.left_out == {"no candidate": 1, "neither text nor picture": 1}
    assert not {"no_list", "silent"} & {*data.products["product_id"], *data.candidates["product_id"]}
    assert "2 pictures cannot be used, the first: " in capsys.readouterr().err


def test_a_missing_picture_a_destroyed_one_and_a_missing_text(prepare, odd_shop):
    products = prepare().products.set_index("product_id")
    assert products.loc["no_picture", "image"] is None and products.loc["no_picture", "text"].startswith("Title: ")
    assert Path(products.loc["plain", "image"]).name == "second.png"  # the first one can no longer be opened
    assert products.loc["no_text", "text"] == "" and Path(products.loc["no_text", "image"]).is_file()


def test_short_lists_and_settings_out_of_range(prepare):
    assert paths_of(prepare(candidates=2), "long") == ["Wrong > 0", MUGS]
    assert paths_of(prepare(candidates=2), "no_true") == [MUGS, JARS]
    for changes, fault in (
        ({"candidates": 1}, "candidates must be at least 2"),
        ({"widen": -1}, "widen must be 0"),
        ({"widen_by": ("cousin",)}, r"unknown kinds \['cousin'\]; choose"),
        ({"widen": 2, "widen_by": ()}, "choose one or more"),
    ):
        with pytest.raises(CourseError, match=fault):
            prepare(**changes)


def test_widening_by_siblings_adds_all_there_are_and_never_the_true_path(prepare):
    data = prepare(widen=9, widen_by=("sibling",))
    assert set(paths_of(data, "single", "sibling")) == {MUGS, JARS}
    assert paths_of(data, "plain", "sibling") == []  # all of the kitchen is listed
    assert set(paths_of(data, "two_true", "sibling")) == {CUPS}
    assert paths_of(data, "deep", "sibling") == paths_of(data, "no_true", "sibling") == []
    assert paths_of(data, "no_picture", "sibling") == paths_of(data, "no_text", "sibling") == []
    added = data.candidates[data.candidates["source"] != "listed"]
    assert not added["is_true"].any()
    again = prepare(widen=9, widen_by=("sibling",), seed=0)
    assert again.run.name == data.run.name
    assert len(prepare(widen=1, widen_by=("sibling",)).candidates) < len(data.candidates)


def test_look_alikes_come_from_chapter_1s_index_where_there_is_one(prepare, odd_shop):
    ids = odd_shop.products["product_id"].tolist()
    vectors = np.random.default_rng(0).normal(size=(len(ids), 4)).astype(np.float32)
    row = {product_id: vectors[at] for at, product_id in enumerate(ids)}
    row["deep"][:] = row["single"] + 0.01  # the deep path's product reads like the single cup
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    without = prepare(widen=1, widen_by=("lookalike",))
    assert without.run.manifest["inputs"] == {}
    with Artifacts.for_catalogue(odd_shop).new_run("chapter01_baseline", "reindex", config={}) as folder:
        DenseIndex.build(Embeddings(vectors, "toy"), ids).save(folder / "flat")
    data = prepare(widen=1, widen_by=("lookalike",))
    assert list(data.run.manifest["inputs"]) == ["reindex"]
    assert paths_of(data, "single", "lookalike") == [DEEP] and paths_of(data, "deep", "lookalike") == [CUPS]


def test_confusions_are_those_of_the_training_run(prepare, odd_shop):
    artifacts, confused = Artifacts.for_catalogue(odd_shop), {"widen": 2, "widen_by": ("confusion",)}
    with pytest.raises(MissingArtifact, match=r"python -m chapter04_catalogue_reranker\.train"):
        prepare(**confused)
    wrong = [("single", LAMPS), ("single", CUPS), ("single", JARS), ("single", MUGS), ("no_picture", LAMPS)]
    with artifacts.new_run(prepare_data.CHAPTER, "train", config={}) as folder:
        pd.DataFrame(wrong, columns=["product_id", "category_path"]).to_parquet(folder / "confusions.parquet")
    named = artifacts.current(prepare_data.CHAPTER, "train").name
    data = prepare(**confused)
    assert data.run.manifest["inputs"] == {"train": named}
    assert paths_of(data, "single", "confusion") == [LAMPS, JARS]  # CUPS is the true path
    assert paths_of(data, "no_picture", "confusion") == []  # of the validation split
    with artifacts.new_run(prepare_data.CHAPTER, "train", config={}) as folder:
        pd.DataFrame(wrong[:1], columns=["product_id", "category_path"]).to_parquet(folder / "confusions.parquet")
    assert paths_of(prepare(**confused), "single", "confusion") == [LAMPS]


@pytest.fixture(scope="module")
def unlisted(tmp_path_factory) -> Catalogue:
    """60 products in 12 categories, train and test only, in groups of two; one product has no category. No lists."""
    things = ["mug", "cup", "jar", "lamp", "rug", "shelf", "tent", "kite", "ball", "pen", "pot", "vase"]
    rows = [(f"p{n:02d}", f"{things[n // 5]} {n}", f"Shop > {things[n // 5]}", f"g{n // 2}") for n in range(60)]
    products = pd.DataFrame(rows, columns=["product_id", "title", "category_path", "group_id"])
    products["split"] = ["test" if n % 10 < 2 else "train" for n in range(60)]
    products.loc[59, "category_path"] = None
    return Catalogue.from_tables("unlisted", products=products).save(tmp_path_factory.mktemp("unlisted") / "shop")


def test_a_catalogue_without_lists_is_given_some(prepare, unlisted):
    data = prepare(unlisted, widen=1)
    lists = data.candidates[data.candidates["source"] == "listed"].groupby("product_id")
    assert lists.size().eq(9).all() and lists["is_true"].sum().eq(1).all() and len(lists) == 59
    assert data.left_out == {"no candidate": 1, "neither text nor picture": 0}
    true = data.products.set_index("product_id")["true_path"]
    assert true.to_dict() == unlisted.products.set_index("product_id")["category_path"].dropna().to_dict()
    places = data.candidates.loc[data.candidates["is_true"], "position"]
    assert places.nunique() > 5  # not always the first
    trained = set(data.products.loc[data.products["split"] == "train", "true_path"])
    assert set(data.candidates.query("source == 'listed' and not is_true")["category_path"]) <= trained
    assert set(data.candidates["source"]) == {"listed", "sibling"}
    assert (
        prepare(unlisted, widen=1, seed=1).candidates["category_path"].tolist()
        != data.candidates["category_path"].tolist()
    )


def test_validation_is_carved_from_train_by_group_where_there_is_none(prepare, unlisted):
    products = prepare(unlisted).products.set_index("product_id")
    given = unlisted.products.set_index("product_id")["split"]
    assert (products["split"].eq("test") == given[products.index].eq("test")).all()
    assert products["split"].eq("val").any() and products.groupby("group_id")["split"].nunique().eq(1).all()
    assert not given_or_drawn_splits(unlisted.products).eq("val").any()


def test_without_any_category_there_is_nothing_to_rank(prepare, tmp_path):
    products = pd.DataFrame({"product_id": ["a", "b"], "title": ["A", "B"]})
    bare = Catalogue.from_tables("bare", products=products).save(tmp_path / "bare")
    with pytest.raises(CourseError, match="bare: no product has a category path or candidates"):
        prepare(bare)
    with pytest.raises(MissingArtifact, match=r"python -m chapter04_catalogue_reranker\.prepare_data"):
        load_reranker_data(Artifacts.for_catalogue(bare), bare)


def test_the_summary_counts(prepare, reranker_data, capsys, odd_shop, tiny_text_encoder):
    table = summary(prepare(widen=9, widen_by=("sibling",)))
    assert table.index.tolist() == ["train", "val", "test"]
    train = table.loc["train"]
    assert train[["products", "with image", "with text", "with true path", "true paths"]].tolist() == [7, 1, 7, 6, 4]
    assert train["listed"] == pytest.approx((3 + 1 + 2 + 2 + 3 + 2 + 9) / 7)
    assert train["added"] == pytest.approx((0 + 2 + 0 + 1 + 1 + 0 + 2) / 7)
    assert train["chance Acc@1"] == pytest.approx((1 / 3 + 1 + 0 + 1 / 2 + 1 / 3 + 1 / 2 + 1 / 9) / 7)
    assert table.loc["test", ["products", "with text", "added"]].tolist() == [1, 0, 0]
    shop = summary(reranker_data)
    assert shop["products"].sum() == 460 and shop["chance Acc@1"].between(1 / 9 - 1e-9, 1 / 5).all()
    print_summary(PrepareDataConfig(catalogue=str(odd_shop.folder), encoder=str(tiny_text_encoder), widen=0))
    printed = capsys.readouterr().out
    assert "17 category paths; left out: 1 products with no candidate, 1 products with neither" in printed
