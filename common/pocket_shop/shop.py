"""Build the pocket shop's catalogue from facts, words, photos, queries and judgements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from common.catalogue import Catalogue
from common.catalogue.splits import split_by_group
from common.errors import CourseError
from common.pocket_shop.facts import COLOUR_NAMES, MATERIAL_NAMES, PATTERN_NAMES, decode, draw_facts
from common.pocket_shop.intents import Intent
from common.pocket_shop.judging import pool_judgements
from common.pocket_shop.outfits import draw_candidates, draw_pairs, write_captions
from common.pocket_shop.photos import PhotoFacts, draw_catalogue
from common.pocket_shop.queries import draw_queries
from common.pocket_shop.text import write_products
from common.pocket_shop.vocabulary import leaves

VERSION = 1
"""Of the generator. The same version, parameters and seed
give the same shop; a change raises it."""

PROFILE_PARAMETERS = {"smoke": {"size": 500, "queries_per_kind": 16, "outfits": 100, "photo_size": 64}}

SPLIT_FRACTIONS = {"train": 0.60, "val": 0.12, "test": 0.28}
PRODUCT_FRACTIONS = {"train": 0.70, "val": 0.10, "test": 0.20}
_WITHOUT_PHOTO = 0.02
_FACTS, _INTENTS = "facts.parquet", "intents.parquet"
_SMALLEST = 400
_CHUNK = 50_000


def build_catalogue(
    folder: Path,
    *,
    size: int = 4_500,
    queries_per_kind: int = 160,
    outfits: int = 1_500,
    photos: bool = True,
    photo_size: int = 256,
    seed: int = 2026,
) -> Catalogue:
    """Build the shop and write its photos and its facts to `folder`.

    `size` counts products, `queries_per_kind` queries of each of the seven kinds (0 for none), `outfits` the outfits
    behind `pairs`. Without `photos` it is a text-only shop, which scales to a million products. Raises `CourseError`
    for a size under 400: some categories would be too small to ask about.
    """
    if size < _SMALLEST:
        raise CourseError(f"pocket_shop: size={size} is too small; ask for at least {_SMALLEST} products")
    folder = Path(folder)
    facts = draw_facts(size, seed=seed)
    facts["has_photo"] = np.random.default_rng(seed + 1).random(size) >= (_WITHOUT_PHOTO if photos else 1.0)
    products = _written(facts, seed + 2)
    products["split"] = split_by_group(products, PRODUCT_FRACTIONS, seed=seed)
    facts.insert(0, "product_id", products["product_id"])
    facts.to_parquet(folder / _FACTS, index=False)
    tables: dict[str, pd.DataFrame] = {"products": products}
    if queries_per_kind:
        tables |= _asked(folder, facts, products, queries_per_kind, seed)
    if photos:
        tables["images"] = _photographed(folder, facts, photo_size, seed)
        tables |= _put_together(facts, products, outfits, seed)
    return Catalogue.from_tables("pocket_shop", folder=folder, verify_images=False, **tables)


def _written(facts: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Write the products chunk by chunk: a million descriptions as Python objects would not fit in 2 GB."""
    starts = range(0, len(facts), _CHUNK)
    chunks = [write_products(facts.iloc[start : start + _CHUNK], seed=seed + start, first=start) for start in starts]
    return pd.concat(chunks, ignore_index=True)


def _asked(folder: Path, facts: pd.DataFrame, products: pd.DataFrame, per_kind: int, seed: int) -> dict:
    queries, truth = draw_queries(facts, per_kind, seed=seed + 3)
    queries["split"] = _split_within_kinds(queries["kind"], seed=seed + 4)
    queries[["query_id", "intent"]].to_parquet(folder / _INTENTS, index=False)
    truth.insert(1, "product_id", products["product_id"].to_numpy()[truth.pop("product")])
    judgements = pool_judgements(products, queries, truth, seed=seed + 5)
    return {"queries": queries.drop(columns="intent"), "truth": truth, "judgements": judgements}


def _split_within_kinds(kinds: pd.Series, *, seed: int) -> np.ndarray:
    """Split the queries so that every kind is represented alike; no two of them share intent or words."""
    rng = np.random.default_rng(seed)
    splits = np.empty(len(kinds), dtype=object)
    bounds = np.cumsum(list(SPLIT_FRACTIONS.values()))[:-1]
    for kind in kinds.unique():
        rows = rng.permutation(np.flatnonzero(kinds == kind))
        parts = np.split(rows, np.round(bounds * len(rows)).astype(int))
        for name, part in zip(SPLIT_FRACTIONS, parts, strict=True):
            splits[part] = name
    return splits


def _photographed(folder: Path, facts: pd.DataFrame, photo_size: int, seed: int) -> pd.DataFrame:
    shown = facts[facts["has_photo"]]
    names = {
        "leaf": [leaves()[code].key for code in shown["leaf"]],
        "colour": decode(COLOUR_NAMES, shown["colour"]),
        "accent": decode(COLOUR_NAMES, shown["accent"]),
        "material": decode(MATERIAL_NAMES, shown["material"]),
        "pattern": decode(PATTERN_NAMES, shown["pattern"]),
    }
    scenes = [PhotoFacts(*row) for row in zip(*names.values(), strict=True)]
    images = pd.DataFrame({"product_id": shown["product_id"].to_numpy(), "position": 0})
    images["path"] = "images/" + images["product_id"] + ".jpg"
    seeds = [seed * 1_000_003 + row for row in shown.index]
    draw_catalogue(scenes, seeds, [folder / path for path in images["path"]], size=photo_size)
    return images


def _put_together(facts: pd.DataFrame, products: pd.DataFrame, outfits: int, seed: int) -> dict:
    ids = products["product_id"].to_numpy()
    pairs = draw_pairs(facts, products["split"].to_numpy(), outfits, seed=seed + 6)
    pairs.insert(0, "a_id", ids[pairs.pop("a")])
    pairs.insert(1, "b_id", ids[pairs.pop("b")])
    candidates = draw_candidates(facts, seed=seed + 7)
    candidates.insert(0, "product_id", ids[candidates.pop("row")])
    captions = pd.DataFrame({"product_id": ids, "caption": write_captions(facts)})
    return {"pairs": pairs, "category_candidates": candidates, "captions": captions}


def load_facts(catalogue: Catalogue) -> pd.DataFrame:
    """Return the facts (see `facts.draw_facts`, plus `product_id` and `has_photo`) of a pocket shop catalogue."""
    return _own_table(catalogue, _FACTS)


def load_intents(catalogue: Catalogue) -> dict[str, Intent]:
    """Return the intent behind every query of a pocket shop catalogue, by query id."""
    table = _own_table(catalogue, _INTENTS)
    return {row.query_id: Intent.from_json(row.intent) for row in table.itertuples()}


def _own_table(catalogue: Catalogue, name: str) -> pd.DataFrame:
    path = Path(catalogue.folder or ".") / name
    if not path.is_file():
        raise CourseError(
            f"{catalogue.source}: there is no {name}; only a pocket_shop with queries has facts and intents"
        )
    return pd.read_parquet(path)
