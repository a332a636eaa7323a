"""Write products, answers and messages as HTML.

All text from the catalogue or a visitor is escaped here. A button has its action in `data-do`, and the product id or
the words in `data-id`; `page.js` sends both to the server.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

from common.category_path import SEPARATOR, split_path
from common.search import COSINE
from course.service.answers import Answer, CategoryAnswer, Hit, PictureAnswer, Product

SIMILAR, ADD, REMOVE, ASK = "similar", "add_item", "remove_item", "ask"
WORDS = {SIMILAR: ("Similar", "Similar to"), ADD: ("Add to look", "Add to look:"), REMOVE: ("Remove", "Remove")}
"""Label of a product's button, and the start of its accessible name, which ends with the product's."""
SHOWN_ATTRIBUTES = 12


def escaped(text: object) -> str:
    """Escape a text for use between tags and inside quoted attributes."""
    return html.escape(str(text), quote=True)


def image_address(product_id: str) -> str:
    """Return the address of the product's picture on the service."""
    return f"/images/{quote(product_id, safe='')}"


def name(product: Product) -> str:
    """Return the title, or the id of a product without one; not escaped."""
    return product.title or product.product_id


def photo(product: Product) -> str:
    """Return the picture, or a grey field that says there is none."""
    if not product.has_image:
        return '<div class="photo none" role="img" aria-label="no picture">no picture</div>'
    picture = f'<img src="{escaped(image_address(product.product_id))}" alt="{escaped(name(product))}" loading="lazy">'
    return f'<div class="photo">{picture}</div>'


def buttons(product: Product, actions: Iterable[str]) -> str:
    """Return the buttons of these actions (`SIMILAR`, `ADD`, `REMOVE`)."""
    made = "".join(_button(action, product) for action in actions)
    return f'<div class="actions">{made}</div>' if made else ""


def _button(action: str, product: Product) -> str:
    said, spoken = WORDS[action]
    label = escaped(f"{spoken} {name(product)}")
    return (
        f'<button type="button" data-do="{action}" data-id="{escaped(product.product_id)}" aria-label="{label}">'
        f"{said}</button>"
    )


def card(hit: Hit, score_means: str, actions: Iterable[str] = (), also: str = "") -> str:
    """Return the card of one hit. also: what the other system says of it, in a side-by-side view."""
    product = hit.product
    meaning = escaped(f"score: {score_means}")
    lines = [f'<span class="rank" aria-label="rank {hit.rank}">{hit.rank}</span>', photo(product)]
    if also:
        lines.append(f'<span class="also">{escaped(also)}</span>')
    lines.append(f'<h3 dir="auto" title="{escaped(name(product))}">{escaped(name(product))}</h3>')
    if product.brand:
        lines.append(f'<p class="brand" dir="auto">{escaped(product.brand)}</p>')
    if product.category_path:
        path = escaped(product.category_path)
        lines.append(f'<p class="path" dir="auto" title="{path}">{escaped(leaf(product.category_path))}</p>')
    score = f'<span class="score" title="{meaning}">{hit.score:,.3f}</span>'
    lines += [f'<p class="figures">{price(product)}{score}</p>', buttons(product, actions)]
    return f'<li class="card{" both" if also else ""}">{"".join(lines)}</li>'


def price(product: Product) -> str:
    """Return the price, without a currency, which catalogues do not give."""
    return (
        "<span></span>" if product.price is None else f'<span class="price" title="price">{product.price:,.2f}</span>'
    )


def leaf(category_path: str) -> str:
    """Return the last two levels of a path, for which a card has room."""
    return " › ".join(split_path(category_path)[-2:])


def grid(
    hits: Sequence[Hit],
    label: str,
    score_means: str,
    actions: Sequence[str] = (),
    also: Mapping[str, str] | None = None,
) -> str:
    """Return the cards, best first. also: an additional line on the card of a product id."""
    cards = "".join(card(hit, score_means, actions, (also or {}).get(hit.product.product_id, "")) for hit in hits)
    return f'<ol class="cards" aria-label="{escaped(label)}">{cards}</ol>' if hits else ""


def answer(found: Answer, title: str, actions: Sequence[str] = (), also: Mapping[str, str] | None = None) -> str:
    """Return an answer: a heading, the number of products, what the scores mean, and the products."""
    count = f"{len(found.hits)} product{'' if len(found.hits) == 1 else 's'}"
    legend = f'<p class="legend" role="status">{count}. <b>Score:</b> {escaped(found.score_means)}.</p>'
    shown = grid(found.hits, title, found.score_means, actions, also)
    return f'<section class="answer">{heading(title)}{legend}{note(found.note)}{shown}</section>'


def side_by_side(first: Answer, second: Answer, actions: Sequence[str] = ()) -> str:
    """Return two answers to one query; a product in both shows its rank in the other."""
    ranks = [{hit.product.product_id: hit.rank for hit in found.hits} for found in (first, second)]
    shared = ranks[0].keys() & ranks[1].keys()
    notes = [{one: f"also #{other[one]}" for one in shared} for other in (ranks[1], ranks[0])]
    columns = "".join(
        answer(found, found.system, actions, also) for found, also in zip((first, second), notes, strict=True)
    )
    largest = max(len(first.hits), len(second.hits))
    line = f'<p class="overlap"><b>{len(shared)} of {largest}</b> found by both, marked with the other\'s rank.</p>'
    return f'{line}<div class="columns">{columns}</div>'


def picture_answer(found: PictureAnswer, actions: Sequence[str] = ()) -> str:
    """Return the picture's likeliest categories, and the products that look like it."""
    likely = bars(found.categories, "Predicted category") if found.categories else note(found.category_note)
    return f'<section class="answer">{heading("Predicted category")}{likely}</section>' + answer(
        found, "Similar products", actions
    )


def category_answer(found: CategoryAnswer, actions: Sequence[str] = ()) -> str:
    """Return the ranking, the shares of text and picture in it, and the nearest products."""
    text, picture = found.text_share, 1 - found.text_share
    share = (
        f'<div class="share" role="img" aria-label="text {text:.0%}, picture {picture:.0%}">'
        f'<span style="flex-grow:{text:.3f}">text {text:.0%}</span>'
        f'<span style="flex-grow:{picture:.3f}">picture {picture:.0%}</span></div>'
    )
    ranking = f"{heading('Categories')}{note(found.note)}{bars(found.ranking, 'Categories')}"
    weights = f'<h3 class="aside">What the ranking goes by</h3>{share}'
    near = Answer(found.neighbours, "", COSINE)
    return f'<section class="answer">{ranking}{weights}</section>' + answer(near, "Nearest products", actions)


def bars(rows: Sequence[tuple[str, float]], label: str) -> str:
    """Return (category path, probability) as bars, in the given order."""
    lines = "".join(
        f'<li><span class="path" dir="auto">{escaped(path.replace(SEPARATOR, " › "))}</span>'
        f'<span class="bar" aria-hidden="true"><span style="width:{100 * probability:.1f}%"></span></span>'
        f'<span class="figure">{probability:.1%}</span></li>'
        for path, probability in rows
    )
    return f'<ol class="bars" aria-label="{escaped(label)}">{lines}</ol>'


def detail(product: Product, actions: Sequence[str] = ()) -> str:
    """Return everything that is known of one product."""
    facts = {
        "Brand": product.brand,
        "Price": None if product.price is None else f"{product.price:,.2f}",
        "Colour": product.colour,
        "Material": product.material,
        "Category": product.category_path and product.category_path.replace(SEPARATOR, " › "),
    }
    facts |= dict(list(product.attributes.items())[:SHOWN_ATTRIBUTES])
    rows = "".join(
        f'<div><dt>{escaped(key)}</dt><dd dir="auto">{escaped(_plain(value))}</dd></div>'
        for key, value in facts.items()
        if value not in (None, "", [])
    )
    text = f'<p class="description" dir="auto">{escaped(product.description)}</p>' if product.description else ""
    return (
        f'<section class="detail">{photo(product)}<div>{heading(name(product))}{text}<dl>{rows}</dl>'
        f"{buttons(product, actions)}</div></section>"
    )


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def strip(products: Sequence[Product], label: str) -> str:
    """Return a row of small pictures, each with a button that removes it."""
    lines = "".join(
        f'<li>{photo(product)}<span dir="auto" title="{escaped(name(product))}">{escaped(name(product))}</span>'
        f"{buttons(product, (REMOVE,))}</li>"
        for product in products
    )
    return f'<ol class="strip" aria-label="{escaped(label)}">{lines}</ol>'


def chips(choices: Iterable[tuple[str, str]], label: str) -> str:
    """Return buttons for the given (label, query)."""
    made = "".join(
        f'<button type="button" data-do="{ASK}" data-id="{escaped(asked)}" dir="auto">{escaped(words)}</button>'
        for words, asked in choices
    )
    return f'<div class="chips" role="group" aria-label="{escaped(label)}"><span>{escaped(label)}</span>{made}</div>'


def heading(text: str) -> str:
    """Return a heading that can take the focus, for an answer that appears in another tab."""
    return f'<h2 dir="auto" tabindex="-1">{escaped(text)}</h2>'


def note(text: str) -> str:
    """Return the note of an answer, empty if there is none."""
    return f'<p class="note">{lines(text)}</p>' if text else ""


def alert(text: str) -> str:
    """Return what was wrong with the question; screen readers read it aloud at once."""
    return f'<p class="alert" role="alert">{lines(text)}</p>'


def hint(text: str) -> str:
    """Return a hint on what to do while there is no answer yet."""
    return f'<p class="hint">{escaped(text)}</p>'


def not_built(*messages: str) -> str:
    """Return what is shown in place of a part that is not built."""
    shown = "".join(f"<pre>{escaped(message)}</pre>" for message in messages)
    return f'<section class="not-built">{heading("Not built yet")}{shown}</section>'


def folded(summary: str, texts: Iterable[str]) -> str:
    """Return a list that is folded until it is opened."""
    rows = "".join(f"<li>{escaped(text)}</li>" for text in texts)
    return f'<details class="folded"><summary>{escaped(summary)}</summary><ul>{rows}</ul></details>'


def lines(text: str) -> str:
    """Escape a text and keep its line breaks."""
    return escaped(text).replace("\n", "<br>")
