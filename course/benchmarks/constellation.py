"""Measure the frames a second that the constellation's script could prepare, against a plain loop in one browser.

Both turn the same random points a little every frame. Ours projects, orders and hands them to WebGL; the plain loop
projects them one by one and draws each as a square on a 2-D canvas. Only the script's time counts, which the browser's
main thread spends: painting happens elsewhere, on a graphics chip where there is one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from chapter04_catalogue_reranker.constellation.layout import stars
from chapter04_catalogue_reranker.constellation.page import Sky, render
from common.errors import CourseError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

POINTS, FRAMES, PEER_FRAMES = 50_000, 120, 20
BUDGET_MS = 1000 / 60
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--ignore-gpu-blocklist", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
PLAIN_LOOP = """(frames) => new Promise((resolve) => {
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d"), spent = [];
  [canvas.width, canvas.height] = [innerWidth, innerHeight];
  const draw = () => {
    const began = performance.now();
    camera.yaw += 0.01;
    updateAxes();
    pen.clearRect(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < N; i++) {
      const { x, y } = see(place[3 * i], place[3 * i + 1], place[3 * i + 2]);
      pen.fillStyle = colourOf(i);
      pen.fillRect(x - 1, y - 1, 3, 3);
    }
    spent.push(performance.now() - began);
    if (spent.length < frames) requestAnimationFrame(draw);
    else resolve(spent);
  };
  document.body.append(canvas);
  requestAnimationFrame(draw);
})"""


def main(points: int = POINTS, *, frames: int = FRAMES, peer_frames: int = PEER_FRAMES) -> list[dict[str, Any]]:
    """Measure with that many random points, without thumbnails.

    Returns one row: name, ours, peer, unit, our_value and peer_value (1,000 over the script's milliseconds a frame,
    medians), ratio, script_ms and script_ms_p95 (ours), load_ms (from the start of navigation to the first frame),
    page_mb, note. Raises CourseError without playwright or Chromium.
    """
    with browser() as chromium:
        return [measured(chromium, points, frames, peer_frames)]


def measured(chromium: Browser, points: int, frames: int, peer_frames: int) -> dict[str, Any]:
    """Return the row of `main`, measured in an open browser."""
    text = render(random_sky(points))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "constellation.html")
        file.write_text(text, encoding="utf-8")
        page = chromium.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
        page.goto(file.as_uri())
        page.evaluate("constellation.settled()")
        load_ms = page.evaluate("constellation.loadedMs")
        ours = page.evaluate("(frames) => constellation.spin(frames)", frames)
        plain = float(np.median(page.evaluate(PLAIN_LOOP, peer_frames)))
        page.close()
    script = max(ours["median"], 0.1)  # the browser's clock ticks every 0.1 ms
    return {
        "name": "constellation",
        "ours": "WebGL 2, points ordered by a counting sort",
        "peer": "canvas 2-D, a square a point",
        "unit": "frames/s of script",
        "our_value": round(1000 / script, 1),
        "peer_value": round(1000 / plain, 1),
        "ratio": round(plain / script, 2),
        "script_ms": round(script, 2),
        "script_ms_p95": round(ours["p95"], 2),
        "load_ms": round(load_ms),
        "page_mb": round(len(text.encode()) / 1e6, 2),
        "note": f"{points:,} points; 60 frames a second leave {BUDGET_MS:.1f} ms; Chromium {chromium.version}, no GPU",
    }


def random_sky(count: int, seed: int = 0) -> Sky:
    """Return products in random clusters of 40 categories, with random titles, predictions and neighbours."""
    rng = np.random.default_rng(seed)
    names = np.array([f"Department {number % 10} > Shelf {number // 10} > Category {number}" for number in range(40)])
    category = rng.integers(0, len(names), count)
    places = rng.normal(0, 0.35, (len(names), 3))[category] + rng.normal(0, 0.06, (count, 3))
    places /= np.linalg.norm(places, axis=1).max()
    predicted = np.where(rng.random(count) < 0.2, rng.integers(0, len(names), count), category)
    words = np.array(["amber", "lamp", "steel", "chair", "linen", "cup", "striped", "boot", "oak", "cable"])
    titles = [" ".join(row) for row in words[rng.integers(0, len(words), (count, 5))]]
    points = pd.DataFrame(
        {"product_id": [f"p{number:07d}" for number in range(count)], "title": titles}
        | {"category_path": names[category], "predicted_path": names[predicted], "split": "test", "image": None}
        | dict(zip("xyz", places.T, strict=True))
    )
    near = (np.arange(count)[:, None] + rng.integers(1, count, (count, 10))) % count
    return Sky("random", points, near, stars(places, names[category]))


@contextmanager
def browser() -> Iterator[Browser]:
    """Open a headless Chromium that draws in software. Raises `CourseError` without playwright or Chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise CourseError("the map is opened by playwright; install the extra: pip install -e .[dev]") from None
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise CourseError(f"no browser: install one of {', '.join(BROWSERS)} and put it on the PATH.")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        try:
            yield opened
        finally:
            opened.close()
