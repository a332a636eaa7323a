"""Fill the tabs that ask a question: search, search by picture, and categories.

Each function fills one tab and returns the parts of the page that show products, whose buttons `page` listens to. This
module imports gradio; `page` reports what to install if it is missing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from common.errors import CourseError
from course.service import cards
from course.service.answers import LONGEST_QUERY
from course.service.filters import Filters
from course.service.shop import CATEGORY, CONSTELLATION, LOOK, PICTURE, RANKING, SCOREBOARD, SIMILAR

if TYPE_CHECKING:
    from course.service.service import Service

PARTS = {PICTURE, CATEGORY, SIMILAR, LOOK, RANKING, SCOREBOARD, CONSTELLATION}
"""Keys of `Service.missing` that are not systems."""
SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
COUNTS = [6, 12, 24, 48]
SHOWN = 12
MOST_EXAMPLES = 8
ANY = ("any", "")
PRIVATE = "private"
"""Visibility of gradio's endpoints: they belong to the page; applications use the API."""


def shelf(value: str = "", **options: object) -> gr.HTML:
    """Make a part of the page that shows cards or chips. Its events: similar, add_item, remove_item, ask."""
    return gr.HTML(value, js_on_load=SCRIPT, apply_default_css=False, **options)


def still(value: str = "") -> gr.HTML:
    """Make a part of the page without buttons."""
    return gr.HTML(value, js_on_load=None, apply_default_css=False)


def absent(service: Service, part: str) -> bool:
    """Tell whether the part is not built; its tab then says what to run."""
    if part in service.missing:
        still(cards.not_built(service.missing[part]))
    return part in service.missing


def card_actions(service: Service) -> tuple[str, ...]:
    """Return what the buttons of a product can do with the parts that are built."""
    offered = {cards.SIMILAR: SIMILAR, cards.ADD: LOOK}
    return tuple(action for action, part in offered.items() if part not in service.missing)


def readable(answer: Callable[..., Awaitable[str]]) -> Callable[..., Awaitable[str]]:
    """Wrap a function so that its CourseErrors appear in place of the answer."""

    @wraps(answer)
    async def asked(*values: object) -> str:
        try:
            return await answer(*values)
        except CourseError as error:
            return cards.alert(str(error))

    return asked


def data_of(event: gr.EventData) -> str:
    """Return the product id or the words of the pressed button; empty for an event from elsewhere."""
    return str(event._data.get("id", "")) if isinstance(event._data, dict) else ""


def count_box() -> gr.Dropdown:
    """Make the box for the number of products."""
    return gr.Dropdown(COUNTS, value=SHOWN, label="Products", min_width=90, filterable=False)


def search_tab(service: Service) -> list[gr.HTML]:
    """Fill the search tab: one box, a choice of systems, two of them side by side, filters."""
    if not service.systems:
        still(cards.not_built(*dict.fromkeys(service.missing.values())))
        return []
    with gr.Row(elem_classes="ask"):
        query = gr.Textbox(
            "",
            label="What are you looking for?",
            placeholder="Search the shop",
            max_length=LONGEST_QUERY,
            scale=6,
            container=False,
            show_label=False,
            elem_id="query",
        )
        button = gr.Button("Search", variant="primary", scale=0, min_width=110)
    examples = shelf(cards.chips([(one, one) for one in service.example_queries[:MOST_EXAMPLES]], "Try"))
    with gr.Row(elem_classes="options"):
        system = gr.Dropdown(service.systems, value=service.systems[-1], label="Searched by", scale=3)
        both = gr.Checkbox(False, label="Side by side", scale=1, min_width=140, elem_id="both")
        other = gr.Dropdown(service.systems, value=service.systems[0], label="Compared with", scale=3, visible=False)
        count = count_box()
    filters = _filters(service)
    unbuilt = [f"{name}: {why}" for name, why in service.missing.items() if name not in PARTS]
    found = shelf(cards.hint("Ask for anything: words, a use, a colour, a brand."))
    if unbuilt:
        still(cards.folded(f"Not built: {len(unbuilt)} more", unbuilt))
    offered = card_actions(service)

    @readable
    async def answer(query, system, both, other, count, *filters) -> str:
        asked = _chosen(*(value or None for value in filters))
        names = [system, other] if both else [system]
        answers = [service.search(query or "", k=count, system=one, filters=asked) for one in names]
        answers = await asyncio.gather(*answers)
        if both:
            return cards.side_by_side(*answers, offered)
        return cards.answer(answers[0], f"Found by {answers[0].system}", offered)

    async def search(*asked) -> tuple[str, tuple]:
        return await answer(*asked), asked

    async def again(last, *asked):
        is_new = asked != last and (asked[0] or "").strip()
        return await search(*asked) if is_new else (gr.skip(), gr.skip())

    last = gr.State(None)  # the question that is answered on the page: leaving a field unchanged does not ask again
    inputs, outputs = [query, system, both, other, count, *filters], [found, last]
    both.input(lambda on: gr.Dropdown(visible=on), both, other, api_visibility=PRIVATE, show_progress="hidden")
    gr.on([button.click, query.submit], search, inputs, outputs, api_visibility=PRIVATE)
    *choices, low, high = filters
    switches = [one.input for one in (system, both, other, count, *choices)]
    switches += [low.blur, low.submit, high.blur, high.submit]  # not while a number is being typed
    gr.on(switches, again, [last, *inputs], outputs, trigger_mode="always_last", api_visibility=PRIVATE)
    taken = examples.ask(data_of, None, query, api_visibility=PRIVATE, show_progress="hidden")
    taken.then(search, inputs, outputs, api_visibility=PRIVATE)
    return [found]


def _chosen(category, brand, colour, low, high) -> Filters:
    """Return the filters; raises CourseError for prices that make no sense."""
    low, high = _price("from", low), _price("to", high)
    if low is not None and high is not None and low > high:
        raise CourseError(f"Price from, {low:g}, is above price to, {high:g}; swap them.")
    return Filters(category, brand, colour, low, high)


def _price(label: str, written: str | None) -> float | None:
    try:
        price = None if written is None else float(written)
    except ValueError:
        raise CourseError(f"Price {label} is {written!r}; write a number, such as 9.50, or nothing.") from None
    if price is not None and not 0 <= price < math.inf:
        raise CourseError(f"Price {label} is {price:g}; give a number from 0, or nothing.")
    return price


def _filters(service: Service) -> list[gr.components.Component]:
    """Make the boxes of the filters, in the order of the fields of `Filters`."""
    with gr.Accordion("Filters", open=False, elem_id="filters"), gr.Row():
        return [
            *(
                gr.Dropdown([ANY, *((one, one) for one in choices)], value="", label=label, min_width=150)
                for label, choices in (
                    ("Category", service.filter_categories),
                    ("Brand", service.brands),
                    ("Colour", service.colours),
                )
            ),
            # Not gr.Number: when the filters are unfolded, an empty one becomes 0.
            gr.Textbox("", label="Price from", max_length=20, min_width=110),
            gr.Textbox("", label="Price to", max_length=20, min_width=110),
        ]


def picture_tab(service: Service) -> list[gr.HTML]:
    """Fill the tab that takes a picture and shows its likeliest categories and the products that look like it."""
    if absent(service, PICTURE):
        return []
    with gr.Row(elem_classes="picture-and-answer"):
        with gr.Column(scale=1, min_width=280):
            picture = picture_box("A picture")
            count = count_box()
            button = gr.Button("Find similar products", variant="primary")
        with gr.Column(scale=3, min_width=300):
            found = shelf(cards.hint("Drop a picture, choose a file, or paste one. It is kept for an hour at most."))
    offered = card_actions(service)

    @readable
    async def search(picture, count) -> str:
        if picture is None:
            raise CourseError("There is no picture yet: drop one, choose a file, or paste one.")
        return cards.picture_answer(await service.search_picture(Path(picture).read_bytes(), k=count), offered)

    async def uploaded(picture, count) -> str:
        return gr.skip() if picture is None else await search(picture, count)

    button.click(search, [picture, count], found, api_visibility=PRIVATE)
    gr.on([picture.change, count.input], uploaded, [picture, count], found, api_visibility=PRIVATE)
    return [found]


def picture_box(label: str) -> gr.Image:
    """Make a box that takes a file or a pasted picture and passes on its path; the service checks it."""
    box = gr.Image(type="filepath", image_mode=None, sources=["upload", "clipboard"], label=label, height=260)
    # Gradio would open the file itself, and report errors in its own words.
    box.preprocess = lambda payload: payload and payload.path
    return box


def categories_tab(service: Service) -> list[gr.HTML]:
    """Fill the tab that ranks the categories of a visitor's product."""
    if absent(service, RANKING):
        return []
    with gr.Row(elem_classes="picture-and-answer"):
        with gr.Column(scale=2, min_width=280):
            title = gr.Textbox("", label="Title", max_length=LONGEST_QUERY)
            text = gr.Textbox("", label="Description", lines=3, max_length=LONGEST_QUERY)
            picture = picture_box("Picture (optional)")
            with gr.Accordion("Categories of your own", open=False):
                candidates = gr.Textbox(
                    "",
                    label="One a line",
                    lines=5,
                    info="Level by level: Home > Kitchen > Mugs. Empty: all of the shop's.",
                )
            button = gr.Button("Rank categories", variant="primary")
        with gr.Column(scale=3, min_width=300):
            found = shelf(cards.hint("Give a title, a picture, or both."))
    offered = card_actions(service)

    @readable
    async def rank(title, text, picture, candidates) -> str:
        own = [line.strip() for line in (candidates or "").splitlines() if line.strip()]
        seen = None if picture is None else Path(picture).read_bytes()
        ranked = await service.categories(
            title=(title or "").strip() or None,
            description=(text or "").strip() or None,
            picture=seen,
            candidates=own,
        )
        return cards.category_answer(ranked, offered)

    gr.on([button.click, title.submit], rank, [title, text, picture, candidates], found, api_visibility=PRIVATE)
    return [found]
