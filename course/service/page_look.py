"""Fill the tabs that start from products of the shop: what is similar to one, and what completes a look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import gradio as gr

from common.errors import CourseError
from course.service import cards
from course.service.answers import UnknownProduct
from course.service.page_tabs import ANY, PRIVATE, absent, card_actions, count_box, data_of, readable, shelf
from course.service.shop import LOOK, SIMILAR

if TYPE_CHECKING:
    from course.service.service import Service

SIMILAR_TAB, LOOK_TAB = "similar", "look"
FOCUS = "() => requestAnimationFrame(() => {{ scrollTo(0, 0); document.querySelector('#{} h2')?.focus(); }})"
"""The pressed button disappears with its tab, so keyboard focus moves to the heading of the answer."""
LOOK_HINT = "Add products with the button of any card, or choose some here; then complete the look."


@dataclass(frozen=True)
class Similar:
    """The tab of similar products: the box of the product, the number of products, and the answer."""

    product: gr.Dropdown
    count: gr.Dropdown
    found: gr.HTML

    def listen(self, service: Service, tabs: gr.Tabs, source: gr.HTML) -> None:
        """Answer the Similar buttons of the cards in `source`."""

        async def show(count, event: gr.EventData):
            product_id = data_of(event)
            found = await similar_to(service, product_id, count)
            return gr.Tabs(selected=SIMILAR_TAB), chosen(service, product_id), found

        shown = source.similar(show, self.count, [tabs, self.product, self.found], api_visibility=PRIVATE)
        shown.then(None, js=FOCUS.format(SIMILAR_TAB))


@dataclass(frozen=True)
class Look:
    """The tab of looks: the product ids of the look, and where they are shown."""

    tab: gr.Tab
    items: gr.State
    shown: gr.HTML

    def listen(self, service: Service, source: gr.HTML) -> None:
        """Add products when the buttons of the cards in `source` are pressed."""

        def add(items, event: gr.EventData):
            return changed(service, [*items, data_of(event)], announce=True)

        source.add_item(
            add,
            self.items,
            [self.items, self.shown, self.tab],
            trigger_mode="multiple",
            concurrency_limit=1,
            show_progress="hidden",
            api_visibility=PRIVATE,
        )


def chosen(service: Service, product_id: str) -> gr.Dropdown:
    """Return the box with that product chosen, offered or not; unchanged for an unknown one."""
    try:
        title = cards.name(service.product(product_id))
    except UnknownProduct:
        return gr.skip()
    return gr.Dropdown([(f"{title} ({product_id})", product_id), *service.look_choices], value=product_id)


@readable
async def similar_to(service: Service, product_id: str, count: int) -> str:
    """Show a product, and what is similar to it."""
    if not product_id:
        raise CourseError("Choose a product first.")
    offered = card_actions(service)
    product = service.product(product_id)
    found = await service.similar(product_id, k=count)
    own = [action for action in offered if action != cards.SIMILAR]
    return cards.detail(product, own) + cards.answer(found, "Similar products", offered)


def changed(service: Service, items: list[str], *, announce: bool = False) -> tuple:
    """Return the look, how it is shown, and its tab with the number of products; all unchanged for an unknown product.

    announce: say on the page, whichever tab is open, that the last product was added.
    """
    items = list(dict.fromkeys(items))
    try:
        products = [service.product(one) for one in items]
    except CourseError as error:
        gr.Warning(cards.lines(str(error)))
        return (gr.skip(),) * 3
    if announce:
        gr.Info(f"In the look: {cards.escaped(cards.name(products[-1]))}", duration=3, title="Added")
    shown = cards.strip(products, "Your look") if products else cards.hint(LOOK_HINT)
    return items, shown, gr.Tab(label=f"Look ({len(items)})" if items else "Look")


def similar_tab(service: Service) -> tuple[Similar | None, list[gr.HTML]]:
    """Fill the tab that shows what is similar to a product of the shop in text and picture."""
    if absent(service, SIMILAR):
        return None, []
    with gr.Row(elem_classes="options"):
        product = gr.Dropdown(
            [("", ""), *service.look_choices],
            value="",
            allow_custom_value=True,
            label="Product",
            info="Choose one, type its id, or press Similar on any card.",
            scale=5,
        )
        count = count_box()
        button = gr.Button("Show similar", variant="primary", scale=0, min_width=150)
    found = shelf(cards.hint("Nothing chosen yet."), elem_id=SIMILAR_TAB)

    async def show(product, count) -> str:
        return await similar_to(service, (product or "").strip(), count)

    button.click(show, [product, count], found, api_visibility=PRIVATE)
    return Similar(product, count, found), [found]


def look_tab(service: Service, tab: gr.Tab) -> tuple[Look | None, list[gr.HTML]]:
    """Fill the tab that shows what goes with all of some products."""
    if absent(service, LOOK):
        return None, []
    items = gr.State([])
    shown = shelf(cards.hint(LOOK_HINT), elem_id="your-look")
    with gr.Row(elem_classes="options"):
        chosen = gr.Dropdown([("", ""), *service.look_choices], value="", label="Add a product", scale=3)
        gap = gr.Dropdown([ANY, *((one, one) for one in service.gap_categories)], value="", label="Missing", scale=3)
        count = count_box()
    with gr.Row(elem_classes="options"):
        weight = gr.Slider(0, 1, value=0.7, step=0.05, label="Variety (0) or relevance (1)", scale=4)
        button = gr.Button("Complete the look", variant="primary", scale=0, min_width=180)
    found = shelf(elem_id=LOOK_TAB)
    offered = card_actions(service)

    def choose(items, chosen):
        return *(changed(service, [*items, chosen]) if chosen else (gr.skip(),) * 3), ""

    def remove(items, event: gr.EventData):
        return changed(service, [one for one in items if one != data_of(event)])

    @readable
    async def complete(items, gap, count, weight) -> str:
        look = await service.complete_look(items, gap_category=gap or None, k=count, mmr_lambda=weight)
        return cards.answer(look, "Goes with the look", offered)

    outputs = [items, shown, tab]
    chosen.input(choose, [items, chosen], [*outputs, chosen], concurrency_limit=1, api_visibility=PRIVATE)
    shown.remove_item(remove, items, outputs, concurrency_limit=1, api_visibility=PRIVATE, show_progress="hidden")
    button.click(complete, [items, gap, count, weight], found, api_visibility=PRIVATE)
    return Look(tab, items, shown), [found]
