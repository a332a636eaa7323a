"""The taxonomy's adapter on a made-up taxonomy in the published format, and on the real files where they are."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from common.catalogue import load_catalogue
from common.catalogue.shopify_taxonomy import CANDIDATES, read_categories, read_mappings, split_of_parent
from common.errors import CourseError
from common.settings import repository_root

DATA_HOME = os.environ.get("COURSE_DATA_HOME")  # as it was before the tests' own environment hides it
FOLDER, MAPPING = "shopify-taxonomy", "shopify_2025-08_to_google_2021-09-21.txt"
TWELVE_LEVELS = " > ".join(f"Level {number}" for number in range(1, 13))

TARGETS = {
    "Toys": "Toys & Games",
    "Toys > Kites": "Toys & Games > Kites",
    "Toys > Balls": "Toys & Games > Toy Balls",
    "Toys > Balls > Bouncy Balls": "Toys & Games > Toy Balls",
    "Sport": "Sport",
    "Sport > Balls": "Sport > Game Balls",
    "Sport > Kites": "Sport > Power Kites",
    "Sport > Nets": "Sport > Nets",
    "Garden": "Garden",
    "Garden > Nets": "Garden > Pond Nets",
    "Garden > Pots": "Garden > Planters",
    TWELVE_LEVELS: "Garden > Planters",
}
PARENTS = [TWELVE_LEVELS.rsplit(" > ", levels)[0] for levels in range(1, 12)]
UNMAPPED = ["Services", *PARENTS]


def write(folder: Path, targets: dict[str, str] = TARGETS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ids = [f"gid://shopify/TaxonomyCategory/c-{n}   : {path}" for n, path in enumerate([*TARGETS, *UNMAPPED])]
    (folder / "categories.txt").write_text("# Categories\n\n" + "\n".join(ids), encoding="utf-8")
    lines = [f"→ {path}\n⇒ {target}\n" for path, target in targets.items()]
    (folder / MAPPING).write_text("# → from\n# ⇒ to\n\n" + "\n".join(lines), encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    write(tmp_path / "home" / FOLDER)
    monkeypatch.setenv("COURSE_DATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / FOLDER


def test_a_category_with_a_mapping_is_a_product(folder):
    products = load_catalogue("shopify_taxonomy").products.set_index("title")
    assert products["category_path"].to_dict() == TARGETS
    assert products.loc["Toys > Balls > Bouncy Balls", ["product_id", "group_id"]].tolist() == ["c-3", "c-2"]
    assert products.loc["Toys", "group_id"] == products.loc["Toys > Kites", "group_id"] == "c-0"
    assert products["product_id"].is_unique and "Services" not in products.index


def test_whole_parents_are_held_out_by_the_published_hash(folder):
    products = load_catalogue("shopify_taxonomy").products
    assert products.groupby("group_id")["split"].nunique().eq(1).all()
    for title, split in zip(products["title"], products["split"], strict=True):
        parent = title.rsplit(" > ", 1)[0]
        place = int.from_bytes(sha256(parent.encode()).digest()[:4]) % 100
        assert split == ("test" if place < 20 else "val" if place < 30 else "train") == split_of_parent(parent)


def test_candidates_are_nine_look_alikes_with_one_true_path_among_them(folder):
    catalogue = load_catalogue("shopify_taxonomy")
    lists = catalogue.category_candidates.groupby("product_id")
    assert lists.size().eq(CANDIDATES).all() and lists["category_path"].nunique().eq(CANDIDATES).all()
    assert lists["is_true"].sum().eq(1).all()
    assert lists["position"].apply(sorted).map(lambda found: found == list(range(CANDIDATES))).all()
    true = catalogue.category_candidates[lambda rows: rows["is_true"]].set_index("product_id")["category_path"]
    assert true.to_dict() == catalogue.products.set_index("product_id")["category_path"].to_dict()
    assert true.map(set(TARGETS.values()).__contains__).all()
    positions = catalogue.category_candidates.loc[catalogue.category_candidates["is_true"], "position"]
    assert positions.nunique() > 3  # the place in the list tells nothing
    balls = set(lists.get_group("c-2")["category_path"])
    assert {"Sport > Game Balls", "Toys & Games > Kites"} <= balls  # the same word, a sibling


def test_the_draw_is_the_seeds_and_a_small_taxonomy_gives_short_lists(folder):
    first, again = load_catalogue("shopify_taxonomy"), load_catalogue("shopify_taxonomy", seed=0)
    other = load_catalogue("shopify_taxonomy", seed=1)
    assert first.digest == again.digest != other.digest
    write(folder, {"Toys": "Toys & Games", "Sport": "Sport"})
    assert load_catalogue("shopify_taxonomy").category_candidates.groupby("product_id").size().tolist() == [2, 2]


def test_mappings_are_read_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "mappings.txt"
    path.write_text("# a\n→ A > É\n⇒ 1\n\n→ unmapped\n\n→ B\n⇒\n→ C\n⇒ 1", encoding="utf-8")
    assert read_mappings(path) == [("A > É", "1"), ("C", "1")]


@pytest.mark.parametrize(
    "text, fault",
    [
        ("⇒ 1", "line 1: '1' is a second target, or one of nothing"),
        ("→ A\n⇒ 1\n⇒ 2", "line 3: '2' is a second target"),
        ("→ A\n⇒ 1\n→ A\n⇒ 2", "line 4: '2' is a second target"),
        ("nothing here", "no mapping"),
    ],
)
def test_a_file_that_is_no_mapping_is_an_error(tmp_path, text, fault):
    path = tmp_path / "mappings.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CourseError, match=f"mappings.txt.*{fault}"):
        read_mappings(path)


def test_faults_of_the_files_are_named(folder):
    (folder / MAPPING).write_text("→ Toys > Dolls\n⇒ Dolls", encoding="utf-8")
    with pytest.raises(CourseError, match=r"categories\.txt: no category 'Toys > Dolls'; get it in the version of"):
        load_catalogue("shopify_taxonomy")
    (folder / MAPPING).write_bytes(b"\xff\xfe")
    with pytest.raises(CourseError, match="damaged"):
        load_catalogue("shopify_taxonomy")
    (folder / "categories.txt").write_text("# nothing")
    with pytest.raises(CourseError, match="no line is 'gid"):
        read_categories(folder / "categories.txt")
    (folder / MAPPING).unlink()
    with pytest.raises(CourseError, match=r"missing shopify_2025-08.*get it from .*Shopify/product-taxonomy"):
        load_catalogue("shopify_taxonomy")


@pytest.mark.slow
def test_the_real_taxonomy(monkeypatch):
    home = Path(DATA_HOME) if DATA_HOME else repository_root().parent / "shared" / "data"
    if not (home / FOLDER).is_dir():
        pytest.skip("the public data sets are not on this machine")
    monkeypatch.setenv("COURSE_DATA_HOME", str(home))
    assert len(read_categories(home / FOLDER / "categories.txt")) == 10_595
    catalogue = load_catalogue("shopify_taxonomy")
    assert catalogue.quarantine.empty
    assert catalogue.products["split"].value_counts().to_dict() == {"train": 7_393, "test": 2_084, "val": 1_058}
    assert catalogue.products["category_path"].nunique() == 5_456
    assert catalogue.category_candidates.groupby("product_id").size().eq(CANDIDATES).all()
    names = (catalogue.products[name].str.rpartition(" > ")[2].str.casefold() for name in ("title", "category_path"))
    assert next(names).ne(next(names)).sum() == 5_178
