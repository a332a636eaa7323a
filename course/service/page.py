"""Build the page at "/" of the service: a shop to search, with everything that the chapters built.

The page calls the service in the server's own event loop, as the API does, and contacts no other host. A part that is
not built says what to run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from common.demo import import_gradio
from course.service import cards
from course.service.answers import LARGEST_PICTURE
from course.service.page_guard import HOUR, PageGuard
from course.service.shop import CONSTELLATION, SCOREBOARD

if TYPE_CHECKING:
    import gradio
    from fastapi import FastAPI

    from course.service.service import Service

CLEAN_UP = 300
"""Seconds between two checks for uploads that are old enough to be deleted."""
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
FIXED_WIDTH_FONTS = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
STYLE = Path(__file__).with_name("page.css")
LENS = (
    '<svg viewBox="0 0 24 24" width="26" height="26" aria-hidden="true"><circle cx="10.5" cy="10.5" r="6.5" fill="none"'
    ' stroke="currentColor" stroke-width="2.4"/><path d="m15.5 15.5 5 5" stroke="currentColor" stroke-width="2.4"'
    ' stroke-linecap="round"/></svg>'
)


def mount_page(app: FastAPI, service: Service) -> None:
    """Add the page to `app` at "/", after all other routes, which it would hide.

    Uploads go to the folder named by the environment variable GRADIO_TEMP_DIR; nothing else should use that folder.
    """
    gr = import_gradio()
    gr.mount_gradio_app(
        app,
        build_page(service),
        path="/",
        theme=gr.themes.Base(font=FONTS, font_mono=FIXED_WIDTH_FONTS),
        head=f"<style>{STYLE.read_text(encoding='utf-8')}</style>{icon()}",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=LARGEST_PICTURE,
        ssr_mode=False,
        pwa=False,
    )
    *others, mounted = app.router.routes
    mounted.app = PageGuard(mounted.app, Path(gr.utils.get_upload_folder()), others)


def build_page(service: Service) -> gradio.Blocks:
    """Build the page with its tabs. Raises CourseError without gradio."""
    gr = import_gradio()
    fetch_nothing()
    from course.service.page_look import LOOK_TAB, SIMILAR_TAB, look_tab, similar_tab
    from course.service.page_tabs import categories_tab, picture_tab, search_tab, still

    with gr.Blocks(title="Product search", analytics_enabled=False, delete_cache=(CLEAN_UP, HOUR - CLEAN_UP)) as page:
        still(masthead(service))
        with gr.Tabs(overflow_behavior="wrap") as tabs:
            shelves = []
            for label, fill in (("Search", search_tab), ("By picture", picture_tab)):
                with gr.Tab(label):
                    shelves += fill(service)
            with gr.Tab("Similar", id=SIMILAR_TAB, render_children=True):
                similar, found = similar_tab(service)
                shelves += found
            with gr.Tab("Look", id=LOOK_TAB, render_children=True) as tab:
                look, found = look_tab(service, tab)
                shelves += found
            with gr.Tab("Categories"):
                shelves += categories_tab(service)
            with gr.Tab("Scoreboard"):
                scoreboard_tab(service)
            with gr.Tab("Map"):
                still(map_frame(service))
        for source in shelves:
            if similar is not None:
                similar.listen(service, tabs, source)
            if look is not None:
                look.listen(service, source)
    # A visitor's value may name a file. Gradio checks that it is one of their uploads only on a launched page, which a
    # mounted page never is; it would copy any file that the server can read to where visitors can fetch it.
    page.has_launched = True
    # The service batches concurrent questions itself, so they must not queue here.
    return page.queue(default_concurrency_limit=None)


def fetch_nothing() -> None:
    """Stop gradio, in this process, from fetching addresses that a visitor names as a file."""
    from gradio import Error, processing_utils

    async def refuse(*_: object, **__: object) -> None:
        raise Error("The page fetches nothing from other addresses; upload the file itself.", print_exception=False)

    processing_utils.async_ssrf_protected_download = processing_utils.async_ssrf_protected_get = refuse


def icon() -> str:
    """Return the lens as the icon of the browser's tab."""
    drawn = LENS.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"').replace("currentColor", "#1d7a5f")
    return f'<link rel="icon" type="image/svg+xml" href="data:image/svg+xml,{quote(drawn)}">'


def masthead(service: Service) -> str:
    """Return the heading above the tabs, with the catalogue's name and size."""
    info = service.index_info()
    about = f"{info['products']:,} products of {info['source']}"
    return (
        f'<header class="masthead"><h1>{LENS}<span>Product search</span></h1><p>{cards.escaped(about)}</p>'
        '<nav aria-label="For applications"><a href="/docs">API</a></nav></header>'
    )


def scoreboard_tab(service: Service) -> None:
    """Fill the tab that shows what every system reached, one metric at a time."""
    import gradio as gr

    from course.service.page_tabs import PRIVATE, absent, still
    from course.service.score_chart import chart_and_table, metrics

    if absent(service, SCOREBOARD):
        return
    board = service.scoreboard()
    names = metrics(board)
    with gr.Row(elem_classes="options"):
        metric = gr.Dropdown(names, value=names[0], label="Metric", scale=0, min_width=280)
    drawn = still(chart_and_table(board, names[0]))
    metric.input(lambda one: chart_and_table(board, one), metric, drawn, api_visibility=PRIVATE)


def map_frame(service: Service) -> str:
    """Return the constellation in a frame that lets it do nothing but run its own script."""
    if CONSTELLATION in service.missing:
        return cards.not_built(service.missing[CONSTELLATION])
    return (
        '<p class="legend">Every product is a star; near ones are alike. '
        '<a href="/constellation" target="_blank" rel="noopener">Open the map alone</a></p>'
        '<iframe class="map" src="/constellation" sandbox="allow-scripts" title="Map of all products"></iframe>'
    )
