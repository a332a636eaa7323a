"""The map's layout, neighbours, stars and page against naive twins, and its limits."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from hashlib import sha256
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chapter04_catalogue_reranker.constellation import map as constellation
from chapter04_catalogue_reranker.constellation import page as constellation_page
from chapter04_catalogue_reranker.constellation.drawing import draw_map
from chapter04_catalogue_reranker.constellation.layout import FEWEST_TO_LAY_OUT, evened, lay_out, neighbours, stars
from chapter04_catalogue_reranker.constellation.map import build, drawn_rows
from chapter04_catalogue_reranker.constellation.page import (
    GREY,
    PALETTE,
    Sky,
    departments_of,
    page_data,
    render,
    thumbnails,
)
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.encoders import Embeddings
from common.errors import CourseError, MissingArtifact

HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<!-- <script> --> ]]> &lt;b&gt;",
    "<img src=x onerror='window.hacked = 1'>",
    '"; window.hacked = 1; //\\u003c',
    "line\u2028separator \u2029 and \0 nul, $script ${data}",
    "Стул 椅子 🪑 e\u0301",
]


def clusters(count: int, width: int = 24, groups: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(vectors [count, width] in groups, the group of each)."""
    rng = np.random.default_rng(seed)
    group = np.arange(count) % groups
    return (rng.normal(0, 1, (groups, width))[group] + rng.normal(0, 0.25, (count, width))).astype(np.float32), group


def products(count: int = 12) -> pd.DataFrame:
    """A table as the export has it; titles are hostile, a few fields missing."""
    paths = [f"{'ABC'[row % 3]} > {'xy'[row % 2]} > leaf {row % 4}" for row in range(count)]
    table = pd.DataFrame({"product_id": [f"p{row}" for row in range(count)], "category_path": paths})
    table["title"] = [HOSTILE[row % len(HOSTILE)] for row in range(count)]
    table["predicted_path"] = [paths[-1] if row % 5 == 0 else path for row, path in enumerate(paths)]
    table["split"], table["image"] = "test", None
    table.loc[1, "title"] = table.loc[2, "category_path"] = table.loc[3, "predicted_path"] = None
    return table


def sky_of(table: pd.DataFrame, seed: int = 0) -> Sky:
    places = np.random.default_rng(seed).uniform(-0.5, 0.5, (len(table), 3))
    near = neighbours(places, 3)
    points = table.assign(**dict(zip("xyz", places.T, strict=True)))
    return Sky("toy", points, near, stars(places, table["category_path"]))


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.inside = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, text):
        if self.cdata_elem:  # until the end of script or style
            self.inside.append((*self.elements[-1], text))

    def data(self) -> dict:
        (text,) = [text for _, attributes, text in self.inside if attributes.get("id") == "data"]
        return json.loads(text)


# ---- layout


def test_evened_places_keep_directions_and_order_and_fill_the_ball():
    places = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, -100.0], [-3.0, 0.0]])
    wide = np.sqrt(3 / 4)  # two of the four share the second and third place
    np.testing.assert_allclose(evened(places), [[0, 0], [wide, 0], [0, -1], [-wide, 0]], atol=1e-12)
    assert not evened(np.zeros((3, 2))).any()


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_layout_is_reproducible_and_keeps_groups_together(dimensions):
    vectors, group = clusters(140)
    places = lay_out(vectors, seed=3, dimensions=dimensions)
    assert places.shape == (140, dimensions) and places.dtype == np.float32
    np.testing.assert_array_equal(places, lay_out(vectors * 8, seed=3, dimensions=dimensions))
    assert np.abs(places - lay_out(vectors, seed=4, dimensions=dimensions)).max() > 1e-3
    shells = np.sort(np.linalg.norm(places, axis=1)) ** places.shape[1]
    np.testing.assert_allclose(shells, np.arange(1, len(places) + 1) / len(places), atol=0.01)
    assert np.linalg.norm(places, axis=1).max() == pytest.approx(1, abs=1e-6)
    assert (np.diff(places.std(axis=0)) <= 1e-6).all(), "widest along x"
    assert (group[neighbours_in_space(places)] == group).mean() > 0.95


def neighbours_in_space(places: np.ndarray) -> np.ndarray:
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    return apart.argmin(axis=1)


@pytest.mark.slow
def test_pacmap_is_as_quiet_as_its_neighbours(caplog, capfd):
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        lay_out(clusters(FEWEST_TO_LAY_OUT)[0], seed=0)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(threads)
    assert caplog.text == "" and capfd.readouterr().err == ""


@pytest.mark.parametrize(("count", "width"), [(1, 8), (2, 8), (3, 2), (5, 1), (15, 40)])
def test_a_handful_of_products_is_laid_out_by_its_principal_components(count, width):
    vectors = np.random.default_rng(count).normal(size=(count, width)).astype(np.float32)
    places = lay_out(vectors, seed=0)
    assert places.shape == (count, 3) and np.isfinite(places).all() and np.abs(places).max() <= 1
    if min(count, width) > 1:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        apart = np.linalg.norm(unit[0] - unit[1]) if count == 2 else None
        assert np.linalg.norm(places, axis=1).max() == pytest.approx(1, abs=1e-6)
        assert apart is None or np.linalg.norm(places[0] - places[1]) == pytest.approx(2, abs=1e-5)


def test_equal_products_share_a_place_and_bad_vectors_are_refused():
    np.testing.assert_array_equal(lay_out(np.ones((30, 4)), seed=0), 0)
    for bad in (np.ones((0, 4)), np.full((3, 4), np.nan)):
        with pytest.raises(CourseError, match="at least one vector, and all of them finite"):
            lay_out(bad, seed=0)


# ---- neighbours and stars


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 40), width=st.integers(1, 6), k=st.integers(1, 12), seed=st.integers(0, 99))
def test_neighbours_are_those_of_brute_force(count, width, k, seed):
    vectors = np.random.default_rng(seed).integers(-2, 3, (count, width)).astype(np.float32)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found = neighbours(vectors, k)
    assert found.shape == (count, min(k, count - 1)) and found.dtype == np.int64
    for row, near in enumerate(found):
        others = np.delete(np.arange(count), row)
        assert len(set(near)) == len(near) and row not in near
        best = np.sort(unit[others] @ unit[row])[::-1][: len(near)]
        np.testing.assert_allclose(unit[near] @ unit[row], best, atol=1e-5)


def test_of_equal_neighbours_the_earlier_comes_first():
    np.testing.assert_array_equal(
        neighbours(np.ones((5, 2)), 3), [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]]
    )


@pytest.mark.parametrize("dimensions", [2, 3])
def test_stars_are_the_means_of_their_products(dimensions):
    paths = ["A > x > 1", "A > x > 2", "A", None, "B > x", "A > y", "", "B > x", "A > x > 1"]
    points = np.random.default_rng(0).normal(size=(len(paths), dimensions)).astype(np.float32)
    found = stars(points, paths)
    prefixes = {"A": 1, "B": 1, "A > x": 2, "B > x": 2, "A > y": 2, "A > x > 1": 3, "A > x > 2": 3}
    assert dict(zip(found["path"], found["level"], strict=True)) == prefixes
    assert found["path"].tolist()[:3] == ["A", "B", "A > x"], "by level, the largest first"
    for row in found.itertuples():
        inside = [at for at, path in enumerate(paths) if path and (path + " > ").startswith(row.path + " > ")]
        assert row.n == len(inside)
        place = [getattr(row, axis) for axis in "xyz"[:dimensions]]
        np.testing.assert_allclose(place, points[inside].mean(axis=0), atol=1e-6)


def test_a_catalogue_without_categories_has_no_stars():
    assert stars(np.zeros((3, 3)), [None, "", None]).empty
    number, names, colours = departments_of([None, "", None])
    assert number.tolist() == [0, 0, 0] and names == ["No category"] and colours == [GREY]


def test_departments_are_ordered_by_size_and_coloured():
    number, names, colours = departments_of(["B > x", None, "C", "B", "A > x > y"])
    assert names == ["B", "A", "C", "No category"] and colours == [*PALETTE[:3], GREY]
    assert number.tolist() == [0, 3, 2, 0, 1]
    assert len(set(PALETTE)) == len(PALETTE)
    assert departments_of([f"{letter}" for letter in "ABCDEFGHIJKLMNOP"])[2][len(PALETTE) :] == [GREY] * 4


# ---- the flat picture


def test_labels_of_departments_do_not_overlap():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), dpi=100)
    axes = figure.add_subplot()
    names = ["Home & Living", "Kitchen & Dining", "Office & School", "Pets", "Sports & Outdoors"]
    places = np.random.default_rng(0).normal(0, 0.02, (100, 2))  # all on one heap
    places[0], places[1] = (-1, -1), (1, 1)
    paths = [names[row % 5] for row in range(99)] + [None]
    draw_map(axes, places, paths, highlighted=np.arange(100) < 7)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == departments_of(paths)[1]
    overlaps = [(a, b) for a in range(6) for b in range(a) if boxes[a].overlaps(boxes[b])]
    assert overlaps == []
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "Pets (20)" in legend and "No category (1)" in legend and legend[-1] == "highlighted (7)"


# ---- the page


def test_the_page_is_one_file_that_asks_for_nothing():
    text = render(sky_of(products()))
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]+\.[a-z]|@import|url\(", text)
    links = [attributes.get(name) for _, attributes in page.elements for name in ("src", "href", "action", "srcset")]
    assert set(filter(None, links)) == {"data:,"}
    assert {tag for tag, _ in page.elements} & {"link", "iframe", "object", "base", "form"} == set()


def test_the_policy_allows_nothing_but_the_pages_own_script_and_style():
    page = Page(render(sky_of(products())))
    (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules.keys() == {"default-src", "img-src", "style-src", "script-src"} and rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag, attributes, text in page.inside:
        if "id" not in attributes:
            kind, digest = re.fullmatch(r"'(sha256)-(.+)'", rules[f"{tag}-src"]).groups()
            assert b64decode(digest) == sha256(text.encode()).digest() and kind == "sha256"
    assert len(page.inside) == 3, "a style, the data, the script"


def test_hostile_titles_stay_data():
    table = products()
    page = Page(render(sky_of(table)))
    assert page.data()["titles"] == table["title"].fillna("").tolist()
    assert sum(tag == "script" for tag, _ in page.elements) == 2


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_no_text_leaves_the_script_element(text):
    packed = constellation_page.as_script_data({"title": text})
    assert "<" not in packed and json.loads(packed) == {"title": text}


@pytest.mark.parametrize("count", [12, 70_000])
def test_the_page_holds_what_the_points_say(count):
    table = products() if count == 12 else pd.concat([products()] * 6000, ignore_index=True)[:count]
    places = np.random.default_rng(1).uniform(-1, 1, (count, 3))
    near = (np.arange(count)[:, None] + [1, 2]) % count
    sky = Sky(
        "toy", table.assign(**dict(zip("xyz", places.T, strict=True))), near, stars(places, table["category_path"])
    )
    data = json.loads(json.dumps(page_data(sky)))
    assert data["integers"] == (16 if count == 12 else 32)

    def numbers(name: str) -> np.ndarray:
        return np.frombuffer(b64decode(data[name]), f"<u{data['integers'] // 8}")

    unpacked = np.frombuffer(b64decode(data["points"]), "<i2").reshape(-1, 3) / 32767
    np.testing.assert_allclose(unpacked, places, atol=1 / 32767)
    np.testing.assert_array_equal(numbers("near").reshape(-1, 2), near)
    for name, column in (("truth", "category_path"), ("predicted", "predicted_path")):
        assert [data["paths"][at] for at in numbers(name)] == table[column].fillna("").tolist()
    names = [data["departments"][at]["name"] for at in numbers("department")]
    assert names[:4] == ["A", "B", "No category", "A"]
    assert {row["name"]: row["count"] for row in data["departments"]} == pd.Series(names).value_counts().to_dict()
    assert [data["departments"][star["department"]]["name"] for star in data["stars"][:3]] == ["A", "B", "C"]
    assert {star["level"] for star in data["stars"]} == {1, 2}


# ---- thumbnails


def test_thumbnails_lie_where_their_slots_say(tmp_path):
    colours = [(220, 30, 30), (30, 200, 40), (40, 60, 230)]
    for number, colour in enumerate(colours):
        Image.new("RGB", (300, 300), colour).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    atlas, slots, tile = thumbnails(["0.png", None, "broken.png", "1.png", str(tmp_path / "2.png")], tmp_path)
    assert slots.tolist() == [1, 0, 0, 2, 3] and tile == 96
    (tmp_path / "atlas.webp").write_bytes(atlas)
    with Image.open(tmp_path / "atlas.webp") as picture:
        columns = picture.width // tile
        for slot, colour in zip((0, 1, 2), colours, strict=True):
            seen = picture.getpixel((slot % columns * tile + tile // 2, slot // columns * tile + tile // 2))
            assert np.abs(np.subtract(seen, colour)).max() < 16


def test_tiles_shrink_with_their_number_and_end(monkeypatch):
    monkeypatch.setattr(constellation_page, "MOST_THUMBNAILS", 5)
    monkeypatch.setattr(constellation_page, "ATLAS_PIXELS", 5 * 50**2)
    assert thumbnails([None] * 5, None)[2] == 0, "no picture, no atlas"
    assert thumbnails(["a.png"] * 6, None)[0] == b""
    assert thumbnails([], None)[0] == b""


# ---- the step


def test_rows_are_drawn_from_the_split():
    splits = pd.Series(["train", "test", "test", "val", "test", None])
    assert drawn_rows(splits, "all", 10, 0).tolist() == [0, 1, 2, 3, 4, 5]
    assert drawn_rows(splits, "test", 10, 0).tolist() == [1, 2, 4]
    drawn = drawn_rows(splits, "test", 2, 0)
    assert len(drawn) == 2 and set(drawn) < {1, 2, 4} and (np.diff(drawn) > 0).all()
    with pytest.raises(CourseError, match="no exported product is of split 'train'; there are: test"):
        drawn_rows(splits[1:3], "train", 10, 0)


def test_products_and_embeddings_must_be_as_many():
    with pytest.raises(CourseError, match="12 products but 11 embeddings"):
        build(products(), Embeddings(np.ones((11, 4), dtype=np.float32), "toy"), None, seed=0)


def test_the_step_writes_page_and_points(tmp_path, artifacts_root, monkeypatch):
    table = products()
    bare = Catalogue.from_tables("toy", products=table[["product_id", "category_path"]].assign(title="t"))
    source = str(bare.save(tmp_path / "catalogue").folder)
    artifacts = Artifacts.for_catalogue(bare)
    config = constellation.ConstellationConfig(catalogue=source, products=10)
    with pytest.raises(MissingArtifact, match=r"python -m chapter04_catalogue_reranker\.reindex"):
        constellation.main(config)
    with artifacts.new_run(constellation.CHAPTER, "reindex", config={}):
        pass
    vectors = Embeddings(np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32), "toy")
    export = SimpleNamespace(products=table, fused=vectors, encoder_id="toy")
    monkeypatch.setattr(constellation, "load_export", lambda _: export)
    made = constellation.main(config)
    assert sorted(path.name for path in made.run.path.iterdir()) == [
        "constellation.html",
        "manifest.json",
        "points.parquet",
    ]
    assert made.points.columns.tolist() == [*table.columns, "x", "y", "z", "map_x", "map_y"]
    assert Page(made.page.read_text(encoding="utf-8")).data()["ids"] == made.points["product_id"].tolist()
    assert len(made.points) == 10
    assert constellation.main(config).run.name == made.run.name, "made once"
    monkeypatch.setattr(constellation, "page_digest", lambda: "edited")
    assert constellation.main(config).run.name != made.run.name, "another page"
