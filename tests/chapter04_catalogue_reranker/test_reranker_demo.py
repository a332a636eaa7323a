"""What the demo answers against brute force, what it says when something is wrong, its page and its tables."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from chapter04_catalogue_reranker import demo, demo_functions, prepare_data, reindex
from chapter04_catalogue_reranker.demo_functions import (
    LISTED,
    LONGEST_TEXT,
    MOST,
    MOST_CANDIDATES,
    TAXONOMY,
    Calibration,
    load_state,
    parse_candidates,
    rank_product,
    read_calibration,
    text_gate,
)
from chapter04_catalogue_reranker.encode import encode_categories, encode_products
from common import devices
from common.artifacts import Artifacts
from common.errors import CourseError, MissingArtifact

small = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("small_export.py"))))
TITLE, DESCRIPTION = "Oak <b>table</b>", "A table of [bold] oak"


@pytest.fixture(scope="module", autouse=True)
def _in_float32() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "native_bfloat16", lambda: None)
        yield


@pytest.fixture(scope="module")
def state(reranker_shop, tiny_text_encoder, tmp_path_factory):
    """An export of the small shop by a tiny model, not calibrated."""
    folder = tmp_path_factory.mktemp("demo_shop")
    catalogue = small.small_shop(reranker_shop, folder)
    source, artifacts = str(catalogue.folder), Artifacts.for_catalogue(catalogue)
    prepare_data.main(prepare_data.PrepareDataConfig(catalogue=source, widen=0))
    architecture = small.tiny_architecture(tiny_text_encoder, tmp_path_factory.mktemp("demo_towers"))
    small.pretend_training(artifacts, architecture)
    reindex.main(reindex.ReindexConfig(catalogue=source))
    return load_state(artifacts, catalogue)


@pytest.fixture(scope="module")
def picture(state) -> Path:
    return state.catalogue.image_path(state.export.products["product_id"][9])


def embedded(state, text: str, picture: Path | None) -> np.ndarray:
    return encode_products(state.model, [text], [picture]).fused[0]


def softmax(state, cosines: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    return (float(state.model.scale.detach()) * torch.from_numpy(cosines) / temperature).softmax(dim=0).numpy()


# the answer


@pytest.mark.parametrize(("told", "seen"), [(True, True), (True, False), (False, True)])
def test_the_ranking_is_the_softmax_over_the_whole_taxonomy(state, picture, told, seen):
    texts = (TITLE, DESCRIPTION) if told else (None, "  ")
    text = f"Title: {TITLE} / Description: {DESCRIPTION}" if told else ""
    answer = rank_product(state, *texts, picture if seen else None, k=7)
    cosines = state.export.category_vectors.vectors @ embedded(state, text, picture if seen else None)
    best = np.argsort(-cosines, kind="stable")[:7]
    paths = state.export.categories["category_path"]
    assert [path for path, _ in answer.ranking] == paths[best].tolist() and answer.note == ""
    np.testing.assert_allclose([p for _, p in answer.ranking], softmax(state, cosines)[best], rtol=1e-3)


def test_probabilities_add_up_to_one_over_what_was_ranked(state):
    paths = state.export.categories["category_path"].tolist()
    assert len(paths) > MOST
    assert sum(p for _, p in rank_product(state, TITLE, candidates=paths[:MOST], k=MOST).ranking) == pytest.approx(1)
    assert sum(p for _, p in rank_product(state, TITLE, k=MOST).ranking) < 0.999


def test_candidates_are_ranked_among_themselves(state):
    known, new = state.export.categories["category_path"][5], "Zoo > Animals >  Elephants"
    paths = [known, "Zoo > Animals > Elephants", "Lamps"]
    cosines = encode_categories(state.model, paths) @ embedded(state, f"Title: {TITLE}", None)
    expected = sorted(zip(softmax(state, cosines), paths, strict=True), reverse=True)
    for candidates in ([known, new, "Lamps"], ["Lamps", new, known]):
        ranking = rank_product(state, TITLE, candidates=candidates).ranking
        assert [path for path, _ in ranking] == [path for _, path in expected]
        np.testing.assert_allclose([p for _, p in ranking], [p for p, _ in expected], rtol=1e-3)
    assert rank_product(state, TITLE, candidates=["Lamps"]).ranking == [("Lamps", 1.0)]
    assert len(rank_product(state, TITLE, candidates=paths, k=2).ranking) == 2


def test_candidates_are_typed_one_a_line():
    assert parse_candidates(" A>B \n\n A > B > C\r\n   \nD") == ["A > B", "A > B > C", "D"]
    assert parse_candidates(" \n") == []


def test_the_nearest_products_are_those_of_brute_force(state, picture):
    answer = rank_product(state, TITLE, picture=picture, neighbours=5)
    cosines = state.export.fused.vectors @ embedded(state, f"Title: {TITLE}", picture)
    best = np.argsort(-cosines, kind="stable")[:5]
    products = state.export.products.iloc[best]
    assert answer.neighbours["product_id"].tolist() == products["product_id"].tolist()
    assert answer.neighbours["category_path"].tolist() == products["category_path"].tolist()
    assert answer.neighbours["rank"].tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(answer.neighbours["score"], cosines[best], atol=1e-5)


def test_a_product_of_the_catalogue_is_its_own_nearest(state):
    catalogue = state.catalogue
    product = catalogue.products.set_index("product_id").loc[state.export.products["product_id"][20]].fillna("")
    answer = rank_product(state, product["title"], product["description"], catalogue.image_path(product.name))
    assert answer.neighbours["score"][0] == pytest.approx(1, abs=1e-4)
    assert product.name in answer.neighbours["product_id"][answer.neighbours["score"] > 0.9999].tolist()
    assert answer.ranking[0][0] == state.export.products["predicted_path"][20]
    assert answer.ranking[0][1] == pytest.approx(state.export.products["predicted_score"][20], rel=1e-3)


def test_a_neighbour_may_lack_title_and_picture(state):
    rows = rank_product(state, "table", neighbours=MOST).neighbours.set_index("product_id")
    ids = state.export.products["product_id"]
    assert rows.loc[ids[small.TEXTLESS], "title"] == "" and rows.loc[ids[small.BARE], "picture"] is None
    assert rows.loc[ids[9], "picture"] == state.catalogue.image_path(ids[9])


# text or picture


def test_shares_say_what_was_looked_at(state, picture):
    both = rank_product(state, TITLE, picture=picture).shares
    made = encode_products(state.model, [f"Title: {TITLE}"], [picture])
    g = text_gate(state.model, made.text, made.image)
    assert g.min() >= 0 and g.max() <= 1 and g.std() > 0.05
    mixed = g * made.text + (1 - g) * made.image
    np.testing.assert_allclose(mixed / np.linalg.norm(mixed), made.fused, atol=1e-5)
    assert both == pytest.approx({"text": float(g.mean()), "picture": float((1 - g).mean())}, abs=1e-6)
    assert rank_product(state, TITLE).shares == {"text": 1, "picture": 0}
    assert rank_product(state, picture=picture).shares == {"text": 0, "picture": 1}


def test_models_without_a_gate(state, picture, monkeypatch):
    architecture = state.model.architecture
    monkeypatch.setattr(state.model, "architecture", replace(architecture, fusion="mean"))
    assert rank_product(state, TITLE, picture=picture).shares == {"text": 0.5, "picture": 0.5}
    monkeypatch.setattr(state.model, "architecture", replace(architecture, inputs="image"))
    assert rank_product(state, TITLE, picture=picture).shares == {"text": 0, "picture": 1}
    with pytest.raises(CourseError, match="looks at the image alone"):
        rank_product(state, TITLE)
    monkeypatch.setattr(state.model, "architecture", replace(architecture, inputs="text"))
    with pytest.raises(CourseError, match="looks at the text alone"):
        rank_product(state, picture=picture)


# how sure


def test_below_the_threshold_the_answer_is_not_to_be_believed(state):
    top = rank_product(state, TITLE).ranking[0][1]
    for threshold, unsure in ((top - 1e-6, False), (top + 1e-6, True)):
        judged = replace(state, calibration={TAXONOMY: Calibration(threshold=threshold), LISTED: Calibration()})
        assert ("not sure" in rank_product(judged, TITLE).note) == unsure
        assert rank_product(judged, TITLE, candidates=["A", "B", "C"]).note == "", "they have a threshold of their own"


def test_probabilities_are_calibrated_by_the_temperature(state):
    judged = replace(state, calibration={TAXONOMY: Calibration(temperature=4.0), LISTED: Calibration()})
    cosines = state.export.category_vectors.vectors @ embedded(state, f"Title: {TITLE}", None)
    warm, plain = rank_product(judged, TITLE).ranking, rank_product(state, TITLE).ranking
    np.testing.assert_allclose([p for _, p in warm], sorted(softmax(state, cosines, 4.0))[::-1][:10], rtol=1e-3)
    assert [path for path, _ in warm] == [path for path, _ in plain] and warm[0][1] < plain[0][1]


def test_the_calibration_is_that_of_the_measurement(tmp_path, monkeypatch):
    artifacts = Artifacts("toy", "0", root=tmp_path)
    assert read_calibration(artifacts) == {TAXONOMY: Calibration(), LISTED: Calibration()}
    measured = {
        TAXONOMY: {"temperature": 1.5, "threshold": 0.7, "ece": 0.1},
        LISTED: {"temperature": 2.0, "threshold": None},
    }
    monkeypatch.setattr(demo_functions, "load_category_ranking", lambda _: SimpleNamespace(calibration=measured))
    assert read_calibration(artifacts) == {TAXONOMY: Calibration(1.5, 0.7), LISTED: Calibration(2.0, 1.0)}


# what cannot be asked


def test_bad_questions_are_course_errors(state, picture, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(picture.read_bytes()[:200])
    many = [f"A > {number}" for number in range(MOST_CANDIDATES + 1)]
    for ask, message in (
        (lambda: rank_product(state), "Nothing is given"),
        (lambda: rank_product(state, " ", "\n"), "Nothing is given"),
        (lambda: rank_product(state, TITLE, picture=broken), "picture cannot be used: .*damaged"),
        (lambda: rank_product(state, picture=tmp_path / "none.png"), "no such image file"),
        (lambda: rank_product(state, "a" * (LONGEST_TEXT + 1)), "20,001 characters"),
        (lambda: rank_product(state, TITLE, candidates=["A > B", "A>B"]), "candidate 'A > B' is there more than once"),
        (lambda: rank_product(state, TITLE, candidates=["A > > B"]), "has an empty name"),
        (lambda: rank_product(state, TITLE, candidates=[" "]), "has an empty name"),
        (lambda: rank_product(state, TITLE, candidates=many), f"at most {MOST_CANDIDATES}"),
        (lambda: rank_product(state, TITLE, k=0), "k must be a whole number of at least 1"),
        (lambda: rank_product(state, TITLE, k=MOST + 1), f"at most {MOST}"),
        (lambda: rank_product(state, TITLE, neighbours=2.5), "whole number"),
    ):
        with pytest.raises(CourseError, match=message):
            ask()


def test_without_an_export_the_command_is_named(state, tmp_path):
    with pytest.raises(MissingArtifact, match=r"python -m chapter04_catalogue_reranker\.reindex"):
        load_state(Artifacts.for_catalogue(state.catalogue, root=tmp_path), state.catalogue)


def test_asking_writes_nothing(state, picture):
    root = Artifacts.for_catalogue(state.catalogue).root

    def files():
        return {path: path.stat().st_mtime_ns for path in root.rglob("*")}

    before = files()
    rank_product(state, TITLE, DESCRIPTION, picture, candidates=["A", "B"])
    assert files() == before and len(before) > 20


# in the terminal


def printed(answer) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(demo.in_the_terminal(answer))
    return console.export_text()


def test_the_terminal_shows_both_tables_as_they_are_written(state, picture):
    answer = rank_product(state, TITLE, picture=picture, candidates=["Home > [red]Tables", "Zoo"])
    table = answer.neighbours.assign(title=["A [bold] title", *answer.neighbours["title"][1:]])
    text = printed(replace(answer, neighbours=table, note="not sure [x]"))
    for path, probability in answer.ranking:
        assert path in text and f"{probability:.3f}" in text
    assert "A [bold] title" in text and "not sure [x]" in text and "looked at: text" in text


def test_the_command_prints_a_ranking_if_a_product_is_given(state, picture, monkeypatch, capsys):
    monkeypatch.setattr(demo, "load_state", lambda artifacts, catalogue: state)
    monkeypatch.setattr(demo, "launch", lambda page, **options: pytest.fail("no page was asked for"))
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setenv("COLUMNS", "200")
    source = str(state.catalogue.folder)
    for given in ({"title": TITLE}, {"description": DESCRIPTION}, {"image": picture, "candidates": ("Zoo", "Lamps")}):
        demo.main(demo.DemoConfig(catalogue=source, k=2, **given))
        shown = capsys.readouterr().out
        asked = [given.get(name) for name in ("title", "description", "image")]
        for path, _ in rank_product(state, *asked, candidates=given.get("candidates", ()), k=2).ranking:
            assert path in shown
    with pytest.raises(CourseError, match="no such image file"):
        demo.main(demo.DemoConfig(catalogue=source, image=Path("nowhere.jpg")))


# the page


@pytest.fixture
def gradio(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    return demo.import_gradio()


def ask(page):
    """The page's function of the endpoint rank_product."""
    return next(function.fn for function in page.fns.values() if function.api_name == "rank_product")


def test_only_the_page_needs_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    for module in (demo, demo_functions):
        runpy.run_path(module.__file__, run_name="imported_again")
    with pytest.raises(CourseError, match="pip install gradio"):
        demo.main(demo.DemoConfig(catalogue="no such catalogue"))  # said before anything is loaded


def test_the_page_answers_with_what_the_function_finds(state, picture, gradio):
    page = demo.build(state)
    assert not page.analytics_enabled
    note, ranking, shares, gallery = ask(page)(TITLE, DESCRIPTION, str(picture), " Zoo \nLamps", 5)
    expected = rank_product(state, TITLE, DESCRIPTION, picture, candidates=["Zoo", "Lamps"], k=5)
    assert note == "" and list(ranking.items()) == expected.ranking and shares == expected.shares
    assert len(gallery) == len(expected.neighbours) == 8
    first = expected.neighbours.iloc[0]
    assert gallery[0][1] == f"{first['title']} · {first['category_path']} · {first['score']:.2f}"
    assert all(max(thumbnail.size) <= demo.SIDE for thumbnail, _ in gallery)
    assert len(ask(page)(TITLE, "", None, "", 5)[1]) == 5, "the whole taxonomy, and no picture"


def test_errors_and_notes_are_shown_as_text(state, gradio):
    answer = ask(demo.build(state))
    for values, message in (
        (("", " ", None, "", 3), "Nothing is given"),
        ((TITLE, "", None, "<img src=x\n<img src=x", 3), "&lt;img src=x"),
        ((TITLE, "", None, "A >", 3), "has an empty name"),
    ):
        with pytest.raises(gradio.Error) as caught:
            answer(*values)
        assert message in caught.value.message and "<img" not in caught.value.message
    unsure = replace(state, calibration={TAXONOMY: Calibration(threshold=2.0), LISTED: Calibration()})
    assert "not sure" in ask(demo.build(unsure))(TITLE, "", None, "", 3)[0]


def test_a_picture_that_is_gone_has_a_grey_field(tmp_path):
    for path in (None, tmp_path / "gone.jpg"):
        assert demo._thumbnail(path).getpixel((0, 0)) == demo.PALE
    Image.new("RGB", (900, 300), (200, 0, 0)).save(tmp_path / "red.png")
    assert demo._thumbnail(tmp_path / "red.png").width <= demo.SIDE


def test_the_command_serves_the_page_if_no_product_is_given(state, gradio, monkeypatch):
    served = []
    monkeypatch.setattr(demo, "load_state", lambda artifacts, catalogue: state)
    monkeypatch.setattr(demo, "launch", lambda page, **options: served.append((page, options)))
    demo.main(demo.DemoConfig(catalogue=str(state.catalogue.folder), share=True, port=7999))
    ((page, options),) = served
    assert ask(page) and options == {"share": True, "port": 7999}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning:gradio")  # gradio's own queue
def test_a_browser_can_upload_a_picture(state, picture, gradio, tmp_path):
    """Over HTTP, through gradio's own forms of pictures and labels."""
    from gradio_client import Client, handle_file

    page = demo.build(state)
    try:
        address = demo.launch(page, wait=False)
        client = Client(address, verbose=False, analytics_enabled=False, download_files=tmp_path / "client")
        _, ranking, shares, gallery = client.predict(TITLE, "", handle_file(picture), "", 3, api_name="/rank_product")
        expected = rank_product(state, TITLE, "", picture, k=3)
        assert [row["label"] for row in ranking["confidences"]] == [path for path, _ in expected.ranking]
        assert len(gallery) == 8 and {row["label"] for row in shares["confidences"]} == {"text", "picture"}
        with pytest.raises(Exception, match="Nothing is given"):
            client.predict("", "", None, "", 3, api_name="/rank_product")
    finally:
        page.close()
