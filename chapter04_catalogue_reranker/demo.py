"""The chapter's demo: a product in, its ranked category paths and its nearest products out.

    python -m chapter04_catalogue_reranker.demo                                        # a page in the browser
    python -m chapter04_catalogue_reranker.demo --title "Oak side table" --image table.jpg     # in the terminal

On Colab the page needs `--share`. What is asked is answered by `demo_functions`; here stand only the boxes and tables.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from PIL import Image
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from chapter03_multimodal.demo import HOUR, PALE, SIDE, import_gradio, launch
from chapter04_catalogue_reranker.demo_functions import (
    LONGEST_TEXT,
    MOST,
    Answer,
    DemoState,
    load_state,
    parse_candidates,
    rank_product,
)
from common.artifacts import Artifacts
from common.catalogue import load_catalogue
from common.catalogue.images import UnusableImage, open_image
from common.cli import run_step
from common.errors import CourseError

if TYPE_CHECKING:
    import gradio

BAR = 20  # characters of a probability of 1 in the terminal


@dataclass(frozen=True)
class DemoConfig:
    """Rank the categories of one product in the terminal, or without a product open the chapter's page."""

    title: str | None = None
    """Of the product."""
    description: str | None = None
    """Of the product."""
    image: Path | None = None
    """A picture of the product."""
    candidates: tuple[str, ...] = ()
    """Category paths ("A > B > C") to rank; none: the whole taxonomy."""
    k: int = 10
    """How many categories to print, and how many products."""
    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    share: bool = False
    """Also give the page a public address, through a tunnel of Gradio's; for Colab. Whoever has it can use the demo."""
    port: int | None = None
    """Of the page's address on this machine; None: the first free one from 7860 on."""


def main(config: DemoConfig) -> None:
    """Print the ranking of the product that is given, else serve the page until interrupted. Raises CourseError if the
    export is not there, and for the page without gradio."""
    given = any(part is not None for part in (config.title, config.description, config.image))
    if not given:
        import_gradio()  # first: whoever lacks it need not wait for the model
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    state = load_state(Artifacts.for_catalogue(catalogue, config.profile), catalogue)
    if not given:
        launch(build(state), share=config.share, port=config.port)
        return
    answer = rank_product(
        state,
        config.title,
        config.description,
        config.image,
        candidates=config.candidates,
        k=config.k,
        neighbours=config.k,
    )
    Console().print(in_the_terminal(answer))


def in_the_terminal(answer: Answer) -> Group:
    """The answer as two rich tables: ranked paths with their probabilities, and the nearest products."""
    ranking = Table(title="Categories", title_justify="left", caption=escape(answer.note) or None)
    ranking.add_column("#", justify="right")
    ranking.add_column("category", overflow="fold", ratio=1)
    ranking.add_column("probability", justify="right")
    ranking.add_column("", width=BAR)
    for rank, (path, probability) in enumerate(answer.ranking, start=1):
        ranking.add_row(str(rank), escape(path), f"{probability:.3f}", "█" * round(BAR * probability))
    used = ", ".join(f"{name} {share:.0%}" for name, share in answer.shares.items())
    nearest = Table(title="Nearest products", title_justify="left", caption=f"looked at: {used}")
    for column in ("#", "cosine", "title", "category"):
        nearest.add_column(column, overflow="fold")
    for row in answer.neighbours.itertuples():
        nearest.add_row(str(row.rank), f"{row.score:.3f}", escape(row.title), escape(row.category_path))
    return Group(ranking, nearest)


def build(state: DemoState) -> gradio.Blocks:
    """The page: a product's texts and picture on the left, what the model makes of it on the right."""
    gr = import_gradio()
    products, paths = len(state.export.products), len(state.export.categories)
    with gr.Blocks(title="Catalogue reranker", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown(
            f"# Which category?\n{products:,} products of {html.escape(state.catalogue.source)}, {paths:,} categories"
        )
        with gr.Row():
            with gr.Column():
                title = gr.Textbox(label="Title", max_length=LONGEST_TEXT)
                description = gr.Textbox(label="Description", lines=4, max_length=LONGEST_TEXT)
                # The file itself (image_mode=None), so that it is our own checks that decode it.
                picture = gr.Image(type="filepath", image_mode=None, sources=["upload", "clipboard"], label="Picture")
                candidates = gr.Textbox(
                    label="Candidates (optional)",
                    info="Category paths to choose from, one a line. None: the whole taxonomy.",
                    lines=3,
                )
                k = gr.Slider(1, MOST, value=10, step=1, precision=0, label="Categories")
                button = gr.Button("Rank the categories", variant="primary")
            with gr.Column():
                note = gr.Markdown()
                ranking = gr.Label(num_top_classes=MOST, label="Categories")
                shares = gr.Label(label="What the model looked at")
        nearest = gr.Gallery(label="Nearest products", columns=4, height="auto", object_fit="contain")

        def answer(title: str, description: str, picture: str | None, candidates: str, k: int) -> tuple:
            with _said_on_the_page(gr):
                file = None if picture is None else Path(picture)
                found = rank_product(state, title, description, file, candidates=parse_candidates(candidates), k=k)
            return _as_html(found.note), dict(found.ranking), found.shares, _gallery(found)

        asked = [title, description, picture, candidates, k]
        gr.on([button.click, title.submit], answer, asked, [note, ranking, shares, nearest], api_name="rank_product")
    return page


def _gallery(answer: Answer) -> list[tuple[Image.Image, str]]:
    """Pictures in memory: from paths, gradio would have to be allowed to serve the folders in which they lie."""
    rows = answer.neighbours.itertuples()
    return [(_thumbnail(row.picture), f"{row.title} · {row.category_path} · {row.score:.2f}") for row in rows]


def _thumbnail(path: Path | None) -> Image.Image:
    if path is not None:
        try:
            return open_image(path, SIDE, at_least=SIDE)
        except UnusableImage:
            pass  # it was there when the catalogue was read
    return Image.new("RGB", (SIDE, SIDE), PALE)


@contextmanager
def _said_on_the_page(gr: ModuleType) -> Iterator[None]:
    try:
        yield
    except CourseError as error:
        raise gr.Error(_as_html(str(error)), print_exception=False) from None


def _as_html(text: str) -> str:
    """What the page shows of a text that may quote what somebody typed."""
    return html.escape(text, quote=False).replace("\n", "<br>")


if __name__ == "__main__":
    run_step(main)
