"""The demo's functions on the small shop against brute force, what it says when something is wrong, and its page."""

from __future__ import annotations

import importlib.util
import socket
import sys
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image

from chapter03_multimodal import demo, demo_functions, prepare_data, reindex
from chapter03_multimodal.categories import classifier as category_classifier
from chapter03_multimodal.demo_functions import (
    CATEGORY,
    COLUMNS,
    LOOK,
    MOST,
    PICTURE,
    TEXT,
    context_choices,
    gap_categories,
    load_state,
    look,
    search_picture,
    search_text,
    shown,
)
from chapter03_multimodal.outfits import compatibility, export_embeddings
from chapter03_multimodal.outfits.complete_look import complete_look
from chapter03_multimodal.systems import CLIP
from common.artifacts import Artifacts
from common.catalogue.images import open_image
from common.errors import CourseError, MissingArtifact
from common.search import hits_from_rows


@pytest.fixture(scope="module")
def state(photo_shop, photo_shop_artifacts, tiny_clip):
    """All parts, built by their steps with the tiny CLIP, but for the joint vectors, which need chapters 1 and 2."""
    source, clip = str(photo_shop.folder), str(tiny_clip)
    prepare_data.main(prepare_data.PrepareDataConfig(catalogue=source))
    reindex.main(reindex.ReindexConfig(catalogue=source, encoder=clip))
    category_classifier.main(
        category_classifier.ClassifierConfig(
            catalogue=source,
            encoder=clip,
            heads=("linear",),
            techniques=(),
            weight_decays=(1.0,),
            fitting=category_classifier.Fitting(epochs=2),
        )
    )
    export_embeddings.main(export_embeddings.ExportConfig(catalogue=source, model=clip))
    compatibility.main(compatibility.CompatibilityConfig(catalogue=source, hidden=16, out_dim=8, epochs=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_functions, "systems", not_built)
        return load_state(photo_shop_artifacts, photo_shop)


def not_built(*_):
    raise MissingArtifact("no joint vectors yet.\nMake them with: python -m chapter03_multimodal.choose")


@pytest.fixture
def pictured(state):
    """The id of a product that has a picture."""
    return state.pictures.index.ids[7]


class Found:
    """A searcher that finds what it is told, and remembers what it was asked."""

    def __init__(self, *ids):
        self.ids, self.asked = ids, []

    def search(self, queries, k, *, allowed=None, exclude=None):
        self.asked += queries
        return hits_from_rows([(self.ids, np.linspace(1, 0.5, len(self.ids)))] * len(queries), k)


def brute_force(state, vector, k, without=()):
    index = state.pictures.index
    scores = index.vectors @ vector
    order = sorted(range(len(scores)), key=lambda at: (-np.float32(scores[at]), index.ids[at]))
    return [(index.ids[at], scores[at]) for at in order if index.ids[at] not in without][:k]


# the functions


def test_a_text_finds_what_brute_force_finds(state):
    found = search_text(state, "a green rug", CLIP, 5)
    expected = brute_force(state, state.searchers[CLIP].encoder.encode(["a green rug"]).vectors[0], 5)
    assert found.table.columns.tolist() == list(COLUMNS) and found.table["rank"].tolist() == [1, 2, 3, 4, 5]
    assert found.table["product_id"].tolist() == [one for one, _ in expected]
    np.testing.assert_allclose(found.table["score"], [score for _, score in expected], atol=1e-5)
    assert found.note == "" and found.categories == []


def test_gallery_and_table_tell_of_the_same_products(state):
    products = state.catalogue.products
    bare = next(one for one in products["product_id"] if state.catalogue.image_path(one) is None)
    named = products.loc[products["title"].notna() & (products["product_id"] != bare), "product_id"].iloc[0]
    state = replace(state, searchers={"told": Found(named, bare)})
    state.products.loc[bare, ["title", "brand"]] = np.nan
    found = search_text(state, "rug")
    assert [path for path, _ in found.gallery] == [state.catalogue.image_path(named), None]
    title = state.products.at[named, "title"]
    assert found.gallery[0][1].startswith(f"1. {title[:20]}") and found.gallery[0][1].endswith(" · 1.00")
    assert found.gallery[1][1] == f"2. {bare} · 0.50"
    assert found.table["title"].tolist() == [title, ""] and found.table["brand"][1] == ""
    assert len(search_text(state, "rug", k=1).gallery) == len(search_text(state, "rug", k=1).table) == 1
    nothing = search_text(replace(state, searchers={"told": Found()}), "rug")
    assert nothing.gallery == [] and nothing.table.columns.tolist() == list(COLUMNS) and nothing.table.empty


def test_the_last_system_is_asked_unless_another_is_named(state):
    weak, strong = Found(), Found()
    state = replace(state, searchers={"weak": weak, "strong": strong})
    search_text(state, "one")
    search_text(state, "two", "weak")
    assert (strong.asked, weak.asked) == (["one"], ["two"])
    with pytest.raises(CourseError, match="no system 'best'; there are: weak, strong"):
        search_text(state, "three", "best")


@pytest.mark.parametrize("as_file", [True, False])
def test_a_picture_finds_what_looks_like_it_and_its_category(state, photo_shop_artifacts, pictured, as_file):
    path = state.catalogue.image_path(pictured)
    picture = path if as_file else Image.open(path)
    found = search_picture(state, picture, 4)
    vector = state.pictures.encoder.encode_images([open_image(path)]).vectors[0]
    expected = brute_force(state, vector, 4)
    assert found.table["product_id"].tolist() == [one for one, _ in expected]
    assert found.table["score"][0] == pytest.approx(1, abs=1e-3)
    assert pictured in found.table["product_id"][found.table["score"] > 0.999].tolist()
    classifier = category_classifier.load_classifier(photo_shop_artifacts)
    by_hand = sorted(zip(classifier.head.probabilities(vector[None])[0], classifier.classes, strict=True))[::-1][:3]
    assert [path for path, _ in found.categories] == [path for _, path in by_hand]
    np.testing.assert_allclose([p for _, p in found.categories], [p for p, _ in by_hand], rtol=1e-5)


def test_a_product_is_not_like_itself(state, pictured):
    path = state.catalogue.image_path(pictured)
    given, own = (search_picture(state, picture, MOST, product_id=pictured) for picture in (path, None))
    assert given.table.equals(own.table) and given.categories == own.categories
    assert pictured not in set(given.table["product_id"]) and len(given.table) == MOST
    vector = state.pictures.encoder.encode_images([open_image(path)]).vectors[0]
    expected = brute_force(state, vector, MOST, {pictured})
    assert given.table["product_id"].tolist() == [one for one, _ in expected]


def test_without_a_classifier_a_picture_still_finds(state, pictured):
    lacking = replace(state, predict=None, missing={CATEGORY: "train it"})
    found = search_picture(lacking, None, 3, product_id=pictured)
    assert len(found.table) == 3 and found.categories == [] and found.note == "train it"


def test_a_look_is_that_of_complete_look(state):
    context = [item for _, item in context_choices(state)[:2]]
    category = state.finder.facts.categories[context[1]].split(" > ")[0]
    found = look(state, context, category, 3, 0.4)
    expected = complete_look(state.finder, context, gap_category=category, k=3, mmr_lambda=0.4)
    assert found.table[["product_id", "score"]].equals(expected.items) and len(found.gallery) == len(expected)
    everything = look(state, state.finder.embeddings.ids)
    assert everything.gallery == [] and "every item is in the look" in everything.note


def test_choices_are_products_of_outfits_and_categories_that_a_look_takes(state):
    choices = context_choices(state, most=10)
    pairs = state.catalogue.pairs[state.catalogue.pairs["label"] == 1]
    assert len({item for _, item in choices}) == 10
    assert all(item in {*pairs["a_id"], *pairs["b_id"]} and item in label for label, item in choices)
    categories = gap_categories(state)
    assert categories == sorted(set(categories)) and {path.count(" > ") for path in categories} >= {0, 1}
    for category in categories[:: len(categories) // 5]:
        look(state, [choices[0][1]], category)
    path, title = shown(state, [choices[0][1]])[0]
    assert path == state.catalogue.image_path(choices[0][1]) and choices[0][0].startswith(title)


def test_asking_writes_nothing(state, photo_shop_artifacts, pictured):
    def files():
        return {path: path.stat().st_mtime_ns for path in photo_shop_artifacts.root.rglob("*")}

    before = files()
    search_text(state, "a rug that nobody has asked for")
    search_picture(state, state.catalogue.image_path(pictured))
    look(state, [pictured])
    assert files() == before and len(before) > 100


# what cannot be asked


def test_bad_questions_are_course_errors(state, pictured, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(state.catalogue.image_path(pictured).read_bytes()[:300])
    bare = next(one for one in state.products.index if state.catalogue.image_path(one) is None)
    for ask, message in (
        (lambda: search_text(state, " \n"), "query is empty"),
        (lambda: search_text(state, "a" * 2_001), "2,001 characters"),
        (lambda: search_text(state, "rug", k=0), "k must be a whole number of at least 1"),
        (lambda: search_text(state, "rug", k=MOST + 1), f"at most {MOST}"),
        (lambda: search_text(state, "rug", k=2.5), "whole number"),
        (lambda: search_picture(state, None), "There is no picture"),
        (lambda: search_picture(state, broken), "picture cannot be used: damaged"),
        (lambda: search_picture(state, tmp_path / "none.png"), "no such image file"),
        (lambda: search_picture(state, Image.new("RGB", (20_001, 1))), "longer than 20,000"),
        (lambda: search_picture(state, None, product_id="nope"), "no product 'nope'"),
        (lambda: search_picture(state, None, product_id=bare), "has no picture"),
        (lambda: search_picture(state, None, MOST + 1, product_id=pictured), f"at most {MOST}"),
        (lambda: look(state, []), "context is empty"),
        (lambda: look(state, ["nope"]), "no embedding of item 'nope'"),
        (lambda: look(state, [pictured], "Submarines"), "no category 'Submarines'"),
        (lambda: look(state, [pictured], k=0), "at least 1"),
        (lambda: look(state, [pictured], mmr_lambda=1.1), "mmr_lambda=1.1"),
        (lambda: shown(state, ["nope"]), "no product 'nope'"),
    ):
        with pytest.raises(CourseError, match=message):
            ask()


def test_a_part_that_is_not_built_names_its_command_and_leaves_the_others_alone(state, photo_shop, tmp_path):
    assert set(state.missing) == {TEXT} and list(state.searchers) == [CLIP]
    assert "python -m chapter03_multimodal.choose" in state.missing[TEXT]
    nothing = load_state(Artifacts.for_catalogue(photo_shop, root=tmp_path), photo_shop)
    assert set(nothing.missing) == {TEXT, PICTURE, CATEGORY, LOOK}
    assert context_choices(nothing) == gap_categories(nothing) == []
    for ask, step in (
        (lambda: search_text(nothing, "rug"), "chapter01_baseline"),
        (lambda: search_picture(nothing, Image.new("RGB", (9, 9))), "chapter03_multimodal.reindex"),
        (lambda: look(nothing, ["a"]), "chapter03_multimodal.outfits.export_embeddings"),
    ):
        with pytest.raises(CourseError, match=f"python -m {step}"):
            ask()


def test_joint_systems_come_after_clip_once_they_are_built(state, photo_shop, photo_shop_artifacts, monkeypatch):
    joint = Found()
    monkeypatch.setattr(demo_functions, "systems", lambda *_: {CLIP: Found(), "text + image": joint})
    loaded = load_state(photo_shop_artifacts, photo_shop)
    assert loaded.missing == {} and list(loaded.searchers) == [CLIP, "text + image"]
    assert loaded.searchers["text + image"] is joint
    assert loaded.searchers[CLIP].encoder is loaded.pictures.encoder  # one CLIP in memory, not two


def test_without_pictures_the_classifier_has_an_encoder_of_its_own(state, photo_shop_artifacts, pictured):
    picture = Image.open(state.catalogue.image_path(pictured))
    alone = demo_functions.load_predictor(photo_shop_artifacts)
    assert alone(picture) == state.predict(picture)


# the page


@pytest.fixture
def gradio(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    return demo.import_gradio()


def answers(page):
    """The page's functions by the name of their endpoint."""
    return {function.api_name: function.fn for function in page.fns.values()}


@pytest.mark.parametrize("module", [demo, demo_functions])
def test_the_demo_can_be_imported_without_gradio(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    spec = importlib.util.spec_from_file_location("imported_again", module.__file__)
    again = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "imported_again", again)  # dataclasses look their module up
    spec.loader.exec_module(again)


def test_a_missing_gradio_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(CourseError, match="pip install gradio"):
        demo.main(demo.DemoConfig(catalogue="no such catalogue"))  # said before anything is loaded


def test_a_page_answers_with_pictures_and_tables(state, pictured, gradio):
    page = demo.build(state)
    assert not page.analytics_enabled
    ask = answers(page)
    thumbnails, table = ask["search_text"]("rug", CLIP, 3)
    assert table["score"].tolist() == search_text(state, "rug", CLIP, 3).table["score"].round(3).tolist()
    assert len(thumbnails) == 3 and all(max(picture.size) <= demo.SIDE for picture, _ in thumbnails)
    categories, thumbnails, table = ask["search_picture"](None, f" {pictured} ", 4)
    assert len(categories) == 3 and len(thumbnails) == len(table) == 4
    item = context_choices(state)[0][1]
    there, thumbnails, table = ask["look"]([item], demo.ANYTHING, 2, 0.7)
    assert [caption for _, caption in there] == [caption for _, caption in shown(state, [item])]
    assert len(thumbnails) == len(table) == 2


def test_errors_are_messages_on_the_page(state, gradio):
    ask = answers(demo.build(state))
    for name, values, message in (
        ("search_text", ("", CLIP, 3), "query is empty"),
        ("search_picture", (None, "", 3), "no picture"),
        ("search_picture", (None, "<img src=x>", 3), "&lt;img src=x&gt;"),
        ("look", (None, demo.ANYTHING, 3, 0.5), "context is empty"),
    ):
        with pytest.raises(gradio.Error) as caught:
            ask[name](*values)
        assert message in caught.value.message and "<img" not in caught.value.message


def test_a_page_of_which_nothing_is_built_says_so(photo_shop, gradio, tmp_path, monkeypatch):
    page = demo.build(load_state(Artifacts.for_catalogue(photo_shop, root=tmp_path), photo_shop))
    assert not {"search_text", "search_picture", "look"} & set(answers(page))
    said = "\n".join(block.value for block in page.blocks.values() if isinstance(block, gradio.Markdown))
    assert all(f"python -m chapter03_multimodal.{step}" in said for step in ("reindex", "outfits.export_embeddings"))
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path))
    with pytest.raises(CourseError, match=r"nothing is built yet\.\n(.*\n)*.*python -m chapter03_multimodal.reindex"):
        demo.main(demo.DemoConfig(catalogue=str(photo_shop.folder)))


def test_a_picture_that_is_gone_has_a_grey_field(tmp_path):
    (gone, caption), (none, _) = demo._thumbnails([(tmp_path / "gone.jpg", "1. chair"), (None, "2. lamp")])
    assert gone.getpixel((0, 0)) == none.getpixel((0, 0)) == demo.PALE and caption == "1. chair"


def test_a_page_is_launched_on_this_machine_alone():
    class Page:
        def launch(self, **options):
            self.options = options
            return None, "http://127.0.0.1:7860/", None

    page = Page()
    assert demo.launch(page, share=True) == "http://127.0.0.1:7860/"
    assert page.options["server_name"] == "127.0.0.1" and page.options["share"] is True
    demo.launch(page)
    assert page.options["share"] is False and "allowed_paths" not in page.options


def test_the_command_serves_what_is_built(state, photo_shop, gradio, monkeypatch):
    served = []
    monkeypatch.setattr(demo, "load_state", lambda artifacts, catalogue: state)
    monkeypatch.setattr(demo, "launch", lambda page, **options: served.append((page, options)))
    demo.main(demo.DemoConfig(catalogue=str(photo_shop.folder), share=True, port=7999))
    ((page, options),) = served
    assert "search_text" in answers(page) and options == {"share": True, "port": 7999}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning:gradio")  # gradio's own queue
def test_the_page_is_served_and_closed(state, gradio, pictured, tmp_path):
    """Over HTTP as a browser would: the page, a search with an upload, and no file of the machine's."""
    from gradio_client import Client, handle_file

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = demo.build(state)
    try:
        address = demo.launch(page, port=port, wait=False)
        assert address == f"http://127.0.0.1:{port}/" and httpx.get(address).status_code == 200
        secret = state.catalogue.folder / "products.parquet"
        assert secret.is_file() and httpx.get(f"{address}gradio_api/file={secret}").status_code == 403
        client = Client(address, verbose=False, analytics_enabled=False, download_files=tmp_path / "client")
        upload = handle_file(state.catalogue.image_path(pictured))
        label, gallery, table = client.predict(upload, pictured, 3, api_name="/search_picture")
        expected = search_picture(state, None, 3, product_id=pictured)
        assert [row[2] for row in table["data"]] == expected.table["product_id"].tolist()
        assert label["label"] == expected.categories[0][0]
        assert [shown["caption"] for shown in gallery] == [caption for _, caption in expected.gallery]
        with pytest.raises(Exception, match="query is empty"):
            client.predict(" ", CLIP, 3, api_name="/search_text")
        with pytest.raises(CourseError, match=f"port {port} is taken"):
            demo.launch(demo.build(state), port=port, wait=False)
    finally:
        page.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)
