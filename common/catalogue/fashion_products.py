"""Read Fashion Product Images: about 44,000 real products of an Indian fashion shop, each with a photo of 60 x 80.

Source: Param Aggarwal, "Fashion Product Images (Small)" on Kaggle, paramaggarwal/fashion-product-images-small; its
licence is on its page there. A copy on the hub, ashraq/fashion-product-images-small, can be read as well.

A title says who the product is for, often a brand, a colour and a type. Of the 42,445 products that this adapter was
written for, 23% have a title without a word of the type, 12% one without the colour, and 7 have no title
(`title_shares`). The brand has no column of its own and is left empty; queries find it in the title (see
`common.catalogue.fashion_facts`).

`category_path` is "masterCategory > subCategory > articleType", as the source has it: 25 types stand under more than
one sub-category (a few free gifts are bags, a belt is topwear), and the paths are not put right. Attributes: ``type``
(the articleType), ``gender``, ``season``, ``year``, ``usage``.

Products with the same title, or with the same picture pixel for pixel, are one group, directly or through others: there
29,303 groups, the largest of 82 products.

The queries are made here (`common.catalogue.fashion_queries`), and the grade of every product is known from its
attributes. As in the pocket shop, `truth` holds all grades above 0 and `judgements` a pool of about 25 products for
each query.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from common.catalogue.catalogue import Catalogue
from common.catalogue.contract import SPLITS
from common.catalogue.download import FASHION_PRODUCTS, public_files
from common.catalogue.fashion_facts import fashion_facts, words_of
from common.catalogue.fashion_files import TITLE, fashion_files, read_fashion
from common.catalogue.fashion_queries import draw_fashion_queries
from common.catalogue.images import pixel_digests
from common.catalogue.splits import linked_groups, split_by_group
from common.catalogue.text import normalise_query
from common.category_path import join_path
from common.errors import CourseError
from common.pocket_shop.judging import pool_judgements
from common.settings import artifacts_root, data_home

VERSION = 2
"""Of the reader and of the generator of queries; a change of either raises it."""

PROFILE_PARAMETERS = {"smoke": {"queries": 140}}

INTENTS = "intents.parquet"
_ATTRIBUTES = {"type": "articleType", "gender": "gender", "season": "season", "year": "year", "usage": "usage"}


def find_files(*, data: str = "", **others: object) -> dict[str, Path | list[Path]]:
    """Return the files of the folder `data`, else of ``fashion-products`` in the data home or among the downloads (see
    `fashion_files`). The `others` of the parameters change nothing about the files."""
    if data:
        home = Path(data).expanduser()
        if not home.is_dir():
            raise CourseError(f"fashion_products: data={data!r} is no folder; name one that holds the data set")
        return fashion_files(home)
    for home in (data_home(), artifacts_root() / "downloads"):
        if home is not None and (home / FASHION_PRODUCTS.folder).is_dir():
            return fashion_files(home / FASHION_PRODUCTS.folder)
    return dict(public_files(FASHION_PRODUCTS))  # raises the error that says what to put where


def build_catalogue(folder: Path, *, data: str = "", queries: int = 1_200, seed: int = 0) -> Catalogue:
    """Build the catalogue of the folder `data`, see the module; without `data` that of the data home.

    `queries` is their number, seven kinds in equal parts; 0 asks for none. Fewer come out of a small catalogue, and a
    remark says how many. Products are split 80 / 10 / 10 by group. `seed` draws the splits, the queries and the pool.
    Pictures from a zip or from Parquet are written to ``<folder>/images``, what each query asks for to `INTENTS`.
    """
    files = find_files(data=data)
    table, images, aside = read_fashion(files, folder)
    products = _products(table)
    pixels = pixel_digests([folder / path for path in images["path"]])
    of_product = products["product_id"].map(dict(zip(images["product_id"], pixels, strict=True)))
    products["group_id"] = group_products(products, of_product)
    products["split"] = split_by_group(products, seed=seed)
    # The others will be set aside.
    shown = products[products["title"].notna() | of_product.notna()].drop_duplicates("product_id")
    asked = _asked(folder, shown.reset_index(drop=True), queries, seed) if queries else {}
    place = str(files["parquet"][0].parent if "parquet" in files else files["styles"])
    return Catalogue.from_tables(
        "fashion_products",
        products=products,
        images=images if len(images) else None,
        folder=folder,
        files={"products": place, "images": place},
        quarantine=aside,
        **asked,
    )


def _products(table: pd.DataFrame) -> pd.DataFrame:
    levels = zip(table["masterCategory"], table["subCategory"], table["articleType"], strict=True)
    facts = zip(*(table[column] for column in _ATTRIBUTES.values()), strict=True)
    known = ({name: value for name, value in zip(_ATTRIBUTES, row, strict=True) if value} for row in facts)
    return pd.DataFrame(
        {
            "product_id": table["id"],
            "title": table[TITLE],
            "colour": table["baseColour"],
            "category_path": [join_path(filter(None, row)) or None for row in levels],
            "attributes": [json.dumps(row, ensure_ascii=False) for row in known],
            "locale": "en",
        },
        dtype=object,
    )


def group_products(products: pd.DataFrame, pixels: pd.Series) -> pd.Series:
    """Group products that share the words of the title or the pixels of the picture, directly or through others; the
    first one's id names the group."""
    alone = "product " + products["product_id"]
    titles = products["title"].map(lambda title: normalise_query(title) if isinstance(title, str) else "")
    part = linked_groups(
        ("title " + titles).where(titles != "", alone), ("pixels " + pixels.astype("str")).where(pixels.notna(), alone)
    )
    return products["product_id"].groupby(part).transform("first")


def _asked(folder: Path, products: pd.DataFrame, count: int, seed: int) -> dict[str, pd.DataFrame]:
    queries, truth = draw_fashion_queries(fashion_facts(products), count, seed=seed)
    if queries.empty:
        return {}
    queries[["query_id", "intent"]].to_parquet(folder / INTENTS, index=False)
    texts = products.assign(brand=None, material=None, description=None, title=products["title"].fillna(""))
    judgements = pool_judgements(texts, queries, truth, seed=seed)
    return {"queries": queries.drop(columns="intent"), "truth": truth, "judgements": judgements}


def title_shares(products: pd.DataFrame) -> dict[str, float]:
    """Return the shares of products whose title is empty, lacks a word of its type, and lacks its colour.

    A type counts as said if the title has the singular or the plural of any of its words; a colour needs all its words.
    A product without a type (a colour) is left out of that share.
    """
    facts = fashion_facts(products)
    titles = [set(words_of(title)) for title in products["title"]]
    lacks = {"type": [], "colour": []}
    for words, kind, colour in zip(titles, facts["type"], facts["colour"], strict=True):
        if isinstance(kind, str):
            said = {form for word in words_of(kind) for form in (word, word.removesuffix("s"), word.removesuffix("es"))}
            lacks["type"].append(not words & (said - {"and"}))
        if isinstance(colour, str):
            lacks["colour"].append(not set(words_of(colour)) <= words)
    shares = {f"without {name}": float(np.mean(rows)) for name, rows in lacks.items() if rows}
    return {"empty": float(products["title"].isna().mean()), **shares}


def load_intents(catalogue: Catalogue) -> dict[str, str]:
    """Return what each query of the catalogue asks for, as JSON (see `fashion_intents.Intent`), by query id."""
    path = Path(catalogue.folder or ".") / INTENTS
    if not path.is_file():
        raise CourseError(f"{catalogue.source}: there is no {INTENTS}; only fashion_products with queries has intents")
    table = pd.read_parquet(path)
    return dict(zip(table["query_id"], table["intent"], strict=True))


def sizes_by_split(catalogue: Catalogue) -> pd.DataFrame:
    """Count products, pictures, groups, queries, truth and judgements by split."""
    products, queries = catalogue.products, catalogue.queries
    split_of = queries.set_index("query_id")["split"]
    pictured = products[products["product_id"].isin(catalogue.images["product_id"])]
    counts = {
        "products": products["split"].value_counts(),
        "pictures": pictured["split"].value_counts(),
        "groups": products.groupby("split")["group_id"].nunique(),
        "queries": queries["split"].value_counts(),
        "truth": catalogue.truth["query_id"].map(split_of).value_counts(),
        "judgements": catalogue.judgements["query_id"].map(split_of).value_counts(),
    }
    return pd.DataFrame(counts).reindex(SPLITS).fillna(0).astype(int)
