"""What the page is made of: HTML in which what a catalogue or a visitor wrote is text, and the parts of the page."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CourseError
from course.service import cards, page, score_chart
from course.service.answers import Answer, CategoryAnswer, Hit, PictureAnswer, Product
from course.service.filters import Filters
from course.service.shop import LOOK, SIMILAR

SHARP = "<img src=x onerror='alert(1)'> \"sharp\" & {{braces}} ${dollars} `ticks`"
BUTTONS = (cards.SIMILAR, cards.ADD)
WRITTEN = {"img", "div", "span", "p", "h2", "h3", "ol", "li", "button", "section", "dl", "dt", "dd", "b", "br", "pre"}
WRITTEN |= {"table", "thead", "tbody", "tr", "th", "td", "i", "small", "ul", "details", "summary"}
EMPTY = {"img", "br"}


class Read(HTMLParser):
    """Texts, tags and attributes as a browser takes them; tags that do not match are an AssertionError."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.texts, self.attributes, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, key: str) -> list[str]:
        return [attrs[key] for _, attrs in self.attributes if key in attrs]


def product(text: str = "Red mug", *, product_id: str = "p1", has_image: bool = True, price: float | None = 9.5):
    return Product(product_id, text, text, text, text, text, price, f"Kitchen > {text}", {text: [text]}, has_image)


def hit(rank: int = 1, score: float = 0.25, **changes) -> Hit:
    return Hit(rank, score, product(**changes))


def everything(text: str) -> list[str]:
    """Each kind of HTML the page shows, with `text` wherever a catalogue or a visitor may have a say."""
    one = hit(text=text, product_id=text)
    found = Answer([one, hit(2, product_id="p2", has_image=False, price=None)], text, text, text)
    return [
        cards.answer(found, text, BUTTONS),
        cards.side_by_side(found, found, BUTTONS),
        cards.picture_answer(PictureAnswer([one], text, text, text, [(text, 0.5)], text), BUTTONS),
        cards.picture_answer(PictureAnswer([], text, text, text, [], text)),
        cards.category_answer(CategoryAnswer([(text, 0.5)], text, 0.3, [one]), BUTTONS),
        cards.detail(one.product, BUTTONS),
        cards.strip([one.product], text),
        cards.chips([(text, text)], text),
        cards.alert(text),
        cards.hint(text),
        cards.not_built(text),
        cards.folded(text, [text]),
        score_chart.chart_and_table(board(text), text),
    ]


def board(text: str = "BM25", values=((0.4, 0.3, 0.5),)) -> pd.DataFrame:
    shared = {"chapter": text, "system": text, "source": text, "split": text, "metric": text}
    rows = [{"value": value, "ci_low": low, "ci_high": high} for value, low, high in values]
    return pd.DataFrame([shared | row | {"n_queries": 2, "seconds": math.nan} for row in rows])


@pytest.mark.parametrize("text", [SHARP, "</section><script>alert(1)</script>", "plain"])
def test_what_others_wrote_is_text(text):
    plain = [Read(html).tags for html in everything("plain")]
    for html, tags in zip(everything(text), plain, strict=True):
        seen = Read(html)
        assert seen.tags == tags and set(tags) <= WRITTEN
        assert not any(key.startswith("on") for _, attrs in seen.attributes for key in attrs)


@given(st.text(st.characters(exclude_characters="\0\r"), min_size=1))
def test_any_text_comes_out_as_it_went_in(text):
    assert "".join(Read(f"<p>{cards.escaped(text)}</p>").texts) == text
    assert Read(f'<p title="{cards.escaped(text)}"></p>').of("title") == [text]


def test_a_card_shows_what_is_known_and_what_is_not():
    read = Read(cards.card(hit(3, 1234.56789, text="Mug", product_id="a/b ?#%é"), "points", BUTTONS))
    assert read.of("src") == ["/images/a%2Fb%20%3F%23%25%C3%A9"] and read.of("alt") == ["Mug"]
    assert read.of("data-id") == ["a/b ?#%é"] * 2 and read.of("data-do") == list(BUTTONS)
    assert {"3", "1,234.568", "9.50", "Kitchen › Mug"} <= set(read.texts)
    assert "score: points" in read.of("title") and "Similar to Mug" in read.of("aria-label")
    bare = Product("p9", None, None, None, None, None, None, None, {}, False)
    read = Read(cards.card(Hit(1, 0.5, bare), "points"))
    assert "img" not in read.tags and "button" not in read.tags and "no picture" in read.texts
    assert [text for text in read.texts if text != "no picture"] == ["1", "p9", "0.500"]
    assert Read(cards.detail(bare)).tags.count("dt") == 0


def test_side_by_side_marks_what_both_found_with_the_others_rank():
    first = Answer([hit(1, product_id="a"), hit(2, product_id="b"), hit(3, product_id="c")], "one", "points")
    second = Answer([hit(1, product_id="c"), hit(2, product_id="d")], "two", "points")
    texts = Read(cards.side_by_side(first, second)).texts
    assert "1 of 3" in texts and [text for text in texts if text.startswith("also")] == ["also #1", "also #3"]
    apart = Read(cards.side_by_side(first, replace(second, hits=[]))).texts
    assert "0 of 3" in apart and not any(text.startswith("also") for text in apart)


def test_bars_are_as_long_as_what_is_likely():
    read = Read(cards.bars([("A > B", 0.755), ("C", 0.0)], "Categories"))
    assert read.of("style") == ["width:75.5%", "width:0.0%"]
    assert read.texts == ["A › B", "75.5%", "C", "0.0%"]


def test_the_chart_places_figures_and_intervals_on_its_axis():
    rows = board(values=((0.4, 0.3, 0.5), (0.8, 0.7, 0.95), (0.2, math.nan, math.nan), (math.nan,) * 3))
    read = Read(score_chart.chart_and_table(rows, "BM25"))
    places = [style for style in read.of("style") if not style.startswith("--")]
    assert places == [
        "left:30.00%;width:20.00%",
        "left:40.00%",
        "left:70.00%;width:25.00%",
        "left:80.00%",
        "left:20.00%",
    ]
    assert [text for text in read.texts if len(text) == 3] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert "--step:20.0000%" in read.of("style") and read.tags.count("tr") == 4
    assert sum("best" in kind.split() for kind in read.of("class")) == 1
    small = Read(score_chart.chart_and_table(board(values=((0.05, 0.02, 0.08),)), "BM25"))
    assert "left:50.00%" in small.of("style"), "on an axis to 0.1"


def test_metrics_are_those_of_the_board_in_its_order():
    rows = pd.concat([board("b"), board("a"), board("b")])
    assert score_chart.metrics(rows) == ["b", "a"]
    assert score_chart.chart_and_table(rows, "no such") == ""
    assert score_chart.chapter_name("chapter02_two_tower") == "2, two tower"


# the page


@pytest.fixture(autouse=True)
def _uploads(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))


def functions(blocks) -> dict[str, list]:
    found: dict[str, list] = {}
    for function in blocks.fns.values():
        found.setdefault(getattr(function.fn, "__name__", "none"), []).append(function)
    return found


def words(blocks) -> str:
    import gradio

    return "\n".join(block.value or "" for block in blocks.blocks.values() if isinstance(block, gradio.HTML))


def test_the_page_can_be_imported_without_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    spec = importlib.util.spec_from_file_location("page_again", page.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    with pytest.raises(CourseError, match="pip install gradio"):
        page.build_page(None)


def test_the_page_asks_the_service_and_says_what_is_wrong(service):
    blocks = page.build_page(service)
    search = functions(blocks)["search"][0].fn
    strongest = service.systems[-1]

    async def ask():
        asked = ("red mug", strongest, False, "BM25", 6, "", "", "", "", "40")
        shown, last = await search(*asked)
        assert last == asked
        expected = await service.search("red mug", k=6, filters=Filters(price_max=40))
        wrong, _ = await search(" ", *asked[1:])
        assert await search(None, *asked[1:]) == (wrong, (None, *asked[1:]))
        unknown, _ = await search("mug", "<b>best</b>", *asked[2:])
        await service.close()
        return shown, expected, wrong, unknown

    shown, expected, wrong, unknown = asyncio.run(ask())
    assert shown == cards.answer(expected, f"Found by {strongest}", BUTTONS)
    assert expected.hits and all(one.product.price <= 40 for one in expected.hits)
    assert wrong.startswith('<p class="alert" role="alert">The query is empty')
    assert "&lt;b&gt;best" in unknown and "<b>best" not in unknown


@pytest.mark.parametrize(
    ("prices", "said"),
    [
        (("-1", ""), "Price from is -1; give a number from 0"),
        (("", "-0.5"), "Price to is -0.5; give a number from 0"),
        (("nan", None), "Price from is nan"),
        ((None, "1e999"), "Price to is inf"),
        (("", "ten"), "Price to is &#x27;ten&#x27;; write a number"),
        (("7", "1"), "Price from, 7, is above price to, 1"),
    ],
)
def test_prices_that_cannot_be_meant_are_told_so(service, prices, said):
    search = functions(page.build_page(service))["search"][0].fn
    told, _ = asyncio.run(search("mug", "BM25", False, "BM25", 6, "", "", "", *prices))
    assert said in told and 'role="alert"' in told


def test_what_is_shown_is_not_searched_again(service):
    import gradio

    blocks = page.build_page(service)
    again = functions(blocks)["again"][0]
    kept = (gradio.skip(), gradio.skip())
    asked = ("mug", "BM25", False, "BM25", 6, "", "", "", "", "")

    async def ask():
        assert await again.fn(asked, *asked) == kept
        for nothing in ("", " ", None):
            assert await again.fn(asked, nothing, *asked[1:]) == kept
        shown, last = await again.fn(asked, *asked[:-1], "30")
        assert "card" in shown and last == (*asked[:-1], "30")
        await service.close()

    asyncio.run(ask())
    labels = {blocks.blocks[block].label for block, _ in again.targets}
    assert {"Category", "Brand", "Colour", "Price from", "Price to", "Searched by", "Products"} <= labels


@pytest.mark.parametrize("data", [None, [], ["id"], "id", 3, {}, {"id": "p1"}])
def test_events_that_no_button_made_name_nothing(data):
    import gradio

    from course.service.page_tabs import data_of

    assert data_of(gradio.EventData(None, data)) == ("p1" if data == {"id": "p1"} else "")


def test_categories_of_nothing_are_told_so(service):
    rank = functions(page.build_page(service))["rank"][0].fn

    async def ask():
        told = await rank(None, None, None, None)
        await service.close()
        return told

    assert "Nothing is given" in asyncio.run(ask())


def test_no_endpoint_of_the_page_is_offered_to_applications(service):
    blocks = page.build_page(service)
    assert {function.api_visibility for function in blocks.fns.values()} == {"private"}
    assert not blocks.analytics_enabled and blocks._queue.default_concurrency_limit is None


def test_an_upload_is_gone_within_the_hour_that_is_promised(service):
    every, age = page.build_page(service).delete_cache
    assert every + age <= 3600


def test_gradio_takes_no_file_that_is_no_upload_and_fetches_none(service, tmp_path):
    import gradio

    blocks = page.build_page(service)
    asked = [one for name in ("search", "rank") for one in functions(blocks)[name]]
    for wanted in ("/etc/hostname", "http://127.0.0.1:9/a.png", "https://example.org/a.png"):
        named = {"path": wanted, "meta": {"_type": "gradio.FileData"}}
        for function in asked:
            for position in range(len(function.inputs)):
                values = [None] * len(function.inputs)
                values[position] = named
                with pytest.raises((gradio.exceptions.InvalidPathError, gradio.Error), match=r"not uploaded|fetches"):
                    asyncio.run(process(blocks, function, values))
    assert not [path for path in (tmp_path / "gradio").rglob("*") if path.is_file()]


async def process(blocks, function, values):
    """What gradio makes of values from a visitor before it calls the function."""
    from gradio.context import LocalContext

    LocalContext.blocks.set(blocks)
    return await blocks.preprocess_data(function, values, None)


def test_nothing_built_is_said_in_every_tab(empty_service):
    blocks = page.build_page(empty_service)
    assert "search" not in functions(blocks)
    assert words(blocks).count("Not built yet") == 7
    assert "run python -m chapter01_baseline.reindex" in words(blocks)


def test_buttons_are_there_only_for_what_is_built(service):
    from course.service.page_tabs import card_actions

    assert card_actions(service) == BUTTONS
    service.missing[SIMILAR] = "not built: run x"
    assert card_actions(service) == (cards.ADD,)
    service.missing[LOOK] = "not built: run x"
    assert card_actions(service) == ()


def test_a_look_takes_each_known_product_once(service, monkeypatch):
    import gradio

    from course.service.page_look import changed

    said = []
    for kind in ("Info", "Warning"):
        monkeypatch.setattr(gradio, kind, lambda message, **_: said.append(message))

    items, shown, tab = changed(service, ["p0001", "p0003", "p0001"])
    assert items == ["p0001", "p0003"] and Read(shown).of("data-id") == items and tab.label == "Look (2)"
    items, shown, tab = changed(service, [])
    assert items == [] and "hint" in shown and tab.label == "Look"
    assert said == []
    changed(service, ["p0001", "p0002"], announce=True)
    assert said.pop() == "In the look: &lt;img src=x onerror=&quot;alert(1)&quot;&gt; &lt;b&gt;mug&lt;/b&gt;"
    assert changed(service, ["p0001", "<b>"]) == (gradio.skip(),) * 3
    assert said == ["There is no product &#x27;&lt;b&gt;&#x27; in toy."]


def test_categories_to_filter_by_are_every_start_of_every_path():
    from course.service.shop import every_level

    assert every_level(["B > C > D", "A", "B > E"]) == ["A", "B", "B > C", "B > C > D", "B > E"]
