"""The page: a shop to search, with everything that the chapters built, at "/" of the service.

It asks the service in the server's own loop, as the API does, and asks nothing of any other host. A part that is not
built says what to run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from chapter03_multimodal.demo import import_gradio
from course.service import cards
from course.service.answers import LARGEST_PICTURE
from course.service.page_guard import HOUR, PageGuard
from course.service.shop import CONSTELLATION, SCOREBOARD

if TYPE_CHECKING:
    import gradio
    from fastapi import FastAPI

    from course.service.service import Service

CLEAN_UP = 300
"""Seconds between two looks for uploads that are old enough to go."""
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
FIXED_WIDTH_FONTS = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
STYLE = Path(__file__).with_name("page.css")
LENS = (
    '<svg viewBox="0 0 24 24" width="26" height="26" aria-hidden="true"><circle cx="10.5" cy="10.5" r="6.5" fill="none"'
    ' stroke="currentColor" stroke-width="2.4"/><path d="m15.5 15.5 5 5" stroke="currentColor" stroke-width="2.4"'
    ' stroke-linecap="round"/></svg>'
)


def mount_page(app: FastAPI, service: Service) -> None:
    """Add the page to `app`, at "/": after all other routes, which it would hide.

    Uploads go to the folder that the environment variable GRADIO_TEMP_DIR names, which should be the service's alone.
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
    """The page, with a tab for everything that can be asked. Raises CourseError without gradio."""
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
    # A value from a visitor may name a file, and gradio checks that it is an upload of theirs only once the page was
    # launched, which a mounted one never is: it would copy any file that the server can read to where it can be had.
    page.has_launched = True
    # The service batches what is asked together, so that nothing may wait for its turn here.
    return page.queue(default_concurrency_limit=None)


def fetch_nothing() -> None:
    """Keep gradio, in this process, from fetching the addresses that a value from a visitor may name as its file."""
    from gradio import Error, processing_utils

    async def refuse(*_: object, **__: object) -> None:
        raise Error("The page fetches nothing from other addresses; upload the file itself.", print_exception=False)

    processing_utils.async_ssrf_protected_download = processing_utils.async_ssrf_protected_get = refuse


def icon() -> str:
    """The lens, for the browser's tab."""
    drawn = LENS.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"').replace("currentColor", "#1d7a5f")
    return f'<link rel="icon" type="image/svg+xml" href="data:image/svg+xml,{quote(drawn)}">'


def masthead(service: Service) -> str:
    """Above the tabs: what this is, and of which catalogue."""
    info = service.index_info()
    told = f"{info['products']:,} products of {info['source']}"
    return (
        f'<header class="masthead"><h1>{LENS}<span>Product search</span></h1><p>{cards.escaped(told)}</p>'
        '<nav aria-label="For applications"><a href="/docs">API</a></nav></header>'
    )


def scoreboard_tab(service: Service) -> None:
    """What every system reached, a metric at a time."""
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
    """The constellation, in a frame in which it can do nothing but run its own script."""
    if CONSTELLATION in service.missing:
        return cards.not_built(service.missing[CONSTELLATION])
    return (
        '<p class="legend">Every product is a star; near ones are alike. '
        '<a href="/constellation" target="_blank" rel="noopener">Open the map alone</a></p>'
        '<iframe class="map" src="/constellation" sandbox="allow-scripts" title="Map of all products"></iframe>'
    )
