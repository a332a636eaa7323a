"""The page in a real browser, over the toy shop: each tab as a visitor would use it, with mouse, keyboard and phone.

Nothing may be asked of another host, no script may fail, and what is shown is what the API answers.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import httpx
import pytest
import uvicorn

from common.errors import CourseError
from course.benchmarks.constellation import browser
from course.service.api import build_api
from course.service.page import mount_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning:gradio"),  # gradio's own queue
]

HOSTILE_TITLE = '<img src=x onerror="alert(1)"> <b>mug</b>'
TABS = ("Search", "By picture", "Similar", "Look", "Categories", "Scoreboard", "Map")
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
MILLISECONDS = 30_000
NOISE = ("Method not implemented.",)  # gradio's picture box says so in the console


@contextmanager
def served(service) -> Iterator[str]:
    app = build_api(service)
    mount_page(app, service)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            patience = monotonic() + 60
            while not server.started and thread.is_alive() and monotonic() < patience:
                sleep(0.05)
            assert server.started
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


@contextmanager
def in_a_process(script: Path, folder: Path, token: str) -> Iterator[str]:
    """The service as it is started, page and token included."""
    folder.mkdir()
    environment = os.environ | {"COURSE_API_TOKEN": token, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(folder), "0", "page"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log, env=environment) as process:
        try:
            patience = monotonic() + 120
            while not (said := re.search(r"listening on (\S+)\n", (folder / "log").read_text())):
                assert process.poll() is None and monotonic() < patience, "the service did not start"
                sleep(0.05)
            yield said[1]
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator:
    made = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(made / "uploads"))
        yield made


@pytest.fixture(scope="module")
def address(toy_service, folder) -> Iterator[str]:
    with served(toy_service(folder / "toy")) as found:
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(browser())
        except CourseError as error:
            give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            give_up(f"The page is not tested: {error}")
        yield opened


@pytest.fixture
def visit(chromium, request) -> Iterator[Callable]:
    """`visit()` opens the page; a request to another host, a failing script and a dialog are failures in the end."""
    contexts, heard = [], []

    def open_page(at: str | None = None, **options):
        start = at or request.getfixturevalue("address")
        contexts.append(chromium.new_context(**({"viewport": {"width": 1280, "height": 900}} | options)))
        page = contexts[-1].new_page()
        page.set_default_timeout(MILLISECONDS)
        own = (start, "data:", f"blob:{start}")
        page.on("request", lambda asked: None if asked.url.startswith(own) else heard.append(asked.url))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("console", lambda said: heard.append(said.text) if said.type in ("error", "warning") else None)
        page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
        page.goto(start)
        page.get_by_role("tab", name="Search").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in heard if line not in NOISE] == []


@pytest.fixture
def page(visit):
    return visit()


def search(page, query: str) -> None:
    page.get_by_label("What are you looking for?").fill(query)
    page.get_by_label("What are you looking for?").press("Enter")


def shown(page, within: str = "") -> list[str]:
    """Product ids of the visible cards, in order."""
    page.locator(f"{within} ol.cards:visible").first.wait_for()
    buttons = page.locator(f"{within} ol.cards:visible button[data-do=add_item]").all()
    return [button.get_attribute("data-id") for button in buttons]


def asked(address: str, **question) -> list[str]:
    """What the API answers to a search."""
    return ids(httpx.post(f"{address}/search", json=question))


def ids(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [hit["product"]["product_id"] for hit in reply.json()["hits"]]


def open_tab(page, name: str) -> None:
    page.get_by_role("tab", name=re.compile(f"^{name}")).click()


def choose(page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def width(page) -> int:
    return page.evaluate("document.documentElement.scrollWidth")


def tab_to(page, wanted: str, most: int = 80) -> None:
    """Press Tab until the element in focus answers to the selector."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("(wanted) => document.activeElement.matches(wanted)", wanted):
            return
    raise AssertionError(f"{wanted} cannot be reached by keyboard")


# search


def test_search_to_similar_by_keyboard_alone(page, address):
    tab_to(page, "#query textarea, #query input")
    page.keyboard.type("blue kettle")
    page.keyboard.press("Enter")
    found = shown(page)
    assert found == asked(address, query="blue kettle", k=12) and len(found) == 12
    tab_to(page, "button[data-do=similar]")
    outline = "getComputedStyle(document.activeElement).outlineWidth"
    assert page.evaluate(outline) == "3px", "the focus can be seen"
    page.keyboard.press("Enter")
    page.locator("#similar .detail").wait_for()
    assert page.get_by_role("tab", name="Similar").get_attribute("aria-selected") == "true"
    assert shown(page, "#similar") == ids(httpx.get(f"{address}/similar", params={"item_id": found[0], "k": 12}))
    page.wait_for_function("document.activeElement.matches('#similar h2')")
    tab_to(page, "#similar button[data-do=add_item]", most=2)


def test_titles_that_are_html_are_text(page):
    search(page, "img onerror alert")
    card = page.locator("li.card").filter(has=page.locator("[data-id=p0002]"))
    assert card.locator("h3").inner_text() == HOSTILE_TITLE
    assert card.locator("img").count() == 1 and page.locator("img[src=x], h3 b").count() == 0
    card.get_by_role("button", name=re.compile("^Add to look")).click()
    page.get_by_text(f"In the look: {HOSTILE_TITLE}").wait_for()
    card.get_by_role("button", name=re.compile("^Similar")).click()
    assert page.locator("#similar .detail h2").inner_text() == HOSTILE_TITLE
    assert page.locator("img[src=x]").count() == 0


def test_pictures_are_shown_and_missing_ones_said(page):
    search(page, "jacket")
    shown(page)
    without = page.locator("li.card").filter(has=page.locator("[data-id=p0003]"))
    assert without.get_by_role("img", name="no picture").count() == 1
    picture = page.locator("li.card img").first
    picture.scroll_into_view_if_needed()
    page.wait_for_function("(picture) => picture.complete && picture.naturalWidth > 0", arg=picture.element_handle())
    assert picture.get_attribute("alt") == page.locator("li.card:has(img) h3").first.inner_text()


def test_two_systems_side_by_side(page, address):
    search(page, "green lamp")
    shown(page)
    page.get_by_label("Side by side").check()
    page.locator(".columns").wait_for()
    columns = page.locator(".columns > section")
    assert [columns.nth(side).locator("h2").inner_text() for side in (0, 1)] == ["MiniLM", "BM25"]
    answers = [asked(address, query="green lamp", k=12, system=system) for system in ("MiniLM", "BM25")]
    for side, own, other in ((0, *answers), (1, *answers[::-1])):
        buttons = columns.nth(side).locator("button[data-do=add_item]").all()
        assert [button.get_attribute("data-id") for button in buttons] == own
        marks = columns.nth(side).locator(".also").all_inner_texts()
        assert marks == [f"also #{other.index(one) + 1}" for one in own if one in other]
    shared = len(set(answers[0]) & set(answers[1]))
    assert shared and page.locator(".overlap").inner_text().startswith(f"{shared} of 12")


def test_the_system_and_the_number_can_be_changed(page, address):
    search(page, "white mug")
    shown(page)
    choose(page, "Searched by", "BM25")
    page.get_by_role("heading", name="Found by BM25").wait_for()
    choose(page, "Products", "6")
    page.get_by_text("6 products.").wait_for()
    assert shown(page) == asked(address, query="white mug", k=6, system="BM25")


def test_filters_narrow_and_an_empty_one_says_so(page, address):
    page.get_by_role("button", name="Filters").click()
    choose(page, "Category", "Kitchen & Dining > Tableware")
    choose(page, "Brand", "Corbo")
    page.get_by_label("Price to").fill("40")
    search(page, "mug")
    filters = {"category": "Kitchen & Dining > Tableware", "brand": "Corbo", "price_max": 40}
    found = shown(page)
    assert found == asked(address, query="mug", k=12, filters=filters) and 0 < len(found) < 12
    page.get_by_label("Price to").fill("1")
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_text("No product fits the filters").wait_for()
    assert page.locator("li.card").count() == 0


def test_a_filter_that_changes_is_searched_with_at_once(page, address):
    search(page, "mug")
    shown(page)
    page.get_by_role("button", name="Filters").click()
    choose(page, "Brand", "Corbo")
    page.wait_for_function(
        "[...document.querySelectorAll('li.card .brand')].every((one) => /Corbo/i.test(one.textContent))"
    )
    assert shown(page) == asked(address, query="mug", k=12, filters={"brand": "Corbo"})
    page.get_by_label("Price to").fill("1")
    page.get_by_label("Price to").blur()
    page.get_by_text("No product fits the filters").wait_for()
    page.get_by_label("Price from").fill("7")
    page.get_by_label("Price from").press("Enter")
    page.get_by_role("alert").filter(has_text="Price from, 7, is above price to, 1").wait_for()
    page.get_by_label("Price to").fill("-2")
    page.get_by_label("Price to").press("Tab")
    page.get_by_role("alert").filter(has_text="Price to is -2").wait_for()
    assert page.locator("li.card").count() == 0 and page.get_by_text("Error", exact=True).count() == 0


def test_an_example_is_asked_at_once(page, address):
    page.get_by_role("button", name="red mug").click()
    assert shown(page) == asked(address, query="red mug", k=12)
    assert page.get_by_label("What are you looking for?").input_value() == "red mug"


def test_an_empty_query_is_told_what_is_wrong(page):
    page.get_by_role("button", name="Search", exact=True).click()
    alert = page.get_by_role("alert").filter(has_text="The query is empty")
    alert.wait_for()
    search(page, "mug")
    assert shown(page) and alert.count() == 0


# the other tabs


def test_a_picture_finds_what_looks_like_it(page, address, folder):
    open_tab(page, "By picture")
    file = folder / "toy" / "pictures" / "p0004.png"
    page.locator("input[type=file]").set_input_files(file)
    found = shown(page)
    with file.open("rb") as opened:
        reply = httpx.post(f"{address}/search/image", files={"picture": opened}, data={"k": 12})
    assert found == ids(reply)
    assert page.locator("ol.bars .figure").all_inner_texts() == ["25.0%"] * 4


def test_a_file_that_is_no_picture_is_refused_in_our_words(page, folder):
    open_tab(page, "By picture")
    broken = folder / "broken.png"
    broken.write_bytes(b"<svg onload='alert(1)'>")
    page.locator("input[type=file]").set_input_files(broken)
    page.get_by_role("alert").filter(has_text=re.compile("picture")).wait_for()
    assert page.locator("li.card").count() == 0


def test_a_look_is_gathered_from_cards_and_completed(page, address):
    search(page, "black jacket")
    first, second, third = shown(page)[:3]
    for number, one in enumerate((first, second, third), start=1):
        page.locator(f"button[data-do=add_item][data-id={one}]").click()
        page.get_by_role("tab", name=f"Look ({number})").wait_for()
    open_tab(page, "Look")
    strip = page.locator("#your-look")
    assert strip.locator("li").count() == 3
    strip.locator(f"button[data-id={second}]").click()
    page.get_by_role("tab", name="Look (2)").wait_for()
    choose(page, "Missing", "Kitchen & Dining")
    page.get_by_role("button", name="Complete the look").click()
    asked = {"context_ids": [first, third], "gap_category": "Kitchen & Dining", "k": 12}
    expected = ids(httpx.get(f"{address}/complete-look", params=asked))
    page.locator("#look li.card").first.wait_for()
    assert shown(page, "#look") == expected and expected


def test_an_empty_look_says_what_to_do(page):
    open_tab(page, "Look")
    page.get_by_role("button", name="Complete the look").click()
    page.get_by_role("alert").filter(has_text="context is empty").wait_for()
    choose(page, "Add a product", "Red kettle 1 (p0001)")
    page.get_by_role("tab", name="Look (1)").wait_for()


def test_similar_products_of_one_that_is_chosen_or_typed(page, address):
    open_tab(page, "Similar")
    box = page.get_by_label("Product", exact=True)
    for product_id in ("p0020", "p0031"):
        box.fill(product_id)
        box.press("Enter")
        page.get_by_role("button", name="Show similar").click()
        page.locator(f"#similar .detail [data-id={product_id}]").wait_for()
        expected = ids(httpx.get(f"{address}/similar", params={"item_id": product_id, "k": 12}))
        assert shown(page, "#similar") == expected and product_id not in expected
    box.fill("<b>none</b>")
    box.press("Enter")
    page.get_by_role("button", name="Show similar").click()
    page.get_by_role("alert").filter(has_text="There is no product '<b>none</b>'").wait_for()


def test_categories_of_a_product_typed_and_pictured(page, folder):
    open_tab(page, "Categories")
    page.get_by_role("button", name="Rank categories").click()
    page.get_by_role("alert").filter(has_text="Nothing is given").wait_for()
    page.get_by_label("Title").fill("A <b>mug</b>")
    page.get_by_role("button", name="Categories of your own").click()
    page.get_by_label("One a line").fill("Home > Mugs\n\n Home > Cups <i>\n")
    page.get_by_role("button", name="Rank categories").click()
    page.locator("ol.bars").wait_for()
    assert page.locator("ol.bars .path").all_inner_texts() == ["Home › Mugs", "Home › Cups <i>"]
    assert page.locator("ol.bars .figure").all_inner_texts() == ["66.7%", "33.3%"]
    assert page.locator(".share").get_attribute("aria-label") == "text 100%, picture 0%"
    assert shown(page) == ["p0000", "p0001", "p0002"]
    page.locator("input[type=file]").set_input_files(folder / "toy" / "pictures" / "p0004.png")
    page.locator("img[src*='gradio_api/file']").wait_for()
    page.get_by_role("button", name="Rank categories").click()
    page.get_by_role("img", name="text 40%, picture 60%").wait_for()


def test_the_scoreboard_shows_the_figures_of_each_metric(page):
    open_tab(page, "Scoreboard")
    lines = page.locator(".chart .line:not(.axis)")
    assert lines.locator(".system").all_inner_texts() == ["BM25", "MiniLM"]
    assert lines.locator(".figure").all_inner_texts() == ["0.400", "0.500"]
    boxes = [lines.nth(row).locator(".dot").bounding_box()["x"] for row in (0, 1)]
    assert boxes[0] < boxes[1]
    choose(page, "Metric", "MRR")
    page.get_by_role("heading", name="MRR").wait_for()
    assert page.locator(".board tbody tr").all_inner_texts() == ["1, baseline\tBM25\t0.5000\t0.400 to 0.600\t2\t0.10"]


def test_the_map_is_shut_in_its_frame(page, address):
    open_tab(page, "Map")
    frame = page.get_by_title("Map of all products")
    assert frame.get_attribute("sandbox") == "allow-scripts"
    frame.content_frame.get_by_text("a toy map").wait_for()
    alone = page.get_by_role("link", name="Open the map alone")
    assert alone.get_attribute("href") == "/constellation"


def test_behind_a_token_the_password_opens_everything(visit, toy_script, folder):
    with in_a_process(toy_script, folder / "token", "a-token") as address:
        assert httpx.get(address).status_code == 401
        page = visit(address, http_credentials={"username": "anyone", "password": "a-token"})
        search(page, "red mug")
        assert len(shown(page)) == 12
        open_tab(page, "By picture")
        page.locator("input[type=file]").set_input_files(folder / "token" / "pictures" / "p0004.png")
        assert len(shown(page)) == 12
        preview = page.locator("img[src*='gradio_api/file']")
        page.wait_for_function("(shown) => shown.naturalWidth > 0", arg=preview.element_handle())
        page.goto("about:blank")  # before the service goes


def test_what_is_not_built_says_what_to_run(visit, toy, folder):
    with served(toy["empty_service"](folder / "empty")) as address:
        page = visit(address)
        for name in TABS:
            open_tab(page, name)
            page.get_by_role("heading", name="Not built yet").locator("visible=true").wait_for()
            assert "run python -m chapter01_baseline.reindex" in page.locator("pre:visible").first.inner_text()
        assert page.get_by_role("textbox").count() == 0


def test_a_phone_needs_no_horizontal_scroll(visit, folder):
    page = visit(**PHONE)
    search(page, "red mug")
    shown(page)
    columns = {round(card.bounding_box()["x"]) for card in page.locator("li.card").all()}
    assert len(columns) == 2 and width(page) == 390
    page.get_by_label("Side by side").check()
    page.locator(".columns").wait_for()
    assert width(page) == 390
    page.locator("button[data-do=add_item]").first.tap()
    page.get_by_role("tab", name="Look (1)").wait_for()
    page.locator("button[data-do=similar]").first.tap()
    page.locator("#similar .detail").wait_for()
    assert width(page) == 390
    for name in TABS:
        open_tab(page, name)
        assert page.get_by_role("tab", name=re.compile(f"^{name}")).get_attribute("aria-selected") == "true"
        if name == "By picture":
            page.locator("input[type=file]").set_input_files(folder / "toy" / "pictures" / "p0004.png")
            shown(page)
        assert width(page) == 390, name


def test_by_night_text_can_be_read(visit):
    def contrast(page, selector: str) -> float:
        return page.evaluate(
            """(selector) => {
              const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map((c) => c / 255)
                .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
                .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
              const element = document.querySelector(selector);
              let behind = element;
              while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
              const pair = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(light);
              return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
            }""",
            selector,
        )

    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme)
        search(page, "red mug")
        shown(page)
        for selector in ("h3", ".legend", ".score", ".brand", ".actions button", ".masthead p", "[role=tab]"):
            assert contrast(page, selector) >= 4.5, (scheme, selector)
