"""Serve a search box on a chapter's systems: a page in the browser, or one answer in the terminal.

    python -m chapter02_two_tower.demo                  # a page on this machine; in Colab add --share
    python -m chapter02_two_tower.demo "a red mug"      # a table in the terminal

`python -m course serve` has the whole shop on one page. Both pages need gradio: `pip install gradio`.
"""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import tyro
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.artifacts import Artifacts
from common.catalogue import Catalogue, load_catalogue
from common.catalogue.images import UnusableImage, open_image
from common.category_path import leaf_of
from common.errors import CourseError
from common.search import Searcher

if TYPE_CHECKING:
    import gradio

Systems = Callable[[Artifacts, Catalogue], Mapping[str, Searcher]]
"""A chapter's `systems`: its searchers by name, the strongest last."""

HOST = "127.0.0.1"
HOUR = 3600
SHOWN, MOST = 12, 50
LONGEST_QUERY = 2_000
"""Characters."""
SIDE = 384
"""Pixels of a picture in the gallery."""
PALE = (235, 235, 235)
COLUMNS = ("rank", "score", "product_id", "title", "brand", "category_path", "price")


@dataclass(frozen=True)
class DemoConfig:
    """Search with the chapter's systems: in the browser, or for the query that is given in the terminal."""

    query: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="QUERY", help_behavior_hint="")] = None
    """What you are looking for, in your own words. Without it, a page opens."""
    system: str | None = None
    """Which system searches in the terminal; None: the strongest."""
    k: int = 10
    """How many products to show in the terminal."""
    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    share: bool = False
    """Also give the page a public address, through a tunnel of Gradio's; for Colab. Whoever has it can use the page."""
    port: int | None = None
    """Port of the page on this machine; None: the first free one from 7860 on."""


def serve(systems: Systems, config: DemoConfig) -> None:
    """Print the answer to the query, or without one serve a page until interrupted.

    Raises CourseError if the systems are not built, for an unknown system, and for the page without gradio.
    """
    if config.query is None:
        import_gradio()  # first: whoever lacks it need not wait for the models
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    searchers = systems(Artifacts.for_catalogue(catalogue, config.profile), catalogue)
    if config.query is None:
        launch(build_page(catalogue, searchers), share=config.share, port=config.port)
    else:
        name = config.system or list(searchers)[-1]
        found = find(catalogue, searchers, config.query, name, config.k)
        Console().print(terminal_table(found, f"{config.query}   ({name})"))


def find(catalogue: Catalogue, searchers: Mapping[str, Searcher], query: str, system: str, k: int) -> pd.DataFrame:
    """Return the k best products for a query as a table of `COLUMNS`; missing texts are empty.

    Raises CourseError for an unknown system, an empty query, and a k out of range.
    """
    if system not in searchers:
        raise CourseError(f"demo: no system {system!r}; there are: {', '.join(searchers)}")
    if not query.strip():
        raise CourseError("The query is empty; say in a few words what you are looking for.")
    hits = searchers[system].search([query], k).row(0)
    found = pd.DataFrame(hits, columns=["product_id", "score"]).assign(rank=range(1, len(hits) + 1))
    table = found.merge(catalogue.products, on="product_id", how="left")[list(COLUMNS)]
    texts = ["title", "brand", "category_path"]
    return table.assign(**table[texts].fillna(""))


def terminal_table(found: pd.DataFrame, title: str) -> Table:
    """Return what `find` found as a rich table."""
    table = Table(title=escape(title), title_justify="left")
    for column in ("#", "score"):
        table.add_column(column, justify="right")
    for column in ("product", "brand", "category"):
        table.add_column(column, overflow="fold")
    table.add_column("price", justify="right")
    for row in found.itertuples():
        texts = (row.title or row.product_id, row.brand, leaf_of(row.category_path))
        price = "" if pd.isna(row.price) else f"{row.price:,.2f}"
        table.add_row(str(row.rank), f"{row.score:.3f}", *map(escape, texts), price)
    if not table.row_count:
        table.add_row("", "", "nothing found: try other words", "", "", "")
    return table


def import_gradio() -> ModuleType:
    """Import gradio with its telemetry off. Raises CourseError if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise CourseError("demo: the page needs gradio. Install it with: pip install gradio") from None
    return gradio


def build_page(catalogue: Catalogue, searchers: Mapping[str, Searcher]) -> gradio.Blocks:
    """Build the page: a search box, a choice of systems, and the products as pictures and as a table."""
    gr = import_gradio()
    names, questions = list(searchers), catalogue.split_queries("test")["query"].head(6)
    with gr.Blocks(title="Product search", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown(f"# Product search\n{len(catalogue.products):,} products of {html.escape(catalogue.source)}")
        query = gr.Textbox(label="What are you looking for?", max_length=LONGEST_QUERY)
        with gr.Row():
            system = gr.Dropdown(names, value=names[-1], label="Searched by")
            k = gr.Slider(1, MOST, value=SHOWN, step=1, precision=0, label="Products")
        button = gr.Button("Search", variant="primary")
        if len(questions):
            gr.Examples([[question] for question in questions], [query], cache_examples=False)
        pictured = bool(len(catalogue.images))
        gallery = gr.Gallery(label="Pictures", columns=6, height="auto", object_fit="contain", visible=pictured)
        table = gr.Dataframe(label="Table", interactive=False, wrap=True)

        def answer(query: str, system: str, k: int) -> tuple:
            try:
                found = find(catalogue, searchers, query, system, k)
            except CourseError as error:  # the page reads messages as HTML, and they may quote what somebody typed
                raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None
            return _gallery(catalogue, found) if pictured else [], found.round({"score": 3})

        gr.on([button.click, query.submit], answer, [query, system, k], [gallery, table], api_name="search")
    return page


def launch(page: gradio.Blocks, *, share: bool = False, port: int | None = None) -> None:
    """Serve the page on this machine, and with `share` on a public address too, until interrupted.

    Raises CourseError if the port is taken.
    """
    try:
        page.launch(server_name=HOST, server_port=port, share=share, ssr_mode=False, run_history=False)
    except OSError:
        taken = "ports from 7860 on are" if port is None else f"port {port} is"
        raise CourseError(f"demo: {taken} taken or forbidden; give another with --port.") from None


def _gallery(catalogue: Catalogue, found: pd.DataFrame) -> list[tuple[Image.Image, str]]:
    """Return pictures in memory: for paths, gradio would have to be allowed to serve their folders."""
    captions = (f"{row.rank}. {row.title or row.product_id} · {row.score:.2f}" for row in found.itertuples())
    return [
        (_thumbnail(catalogue.image_path(one)), text) for one, text in zip(found["product_id"], captions, strict=True)
    ]


def _thumbnail(path: Path | None) -> Image.Image:
    if path is not None:
        try:
            return open_image(path, SIDE, at_least=SIDE)
        except UnusableImage:
            pass  # the file was there when the catalogue was read
    return Image.new("RGB", (SIDE, SIDE), PALE)
