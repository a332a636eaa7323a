"""The chapter in a browser: `python -m chapter03_multimodal.demo`, on Colab with `--share`.

Text to pictures, a picture to similar products and its category, and complete the look. What is asked is answered by
`demo_functions`; here stand only the boxes. Needs gradio: `pip install gradio`.
"""

from __future__ import annotations

import html
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from PIL import Image

from chapter03_multimodal.demo_functions import (
    CATEGORY,
    LONGEST_QUERY,
    LOOK,
    MOST,
    PICTURE,
    TEXT,
    TOP_CATEGORIES,
    DemoState,
    Found,
    Gallery,
    context_choices,
    gap_categories,
    load_state,
    look,
    search_picture,
    search_text,
    shown,
)
from common.artifacts import Artifacts
from common.catalogue import load_catalogue
from common.catalogue.images import UnusableImage, open_image
from common.cli import run_step
from common.errors import CourseError

if TYPE_CHECKING:
    import gradio

HOST = "127.0.0.1"
LARGEST_UPLOAD = "20mb"
HOUR = 3600
SIDE = 384
"""Pixels of a picture in a gallery."""
PALE = (235, 235, 235)
ANYTHING = "anything"


@dataclass(frozen=True)
class DemoConfig:
    """Open the chapter's demo in a browser."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    share: bool = False
    """Also give a public address, through a tunnel of Gradio's; for Colab. Whoever has the address can use the demo."""
    port: int | None = None
    """Of the address on this machine; None: the first free one from 7860 on."""


def main(config: DemoConfig) -> None:
    """Load what is built and serve it until interrupted. Raises CourseError without gradio, and if nothing is built."""
    import_gradio()  # first: whoever lacks it need not wait for the models
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    state = load_state(Artifacts.for_catalogue(catalogue, config.profile), catalogue)
    if not state.searchers and state.pictures is None and state.finder is None:
        raise CourseError("demo: nothing is built yet.\n" + "\n".join(dict.fromkeys(state.missing.values())))
    launch(build(state), share=config.share, port=config.port)


def import_gradio() -> ModuleType:
    """gradio, with its telemetry off; CourseError if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise CourseError("demo: the page needs gradio. Install it with: pip install gradio") from None
    return gradio


def build(state: DemoState) -> gradio.Blocks:
    """The page: a tab for each of the three questions. A part that is not built shows the command that builds it."""
    gr = import_gradio()
    # Uploads and thumbnails lie in gradio's temporary folder, each for an hour.
    with gr.Blocks(title="Multimodal search", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown(f"# Multimodal search\n{len(state.products):,} products of {state.catalogue.source}")
        for name, fill in (
            ("Text to pictures", _text_tab),
            ("Picture to similar products", _picture_tab),
            ("Complete the look", _look_tab),
        ):
            with gr.Tab(name):
                fill(gr, state)
    return page


def launch(page: gradio.Blocks, *, share: bool = False, port: int | None = None, wait: bool = True) -> str:
    """Serve the page on this machine, and with `share` on a public address too; return the local one.

    wait: until interrupted; without it, `page.close()` ends the service. Raises CourseError if the port is taken.
    """
    try:
        _, address, _ = page.launch(
            server_name=HOST,
            server_port=port,
            share=share,
            prevent_thread_lock=not wait,
            show_error=True,  # gradio reads the header of an upload before we do, and then the words are its own
            ssr_mode=False,
            run_history=False,
            max_file_size=LARGEST_UPLOAD,
        )
    except OSError:
        taken = "ports from 7860 on are" if port is None else f"port {port} is"
        raise CourseError(f"demo: {taken} taken or forbidden; give another with --port.") from None
    return address


def _text_tab(gr: ModuleType, state: DemoState) -> None:
    _say_what_is_missing(gr, state, TEXT)
    if not state.searchers:
        return
    names = list(state.searchers)
    query = gr.Textbox(label="What are you looking for?", max_length=LONGEST_QUERY)
    with gr.Row():
        system = gr.Dropdown(names, value=names[-1], label="Searched by")
        k = gr.Slider(1, MOST, value=12, step=1, precision=0, label="Products")
    button = gr.Button("Search", variant="primary")
    questions = state.catalogue.split_queries("test")["query"].head(6)
    if len(questions):
        gr.Examples([[question] for question in questions], [query], cache_examples=False)
    results = _results(gr)

    def answer(query: str, system: str, k: int) -> list:
        return _displayed(search_text(state, query, system, k))

    gr.on([button.click, query.submit], _readable(gr, answer), [query, system, k], results, api_name="search_text")


def _picture_tab(gr: ModuleType, state: DemoState) -> None:
    _say_what_is_missing(gr, state, PICTURE)
    if state.pictures is None:
        return
    _say_what_is_missing(gr, state, CATEGORY)
    with gr.Row():
        # The file itself (image_mode=None), so that it is our own checks that decode it.
        picture = gr.Image(type="filepath", image_mode=None, sources=["upload", "clipboard"], label="A picture")
        with gr.Column():
            product = gr.Textbox(
                label="Product id (optional)",
                info="That product is left out of the results. Without an upload, its own picture is searched with.",
            )
            k = gr.Slider(1, MOST, value=12, step=1, precision=0, label="Products")
            button = gr.Button("Find similar products", variant="primary")
            categories = gr.Label(num_top_classes=TOP_CATEGORIES, label="Predicted category")
    results = _results(gr)

    def answer(picture: str | None, product: str, k: int) -> list:
        found = search_picture(state, picture, k, product_id=product.strip() or None)
        return [dict(found.categories), *_displayed(found)]

    outputs = [categories, *results]
    gr.on(
        [button.click, product.submit], _readable(gr, answer), [picture, product, k], outputs, api_name="search_picture"
    )


def _look_tab(gr: ModuleType, state: DemoState) -> None:
    _say_what_is_missing(gr, state, LOOK)
    if state.finder is None:
        return
    context = gr.Dropdown(
        context_choices(state),
        value=[],
        multiselect=True,
        allow_custom_value=True,
        label="What is there already",
        info="Choose products, or type ids of others.",
    )
    with gr.Row():
        category = gr.Dropdown([ANYTHING, *gap_categories(state)], value=ANYTHING, label="What is missing")
        k = gr.Slider(1, MOST, value=6, step=1, precision=0, label="Products")
        weight = gr.Slider(0, 1, value=0.7, step=0.05, label="Relevance (1) against variety (0)")
    button = gr.Button("Complete the look", variant="primary")
    there = gr.Gallery(label="There already", columns=8, height=180, object_fit="contain", interactive=False)
    results = _results(gr)

    def answer(context: list[str] | None, category: str, k: int, weight: float) -> list:
        context = context or []
        found = look(state, context, None if category == ANYTHING else category, k, weight)
        if found.note:
            gr.Info(_as_html(found.note))
        return [_thumbnails(shown(state, context)), *_displayed(found)]

    gr.on([button.click], _readable(gr, answer), [context, category, k, weight], [there, *results], api_name="look")


def _results(gr: ModuleType) -> list:
    gallery = gr.Gallery(label="Pictures", columns=6, height="auto", object_fit="contain", interactive=False)
    return [gallery, gr.Dataframe(label="Table", interactive=False, wrap=True)]


def _say_what_is_missing(gr: ModuleType, state: DemoState, part: str) -> None:
    if part in state.missing:
        gr.Markdown(f"Not built yet: {part}.\n```text\n{state.missing[part]}\n```")


def _displayed(found: Found) -> list:
    return [_thumbnails(found.gallery), found.table.round({"score": 3})]


def _thumbnails(gallery: Gallery) -> list[tuple[Image.Image, str]]:
    """Pictures in memory: from paths, gradio would have to be allowed to serve the folders in which they lie."""
    return [(_thumbnail(path), caption) for path, caption in gallery]


def _thumbnail(path: Path | None) -> Image.Image:
    try:
        return Image.new("RGB", (SIDE, SIDE), PALE) if path is None else open_image(path, SIDE, at_least=SIDE)
    except UnusableImage:  # it was there when the catalogue was read
        return _thumbnail(None)


def _readable(gr: ModuleType, answer: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its CourseErrors as messages on the page."""

    @wraps(answer)
    def asked(*values: Any) -> Any:
        try:
            return answer(*values)
        except CourseError as error:
            raise gr.Error(_as_html(str(error)), print_exception=False) from None

    return asked


def _as_html(text: str) -> str:
    """Messages on the page are read as HTML, and may quote what somebody typed."""
    return html.escape(text, quote=False).replace("\n", "<br>")


if __name__ == "__main__":
    run_step(main)
