"""Make the candidate lists of products: shorten given ones, make missing ones, and add mined wrong paths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from chapter04_catalogue_reranker.mine_hard_negatives import nearest_paths, siblings, take_turns
from common.artifacts import RunFolder
from common.encoders import load_text_encoder
from common.errors import CourseError
from common.index import DenseIndex
from common.progress import tell
from common.settings import artifacts_root

CONFUSIONS = "confusions.parquet"


def first_candidates(candidates: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Return, per product, the first true path and the first wrong ones, at most `limit` together.

    candidates: of a catalogue. Columns of the result: ``product_id, category_path, is_true``.
    """
    rows = candidates.sort_values("position", kind="stable")
    rank = rows.groupby(["product_id", "is_true"]).cumcount()
    room = limit - rows.groupby("product_id")["is_true"].transform("any").astype("int64")
    kept = rows[rank < room.where(~rows["is_true"], 1)]
    return kept[["product_id", "category_path", "is_true"]]


def made_lists(
    source: str, products: pd.DataFrame, inputs: dict[str, RunFolder], *, count: int, encoder: str, seed: int
) -> pd.DataFrame:
    """Return lists of `count` paths for a catalogue without lists: true paths and their look-alikes, in random order.

    products: of the catalogue `source`, with ``true_path``. inputs, encoder: of the look-alikes. Columns of the result
    as in `first_candidates`. Raises `CourseError` if no product has a true path.
    """
    known = products[products["true_path"].notna()]
    if known.empty:
        raise CourseError(f"{source}: no product has a category path or candidates; nothing can be ranked.")
    tell(f"{source} has no lists of candidates: made of the true path and its look-alikes")
    rng, rows = np.random.default_rng(seed), []
    near = _look_alikes(known, inputs, encoder, count - 1)
    for product_id, true, others in zip(known["product_id"], known["true_path"], near, strict=True):
        rows += [(product_id, str(path), path == true) for path in rng.permutation([true, *others])]
    return pd.DataFrame(rows, columns=["product_id", "category_path", "is_true"])


def mined_candidates(
    products: pd.DataFrame,
    listed: pd.DataFrame,
    paths: list[str],
    inputs: dict[str, RunFolder],
    *,
    kinds: Sequence[str],
    count: int,
    top: int,
    encoder: str,
    seed: int,
) -> pd.DataFrame:
    """Return up to `count` mined wrong paths for each training product that has a true path.

    listed: the candidates that it has already. paths: of the whole catalogue. inputs, encoder: of look-alikes and
    confusions. kinds: of `mine_hard_negatives`, in turn. top: look-alikes to consider. seed: of the order of siblings.
    Columns of the result: ``product_id, category_path, is_true, source``.
    """
    part = products[(products["split"] == "train") & products["true_path"].notna()]
    miners = {
        "sibling": lambda: siblings(part["true_path"].tolist(), paths, seed),
        "lookalike": lambda: _look_alikes(part, inputs, encoder, top),
        "confusion": lambda: _confusions(part, inputs["train"]),
    }
    mined = {kind: miners[kind]() for kind in dict.fromkeys(kinds)}
    taken = listed.groupby("product_id")["category_path"].agg(list)
    rows = []
    for row, (product_id, true) in enumerate(zip(part["product_id"], part["true_path"], strict=True)):
        queues = {kind: found[row] for kind, found in mined.items()}
        chosen = take_turns(queues, {*taken[product_id], true}, count)
        rows += [(product_id, path, False, kind) for path, kind in chosen]
    return pd.DataFrame(rows, columns=["product_id", "category_path", "is_true", "source"])


def _confusions(products: pd.DataFrame, run: RunFolder) -> list[list[str]]:
    """Return, for each product, the wrong paths that the model of a training run ranked first."""
    table = pd.read_parquet(run.path / CONFUSIONS)
    found = table.groupby("product_id")["category_path"].agg(list).to_dict()
    return [found.get(product_id, []) for product_id in products["product_id"]]


def _look_alikes(products: pd.DataFrame, inputs: dict[str, RunFolder], encoder: str, top: int) -> list[list[str]]:
    """Return, for each row of `products`, the other true paths of the training products with the most similar texts."""
    if "reindex" in inputs:
        index = DenseIndex.load(inputs["reindex"].path / "flat")
        place = {product_id: at for at, product_id in enumerate(index.ids)}
        missing = [product_id for product_id in products["product_id"] if product_id not in place]
        if missing:
            raise CourseError(
                f"prepare_data: chapter 1's index has no product {missing[0]!r}.\n"
                "Build it again with: python -m chapter01_baseline.reindex"
            )
        vectors = index.vectors[[place[product_id] for product_id in products["product_id"]]]
    else:
        loaded = load_text_encoder(encoder, cache=artifacts_root() / "embeddings")
        vectors = loaded.encode(products["text"].tolist(), desc="embedding products").vectors
    train, paths = (products["split"] == "train").to_numpy(), products["true_path"].to_numpy()
    return nearest_paths(vectors, paths, vectors[train], paths[train], top)
