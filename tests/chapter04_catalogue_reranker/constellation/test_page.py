"""The page in a real browser: what is drawn, hovered, clicked, searched, filtered and said, with nothing asked of a
network and nothing in the console."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from chapter04_catalogue_reranker.constellation.layout import neighbours, stars
from chapter04_catalogue_reranker.constellation.page import PALETTE, Sky, render
from common.errors import CourseError
from course.bench import FIELDS
from course.benchmarks import constellation as benchmark

pytestmark = pytest.mark.slow

SIDE = 6  # products on a side of the grid
COUNT = SIDE * SIDE
WRONG = {3, 10, 25}
HOSTILE = "</script><img src=x onerror='window.hacked=1'><b>Bold</b> & \"sharp\""


def toy_sky(folder: Path) -> Sky:
    """A grid of 36 products of three departments, far enough apart to be hit one by one; the first has a picture."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-0.6, 0.6, SIDE), np.linspace(-0.6, 0.6, SIDE)))
    places = np.stack([x, y, np.linspace(-0.1, 0.1, COUNT)], axis=1)
    paths = [f"{('Garden', 'Home', 'Toys')[row // 12]} > shelf {row // 6} > leaf" for row in range(COUNT)]
    table = pd.DataFrame({"product_id": [f"p{row}" for row in range(COUNT)], "category_path": paths})
    table["title"] = [f"Product {row} {('red', 'Blué')[row % 2]}" for row in range(COUNT)]
    table.loc[7, "title"], table.loc[8, "title"] = HOSTILE, None
    table["predicted_path"] = [paths[(row + 12) % COUNT] if row in WRONG else paths[row] for row in range(COUNT)]
    table["split"], table["image"] = "test", None
    Image.new("RGB", (200, 200), (10, 250, 20)).save(folder / "green.png")
    table.loc[0, "image"] = "green.png"
    near = neighbours(np.random.default_rng(0).normal(size=(COUNT, 8)), 5)
    points = table.assign(**dict(zip("xyz", places.T, strict=True)))
    return Sky("toy_shop", points, near, stars(places, paths))


@pytest.fixture(scope="module")
def sky(tmp_path_factory) -> Sky:
    return toy_sky(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def address(sky, tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("page") / "constellation.html"
    file.write_text(render(sky, tmp_path_factory.getbasetemp()), encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    try:
        with benchmark.browser() as opened:
            yield opened
    except CourseError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{error} The map is not tested without it.")
        pytest.skip(str(error))


@pytest.fixture
def visit(chromium, address) -> Iterator[Callable]:
    """`visit()` opens the page and waits until it stands still; what it says or asks for is a failure in the end."""
    contexts, heard = [], []

    def open_page(suffix: str = "", *, silent: bool = True, **options):
        options = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"} | options
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        if silent:
            page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error: {error}"))
        page.on("request", lambda request: heard.append(request.url) if request.url.split("#")[0] != address else None)
        page.goto(address + suffix)
        page.evaluate("constellation.settled()")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in heard if not line.startswith("data:image/webp;base64,")] == []


@pytest.fixture
def page(visit):
    """The page without the labels, which would lie over some of the points."""
    opened = visit()
    opened.uncheck("#level-1")
    return opened


def seen(page, row: int) -> tuple[float, float]:
    page.evaluate("constellation.settled()")
    place = page.evaluate(f"constellation.project({row})")
    return place["x"], place["y"]


def api(page, what: str):
    page.evaluate("constellation.settled()")
    return page.evaluate(f"constellation.{what}")


def emphases(page) -> list[str]:
    page.evaluate("constellation.settled()")
    return page.evaluate("Array.from({length: constellation.size}, (_, i) => constellation.emphasis(i))")


def pixel(page, x: float, y: float) -> np.ndarray:
    page.evaluate("constellation.settled()")
    clip = {"x": round(x), "y": round(y), "width": 1, "height": 1}
    return np.array(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB").getpixel((0, 0)))


def colour(row: int) -> np.ndarray:
    """Of the product's department; the largest first, of equal ones by name."""
    return np.array([int(PALETTE[row // 12][at : at + 2], 16) for at in (1, 3, 5)])


def test_points_are_drawn_in_their_colours_where_they_are_said_to_be(page):
    for row in (0, 11, 17, 30, 35):
        drawn = pixel(page, *seen(page, row)).astype(float)
        assert np.corrcoef(drawn, colour(row))[0, 1] > 0.9 and drawn.max() > 120, row
    between = (np.add(seen(page, 14), seen(page, 21))) / 2
    assert pixel(page, *between).max() < 90, "night"


def test_hovering_shows_the_product_under_the_pointer(page):
    for row in (12, 7, 3):
        page.mouse.move(*seen(page, row))
        assert api(page, "hovered") == row
        title = HOSTILE if row == 7 else f"Product {row} {('red', 'Blué')[row % 2]}"
        assert page.text_content("#card strong") == title
        assert page.text_content("#card .path") == f"{('Garden', 'Home')[row // 12]} > shelf {row // 6} > leaf"
        assert page.locator("#card .wrong").count() == (row in WRONG)
    assert page.text_content("#card .wrong") == "taken for: Home > shelf 2 > leaf"
    page.mouse.move(*(np.add(seen(page, 14), seen(page, 21)) / 2))
    assert api(page, "hovered") == -1 and not page.is_visible("#card")
    assert page.evaluate("window.hacked") is None and page.locator("#card b").count() == 0


def test_a_click_selects_and_lists_the_neighbours(page, sky):
    page.mouse.click(*seen(page, 20))
    assert api(page, "selected") == 20 and page.text_content("#chosen-title") == "Product 20 red"
    listed = [int(row.get_attribute("data-product")) for row in page.locator("#neighbours button").all()]
    assert listed == sky.near[20].tolist() == api(page, "neighbours(20)")
    lit = {row for row, kind in enumerate(emphases(page)) if kind == "bright"}
    assert lit == {20, *listed}
    assert page.text_content("#said").startswith("Selected: Product 20 red")
    page.locator("#neighbours button").nth(1).click()
    assert api(page, "selected") == sky.near[20, 1]
    page.click("#close")
    assert api(page, "selected") == -1 and not page.is_visible("#chosen") and set(emphases(page)) == {"plain"}


def test_a_neighbours_picture_on_the_map_can_be_clicked(page, sky):
    page.evaluate("constellation.select(20)")
    page.evaluate("constellation.settled()")
    badges = page.evaluate("badges.map(({i, x, y}) => ({i, x, y}))")
    assert {badge["i"] for badge in badges} == {20, *sky.near[20]}
    inside = [b for b in badges if 320 < b["x"] < 920 and 30 < b["y"] < 770 and b["i"] != 20]
    page.mouse.click(inside[0]["x"], inside[0]["y"])
    assert api(page, "selected") == inside[0]["i"]


def test_the_picture_is_the_products_own(page):
    page.evaluate("constellation.select(0)")
    page.wait_for_selector("#chosen-picture canvas")
    box = page.locator("#chosen-picture canvas").bounding_box()
    page.evaluate("atlas.decode()")
    drawn = pixel(page, box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert np.abs(drawn - (10, 250, 20)).max() < 20


def test_search_finds_all_words_anywhere_and_flies(page, sky):
    page.keyboard.press("/")
    page.keyboard.type("blue product")
    expected = [row for row in range(COUNT) if row % 2 and row != 7]
    assert page.text_content("#found") == f"{len(expected)} found"
    assert [row for row, kind in enumerate(emphases(page)) if kind == "bright"] == expected
    page.fill("#search", "23 blué")
    assert page.text_content("#results") and page.locator("#results button").count() == 1
    page.keyboard.press("Enter")
    assert api(page, "selected") == 23
    np.testing.assert_allclose(
        api(page, "camera()")["target"], sky.points.loc[23, list("xyz")].astype(float), atol=1e-4
    )
    page.fill("#search", "no such thing")
    assert page.text_content("#found") == "0 found"
    page.keyboard.press("Enter")
    assert api(page, "selected") == 23
    page.keyboard.press("Escape")
    assert page.input_value("#search") == "" and api(page, "selected") == -1 and set(emphases(page)) == {"plain"}


def test_departments_are_filtered(page):
    assert [row.text_content() for row in page.locator("#departments li").all()] == ["Garden12", "Home12", "Toys12"]
    assert api(page, "visible") == COUNT
    page.uncheck("#departments li:nth-child(2) input")
    assert api(page, "visible") == 24 and emphases(page)[12:24] == ["hidden"] * 12
    page.mouse.move(*seen(page, 20))
    assert api(page, "hovered") == -1
    assert pixel(page, *seen(page, 20)).max() < 90
    page.fill("#search", "product")
    assert page.text_content("#found") == "22 found", "without the hidden and the two of other titles"
    page.click("#none")
    assert api(page, "visible") == 0
    page.click("#all")
    assert api(page, "visible") == COUNT
    page.click("#none")
    page.evaluate("constellation.select(20)")
    assert api(page, "visible") == 12 and page.is_checked("#departments li:nth-child(2) input")


def test_misclassified_products_stand_out(page):
    assert page.text_content("#wrong-count") == "3"
    page.check("#wrong")
    kinds = emphases(page)
    assert {row for row, kind in enumerate(kinds) if kind == "ringed"} == WRONG
    assert {kinds[row] for row in range(COUNT) if row not in WRONG} == {"dim"}
    page.keyboard.press("m")
    assert set(emphases(page)) == {"plain"}


def test_stars_carry_the_names_of_departments_and_categories(visit):
    page = visit()
    names = "labels.map(({star}) => star.name).sort()"
    assert page.evaluate(names) == ["Garden", "Home", "Toys"]
    page.keyboard.press("l")
    page.evaluate("constellation.settled()")
    assert {"Garden", "Home", "Toys", "shelf 0", "shelf 5"} <= set(page.evaluate(names))
    label = page.evaluate("labels.find(({star}) => star.name === 'Toys')")
    page.mouse.click((label["left"] + label["right"]) / 2, (label["top"] + label["bottom"]) / 2)
    star = label["star"]
    np.testing.assert_allclose(api(page, "camera()")["target"], [star[axis] for axis in "xyz"], atol=1e-6)
    page.uncheck("#departments li:nth-child(3) input")
    page.evaluate("constellation.settled()")
    assert "Toys" not in page.evaluate(names)


def test_mouse_turns_zooms_and_pans(page):
    home = api(page, "camera()")
    page.mouse.move(640, 400)
    page.mouse.down()
    page.mouse.move(740, 430, steps=4)
    page.mouse.up()
    turned = api(page, "camera()")
    assert turned["yaw"] < home["yaw"] and turned["pitch"] > home["pitch"] and turned["target"] == home["target"]
    under = seen(page, 22)
    page.mouse.move(*under)
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(50)
    assert api(page, "camera()")["distance"] < turned["distance"]
    assert np.linalg.norm(np.subtract(seen(page, 22), under)) < 25, "what is under the pointer stays there"
    page.keyboard.down("Shift")
    page.mouse.down()
    page.mouse.move(under[0] + 60, under[1], steps=3)
    page.mouse.up()
    page.keyboard.up("Shift")
    panned = api(page, "camera()")
    assert panned["target"] != turned["target"] and panned["yaw"] == turned["yaw"]
    page.click("#reset")
    assert api(page, "camera()") == home and api(page, "selected") == -1


def test_the_keyboard_does_it_all(page):
    home = api(page, "camera()")
    page.focus("#sky")
    for key in ("ArrowRight", "ArrowUp", "+"):
        page.keyboard.press(key)
    moved = api(page, "camera()")
    assert moved["yaw"] < home["yaw"] and moved["pitch"] < home["pitch"] and moved["distance"] < home["distance"]
    page.keyboard.press("Shift+ArrowRight")
    assert api(page, "camera()")["target"] != moved["target"]
    page.keyboard.press("r")
    assert api(page, "camera()") == home
    page.focus("#sky")
    page.keyboard.press("+")
    page.evaluate("constellation.select(15); constellation.settled().then(() => constellation.select(-1))")
    page.evaluate("constellation.settled()")
    page.keyboard.press("Enter")
    assert api(page, "selected") == 15, "the product in the middle"
    page.keyboard.press("Escape")
    assert api(page, "selected") == -1
    page.keyboard.press("s")
    assert page.is_visible("#stats")
    reached = set()
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.type"))
    assert {"search", "wrong", "level-1", "all", "none", "reset"} <= reached
    unnamed = "e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)"
    controls = "Array.from(document.querySelectorAll('button, input'))"
    assert page.evaluate(f"{controls}.filter({unnamed}).map(e => e.id)") == []


def test_flights_take_time_unless_less_motion_is_asked_for(visit, sky):
    page = visit()
    goal = sky.points.loc[30, list("xyz")].astype(float).to_numpy()
    page.evaluate("constellation.select(30)")
    page.evaluate("constellation.settled()")
    np.testing.assert_allclose(api(page, "camera()")["target"], goal, atol=1e-4)
    moving = visit(reduced_motion="no-preference", silent=False)  # drifts until somebody touches it
    assert moving.evaluate("drifting")
    places = moving.evaluate(
        """() => {
          constellation.select(30);
          const began = flight.began;
          const at = (share) => { moveCamera(began + share * FLIGHT_MS, 0); return camera.target[1]; };
          return [at(0), at(0.25), at(0.5), at(0.75), at(1), flight];
        }"""
    )
    assert places[0] == 0 and (np.diff(places[:5]) > 0).all() and places[4] == pytest.approx(goal[1], abs=1e-4)
    assert places[5] is None, "landed"
    assert not moving.evaluate("drifting")


def test_a_phone_has_no_horizontal_scroll_and_touch_works(visit):
    size = {"width": 390, "height": 844}
    page = visit(viewport=size, has_touch=True, is_mobile=True, device_scale_factor=2)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert not page.is_visible("#departments"), "folded until asked for"
    page.evaluate("$('level-1').click()")
    page.touchscreen.tap(*seen(page, 21))
    assert api(page, "selected") == 21 and page.is_visible("#chosen")
    x, y = seen(page, 21)
    top, bottom = page.locator("#panel").bounding_box(), page.locator("#chosen").bounding_box()
    assert top["y"] + top["height"] < y < bottom["y"] and 0 < x < 390, "in what the panels leave free"
    page.click("summary")
    assert page.is_visible("#departments")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for selector in ("#panel", "#chosen"):
        box = page.locator(selector).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390


def test_nothing_but_the_pages_own_script_runs(visit):
    page = visit(silent=False)
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked = 1'}))")
    page.evaluate("document.body.setAttribute('onclick', 'window.hacked = 2'); document.body.click()")
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("fetch('data:,x').then(() => 'fetched', () => 'refused')") == "refused"


def test_a_lost_graphics_context_comes_back(visit):
    page = visit(silent=False)
    page.evaluate("$('level-1').click()")
    before = pixel(page, *seen(page, 17))
    back = "new Promise((done) => $('points').addEventListener('webglcontextrestored', () => setTimeout(done)))"
    page.evaluate(
        f"""() => {{
          const lose = gl.getExtension("WEBGL_lose_context"), back = {back};
          lose.loseContext();
          setTimeout(() => lose.restoreContext(), 50);
          return back;
        }}"""
    )
    assert np.abs(pixel(page, *seen(page, 17)).astype(int) - before).max() <= 2


def test_statistics_are_shown_when_the_address_asks(visit):
    page = visit("#stats")
    statistics = page.evaluate("constellation.spin(30)")
    assert statistics["count"] == 30 and 0 <= statistics["median"] <= statistics["p95"]
    assert "a frame, p95" in page.text_content("#stats")


def test_fifty_thousand_points_load_and_turn_within_a_frame(chromium):
    row = benchmark.measured(chromium, benchmark.POINTS, frames=40, peer_frames=4)
    assert set(FIELDS) <= set(row) and row["name"] == "constellation"
    assert row["script_ms"] <= row["script_ms_p95"] and row["script_ms"] < benchmark.BUDGET_MS
    assert row["ratio"] > 1 and row["page_mb"] < 10 and "50,000 points" in row["note"]


def test_without_a_browser_the_benchmark_says_what_to_install(monkeypatch):
    monkeypatch.setattr(benchmark.shutil, "which", lambda name: None)
    with pytest.raises(CourseError, match="no browser: install one of chromium"):
        benchmark.main(points=30)
