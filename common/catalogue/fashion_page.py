"""Write the page about the queries of fashion_products: seeds, rules, counts, and a sample with what each asks for."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import pandas as pd

from common.catalogue import fashion_drafts, fashion_intents
from common.catalogue.catalogue import Catalogue
from common.catalogue.contract import RELEVANT_GRADE, SPLITS
from common.catalogue.fashion_drafts import RELEVANT_RANGE
from common.catalogue.fashion_intents import Intent
from common.catalogue.fashion_products import load_intents, sizes_by_split
from common.catalogue.load import load_catalogue
from common.cli import run_step
from common.pocket_shop.queries import KINDS

_TEXT = """# The queries of fashion_products

The source has products and no queries, so the course makes them: {queries:,} queries over {products:,} products,
drawn from the attributes by `load_catalogue("fashion_products", queries={asked}, seed={seed})`. This page is printed
by `COURSE_DATA_HOME=… python -m common.catalogue.fashion_page > docs/fashion_queries.md`; `--queries`, `--seed` and
`--data` (another folder in the same layout) are arguments. The same folder, number and seed give the same queries.

**How a query is made** ([`fashion_drafts.py`](../common/catalogue/fashion_drafts.py)). A thing is drawn, with a
chance that grows as the square root of its number of products, and one of its products. A word for the thing comes
from a table of shoppers' words ([`fashion_words.py`](../common/catalogue/fashion_words.py)): a quarter are the
catalogue's own, in the singular; the others ("tee", "shades", "lippy") are not. A use-case says what the thing is for
([`fashion_uses.py`](../common/catalogue/fashion_uses.py)). Wishes about the product's facts are added, in shoppers'
words, until few enough products are relevant, and now and then one more. A query is kept if at least one product has
grade 3 and {low} to {high} have grade 2 or 3. No two queries share their words or their meaning. A small catalogue
gives fewer queries, and the build says how many.

{kinds}

**Grades** mean what they mean in the pocket shop ([`fashion_intents.py`](../common/catalogue/fashion_intents.py)),
and the same function gives them.

{grades}

A shade of a colour that is ruled out (navy for "not blue") is a near miss. A fact that the catalogue does not know
misses a wish about it, and is never ruled out. A product is of a brand if its title begins with it, in any spelling; a
beginning of at least five titles, before the word for men, women or children, is a brand
([`fashion_facts.py`](../common/catalogue/fashion_facts.py)). Every product is graded: `truth` holds the grades above 0,
`judgements` a pool of about 25 products for each query, as a real shop would have judged.

**Splits.** 60 / 15 / 25, drawn within each kind. The words of a query are in one split only; so is what a use-case is
for.

**What to bear in mind.** The words are the course's, not those of real shoppers. The facts are the source's, mistakes
included: `season` is the collection, and `usage` is "Casual" for three quarters of all products. Underwear and gifts
are never asked about.

"""


@dataclass(frozen=True)
class PageConfig:
    """Say whose queries the page is about."""

    data: str = ""
    """Folder of the data set; empty: the one in the data home."""
    queries: int = 1_200
    """Queries to ask for."""
    seed: int = 0
    """Of splits and queries."""
    sample: int = 40
    """Queries in the table at the end."""


def main(config: PageConfig) -> None:
    """Print the page about the queries of fashion_products, in Markdown."""
    catalogue = load_catalogue("fashion_products", data=config.data, queries=config.queries, seed=config.seed)
    if catalogue.queries.empty:
        print(f"No query can be made over {len(catalogue.products):,} products.")
        return
    low, high = RELEVANT_RANGE
    sizes = {"queries": len(catalogue.queries), "products": len(catalogue.products)}
    rules = {"kinds": _rules(fashion_drafts), "grades": _rules(fashion_intents), "low": low, "high": high}
    print(_TEXT.format(**sizes, **rules, asked=config.queries, seed=config.seed), end="")
    print("## Counts\n")
    print(_table(sizes_by_split(catalogue).rename_axis("split").reset_index()))
    print(_table(relevant_by_kind(catalogue)))
    print(f"## {config.sample} queries\n\nColumns `3`, `2`, `1`: products of that grade.\n")
    print(_table(sample_queries(catalogue, config.sample, seed=config.seed)), end="")


def _rules(module: ModuleType) -> str:
    """Return the table in the description of a module."""
    return "\n".join(line for line in str(module.__doc__).splitlines() if line.startswith("|"))


def relevant_by_kind(catalogue: Catalogue) -> pd.DataFrame:
    """Count the queries of each kind by split; give min, median and max of relevant and of graded products."""
    truth = catalogue.truth
    relevant = truth[truth["grade"] >= RELEVANT_GRADE].groupby("query_id").size()
    queries = catalogue.queries.assign(relevant=catalogue.queries["query_id"].map(relevant))
    queries["graded"] = queries["query_id"].map(truth.groupby("query_id").size())
    rows = []
    for kind in (*KINDS, "all"):
        own = queries if kind == "all" else queries[queries["kind"] == kind]
        if len(own):
            counts = {split: int((own["split"] == split).sum()) for split in SPLITS}
            spread = {name: _spread(own[name]) for name in ("relevant", "graded")}
            rows.append({"kind": kind, **counts, **{f"{name}: min, median, max": of for name, of in spread.items()}})
    return pd.DataFrame(rows)


def _spread(counts: pd.Series) -> str:
    return f"{int(counts.min()):,}, {int(counts.median()):,}, {int(counts.max()):,}"


def sample_queries(catalogue: Catalogue, count: int, *, seed: int) -> pd.DataFrame:
    """Return up to `count` queries, equally many of each kind, with what must hold and the products by grade."""
    intents = load_intents(catalogue)
    shuffled = catalogue.queries.sample(frac=1, random_state=seed)
    place = shuffled.groupby("kind").cumcount()  # the first of each kind, then the second of each, and so on
    chosen = shuffled.assign(place=place).sort_values(["place", "kind"], kind="stable").head(count)
    grades = catalogue.truth.groupby(["query_id", "grade"]).size().unstack(fill_value=0)
    table = chosen.sort_values(["kind", "query_id"])[["query_id", "kind", "split", "query"]]
    table["must hold"] = [Intent.from_json(intents[name]).in_words() for name in table["query_id"]]
    for grade in (3, 2, 1):
        table[str(grade)] = [int(grades.get(grade, {}).get(name, 0)) for name in table["query_id"]]
    return table.drop(columns="query_id")


def _table(frame: pd.DataFrame) -> str:
    rows = [frame.columns, ["---"] * len(frame.columns), *frame.itertuples(index=False)]
    cells = ([f"{cell:,}" if isinstance(cell, int) else str(cell).replace("|", "\\|") for cell in row] for row in rows)
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


if __name__ == "__main__":
    run_step(main)
