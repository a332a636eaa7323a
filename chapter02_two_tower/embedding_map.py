"""Draw a map of the shop as an encoder sees it: similar products and queries lie close together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.catalogue import Catalogue
from common.errors import CourseError
from common.evaluation import RELEVANT_GRADE
from common.index import DenseSearcher

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_CATEGORIES = 10  # as many as a palette keeps apart
PERPLEXITY = 30.0


@dataclass(frozen=True)
class MapSample:
    """Hold the products, queries and links of a map.

    products: product_id, category (the top of its path). queries: query_id, query. links: query_id, product_id, the
    relevant products of these queries.
    """

    products: pd.DataFrame
    queries: pd.DataFrame
    links: pd.DataFrame


def sample_for_map(
    catalogue: Catalogue,
    queries: pd.DataFrame,
    judgements: pd.DataFrame,
    *,
    n_queries: int = 12,
    n_products: int = 700,
    links_per_query: int = 8,
    seed: int = 0,
) -> MapSample:
    """Sample queries (`query_id, query`) with some of their relevant products, and other products up to n_products.

    Raises CourseError if no query has a relevant product.
    """
    relevant = judgements[(judgements["grade"] >= RELEVANT_GRADE) & judgements["query_id"].isin(queries["query_id"])]
    if relevant.empty:
        raise CourseError("sample_for_map: none of these queries has a relevant product; give judged queries.")
    rng = np.random.default_rng(seed)
    ids = relevant["query_id"].drop_duplicates().to_numpy()
    drawn = rng.choice(ids, min(n_queries, len(ids)), replace=False)
    links = relevant[relevant["query_id"].isin(drawn)].sample(frac=1, random_state=rng)
    links = links.groupby("query_id").head(links_per_query)[["query_id", "product_id"]].reset_index(drop=True)
    products = catalogue.products.set_index("product_id")
    wanted = links["product_id"].drop_duplicates().to_numpy()
    others = products.index.difference(wanted).to_numpy()
    others = rng.choice(others, min(max(n_products - len(wanted), 0), len(others)), replace=False)
    chosen = products.loc[np.concatenate([wanted, others])]
    category = chosen["category_path"].str.split(" > ").str[0].fillna("none")
    return MapSample(
        products=pd.DataFrame({"product_id": chosen.index, "category": category.to_numpy()}),
        queries=queries[queries["query_id"].isin(drawn)][["query_id", "query"]].reset_index(drop=True),
        links=links,
    )


def embedding_map(searcher: DenseSearcher, sample: MapSample, *, seed: int = 0) -> MapSample:
    """Add columns x and y to the products and queries of the sample: t-SNE of their vectors, all together.

    The vectors come from the searcher's index and encoder. Neighbours in the map are neighbours in cosine similarity;
    distances between far parts mean nothing, nor do the axes. Source: van der Maaten and Hinton, "Visualizing Data
    using t-SNE" (2008).
    """
    from sklearn.manifold import TSNE

    at = {product_id: row for row, product_id in enumerate(searcher.index.ids)}
    rows = [at[product_id] for product_id in sample.products["product_id"]]
    queries = searcher.encoder.encode(sample.queries["query"].tolist()).vectors
    vectors = np.concatenate([searcher.index.vectors[rows], queries])
    # For vectors of length 1 the Euclidean neighbours, which are found faster, are those of the cosine.
    layout = TSNE(init="pca", perplexity=min(PERPLEXITY, (len(vectors) - 1) / 3), random_state=seed)
    x, y = layout.fit_transform(vectors).T
    return MapSample(
        products=sample.products.assign(x=x[: len(rows)], y=y[: len(rows)]),
        queries=sample.queries.assign(x=x[len(rows) :], y=y[len(rows) :]),
        links=sample.links,
    )


def draw_map(axes: Axes, laid_out: MapSample, *, title: str = "", legend: bool = True) -> None:
    """Draw a sample from `embedding_map`: products coloured by category, queries as stars with their words.

    A line joins each query to each of its relevant products; the shorter the lines, the better the encoder.
    """
    from matplotlib import colormaps

    products, queries = laid_out.products, laid_out.queries
    # Equal counts are ordered by name, so that two maps of one sample have the same colours.
    common = products["category"].value_counts().sort_index().nlargest(SHOWN_CATEGORIES).index
    palette = dict(zip(common, colormaps["tab10"].colors, strict=False))
    for name, colour in palette.items():
        part = products[products["category"] == name]
        axes.scatter(part["x"], part["y"], s=6, color=colour, alpha=0.5, linewidths=0, label=name)
    rest = products[~products["category"].isin(common)]
    axes.scatter(rest["x"], rest["y"], s=6, color="#bbbbbb", alpha=0.5, linewidths=0)
    places = products.set_index("product_id")[["x", "y"]]
    for query in queries.itertuples():
        for product_id in laid_out.links.loc[laid_out.links["query_id"] == query.query_id, "product_id"]:
            x, y = places.loc[product_id]
            axes.plot([query.x, x], [query.y, y], color="#555555", linewidth=0.5, alpha=0.6)
        axes.annotate(query.query, (query.x, query.y), fontsize=7, xytext=(3, 3), textcoords="offset points")
    axes.scatter(queries["x"], queries["y"], marker="*", s=60, color="black", zorder=3)
    axes.set(title=title, xticks=[], yticks=[])
    if legend:
        axes.legend(fontsize=7, markerscale=2, loc="lower left", ncols=2)
