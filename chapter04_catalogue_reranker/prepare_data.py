"""From a catalogue to what a reranker learns from: products with picture and text, and up to nine categories for each.

`python -m chapter04_catalogue_reranker.prepare_data --catalogue pocket_shop`

What a list may look like, and what becomes of it:

- one candidate: it stays; there is nothing to rank, and training learns from it only if it is widened;
- a path listed twice: counted once (the catalogue's contract sees to that);
- no true path among them: the product can be neither trained on nor measured; it is exported all the same;
- two true paths: the first is the true one, and the others are neither true nor wrong: they are left out;
- none at all: the product is left out and counted. So is one with neither a text nor a picture.

A catalogue that has categories but no lists (ABO, your own) is given some: the true path and its eight nearest
look-alikes, in random order. Figures on such lists say how hard *these* look-alikes are; they compare with nobody's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from chapter03_multimodal.prepare_data import given_or_drawn_splits
from chapter04_catalogue_reranker.mine_hard_negatives import KINDS, Kind, nearest_paths, siblings, take_turns
from common.artifacts import Artifacts, RunFolder
from common.atomic import read_json, write_json
from common.catalogue import SPLITS, Catalogue, load_catalogue
from common.catalogue.images import check_images
from common.catalogue.splits import carve_validation
from common.cli import run_step
from common.encoders import MINILM, load_text_encoder
from common.errors import CourseError, MissingArtifact
from common.index import DenseIndex
from common.progress import tell
from common.settings import artifacts_root

CHAPTER, STEP = "chapter04_catalogue_reranker", "prepare_data"
LISTED = "listed"
CONFUSIONS = "confusions.parquet"


@dataclass(frozen=True)
class PrepareDataConfig:
    """Give every product its text, its picture and its candidate categories, and training products harder ones."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    candidates: int = 9
    """At most so many listed paths a product, the true one among them; at least 2."""
    widen: int = 4
    """So many mined wrong paths are added to the list of each training product; 0 for none."""
    widen_by: tuple[Kind, ...] = ("sibling", "lookalike")
    """What is mined, in turn: sibling, lookalike, confusion."""
    confusions_of: str | None = None
    """Whose confusions: the name of a training run, as its manifest says it. None: the training in force."""
    encoder: str = MINILM
    """Text encoder that finds look-alikes where chapter 1 has no index of the catalogue."""
    seed: int = 0
    """Of the order of siblings, and of lists that are made here."""


@dataclass(frozen=True)
class RerankerData:
    """Products, their candidates and all paths of one catalogue.

    `products`: ``product_id, text`` (`product_text`, may be empty), ``image`` (as in ``catalogue.images``: the first
    that can be opened; None if there is none), ``group_id``, ``split``, ``true_path`` (None if no candidate is true).
    `candidates`: ``product_id, category_path, is_true, position`` (0, 1, …), ``source`` ("listed" or a kind of
    `mine_hard_negatives`); per product no path twice, the listed ones first. Only training products have others.
    `paths`: every category path that the catalogue names anywhere, sorted. `left_out`: products by reason.
    """

    run: RunFolder
    catalogue: Catalogue
    products: pd.DataFrame
    candidates: pd.DataFrame
    paths: list[str]
    left_out: dict[str, int] = field(default_factory=dict)


def product_text(title: str | None, description: str | None) -> str:
    """What the text tower reads of a product: ``Title: … / Description: …``. A missing or blank part is left out with
    its label; ``""`` if both are. The category stays out: it is the answer."""
    parts = (("Title", title), ("Description", description))
    return " / ".join(f"{label}: {text.strip()}" for label, text in parts if text and text.strip())


def main(config: PrepareDataConfig) -> RerankerData:
    """Make the tables and write them down, or read them if they were made from the same before.

    Raises `CourseError` for settings out of range and a catalogue without categories, `MissingArtifact` if confusions
    are asked for and nothing has been trained.
    """
    _check(config)
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    inputs = _inputs(artifacts, catalogue, config)
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            _write(folder, *make_tables(catalogue, config, inputs))
    return load_reranker_data(artifacts, catalogue)


def load_reranker_data(artifacts: Artifacts, catalogue: Catalogue) -> RerankerData:
    """Read the data in force; raises `MissingArtifact` with the command that makes them."""
    run = artifacts.current(CHAPTER, STEP)
    products = pd.read_parquet(run.path / "products.parquet")
    for name in ("image", "true_path"):
        products[name] = _none_for_missing(products[name])
    candidates = pd.read_parquet(run.path / "candidates.parquet")
    return RerankerData(run, catalogue, products, candidates, **read_json(run.path / "facts.json"))


def make_tables(
    catalogue: Catalogue, config: PrepareDataConfig, inputs: dict[str, RunFolder]
) -> tuple[pd.DataFrame, pd.DataFrame, list[str], dict[str, int]]:
    """products, candidates, paths and left_out of `RerankerData`. inputs: the runs that look-alikes ("reindex", of
    chapter 1) and confusions ("train") are taken from."""
    products = _products(catalogue)
    if catalogue.category_candidates.empty:
        listed = _made_lists(catalogue, products, inputs, config)
    else:
        listed = _listed(catalogue.category_candidates, config.candidates)
    true = listed[listed["is_true"]].set_index("product_id")["category_path"]
    products["true_path"] = _none_for_missing(products["product_id"].map(true))
    products, left_out = _usable(products, set(listed["product_id"]))
    listed = listed[listed["product_id"].isin(products["product_id"])].assign(source=LISTED)
    named = (catalogue.category_candidates["category_path"], catalogue.products["category_path"].dropna())
    paths = sorted(set().union(*named))
    rows = [listed, _mined(products, listed, paths, inputs, config)] if config.widen else [listed]
    candidates = pd.concat(rows, ignore_index=True).astype({"is_true": bool, "source": "str"})
    row_of = pd.Series(products.index, index=products["product_id"])
    candidates = candidates.sort_values("product_id", key=lambda ids: ids.map(row_of), kind="stable", ignore_index=True)
    candidates["position"] = candidates.groupby("product_id").cumcount().astype("int64")
    return products, candidates[["product_id", "category_path", "is_true", "position", "source"]], paths, left_out


def summary(data: RerankerData) -> pd.DataFrame:
    """One row a split: products, how many have an image, a text and a true path, the mean number of listed candidates
    and of those added to them, distinct true paths, and the Acc@1 of a guess among the listed (a product without a true
    path is always missed)."""
    is_listed = data.candidates["source"] == LISTED
    counts = {
        name: data.products["product_id"].map(rows["product_id"].value_counts()).fillna(0)
        for name, rows in (("listed", data.candidates[is_listed]), ("added", data.candidates[~is_listed]))
    }
    table = data.products.assign(**counts, chance=data.products["true_path"].notna() / counts["listed"])
    rows = {}
    for split in SPLITS:
        part = table[table["split"] == split]
        rows[split] = {
            "products": len(part),
            "with image": int(part["image"].notna().sum()),
            "with text": int(part["text"].ne("").sum()),
            "with true path": int(part["true_path"].notna().sum()),
            "listed": part["listed"].mean(),
            "added": part["added"].mean(),
            "true paths": part["true_path"].nunique(),
            "chance Acc@1": part["chance"].mean(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("split")


def print_summary(config: PrepareDataConfig) -> None:
    """Prepare a catalogue for the reranker and print what there is in each split."""
    data = main(config)
    print(summary(data).round(3).to_string())
    print(f"{len(data.paths):,} category paths; ", end="")
    print("left out: " + ", ".join(f"{count:,} products with {reason}" for reason, count in data.left_out.items()))


def _check(config: PrepareDataConfig) -> None:
    if config.candidates < 2:
        raise CourseError(f"candidates must be at least 2, a true one and a wrong one, not {config.candidates}.")
    if config.widen < 0:
        raise CourseError(f"widen must be 0 (none) or more, not {config.widen}.")
    unknown = [kind for kind in config.widen_by if kind not in KINDS]
    if unknown or (config.widen and not config.widen_by):
        raise CourseError(f"widen_by: unknown kinds {unknown}; choose one or more of {', '.join(KINDS)}.")


def _inputs(artifacts: Artifacts, catalogue: Catalogue, config: PrepareDataConfig) -> dict[str, RunFolder]:
    """Chapter 1's index, where look-alikes are wanted and there is one, and the run whose confusions are wanted."""
    kinds, inputs = config.widen_by if config.widen else (), {}
    if "lookalike" in kinds or catalogue.category_candidates.empty:
        try:
            inputs["reindex"] = artifacts.current("chapter01_baseline", "reindex")
        except MissingArtifact:
            tell(f"chapter 1 has no index of {catalogue.source}: texts are embedded with {config.encoder}")
    if "confusion" in kinds:
        inputs["train"] = _training_run(artifacts, config.confusions_of)
    return inputs


def _training_run(artifacts: Artifacts, name: str | None) -> RunFolder:
    if name is None:
        run = artifacts.current(CHAPTER, "train")
    else:
        path = artifacts.root / name
        if not name.startswith(f"{artifacts.source}@{artifacts.digest}/") or not (path / "manifest.json").is_file():
            raise CourseError(f"confusions_of: {name!r} is no run made from {artifacts.source}@{artifacts.digest}.")
        run = RunFolder(path, read_json(path / "manifest.json"))
    if not (run.path / CONFUSIONS).is_file():
        raise CourseError(f"{run.name}: no {CONFUSIONS} in this run; train again, or leave confusion out of widen_by.")
    return run


def _products(catalogue: Catalogue) -> pd.DataFrame:
    products = catalogue.products
    texts = zip(_none_for_missing(products["title"]), _none_for_missing(products["description"]), strict=True)
    split = given_or_drawn_splits(products)
    return pd.DataFrame(
        {
            "product_id": products["product_id"],
            "text": [product_text(title, description) for title, description in texts],
            "image": _none_for_missing(products["product_id"].map(_first_usable(catalogue))),
            "group_id": products["group_id"].fillna(products["product_id"]),
            "split": split if (split == "val").any() else carve_validation(products, split),
        }
    )


def _usable(products: pd.DataFrame, with_list: set[str]) -> tuple[pd.DataFrame, dict[str, int]]:
    """The products that can be ranked, and how many cannot, by reason."""
    listed = products["product_id"].isin(with_list)
    says_something = products["text"].ne("") | products["image"].notna()
    left_out = {"no candidate": int((~listed).sum()), "neither text nor picture": int((listed & ~says_something).sum())}
    return products[listed & says_something].reset_index(drop=True), left_out


def _first_usable(catalogue: Catalogue) -> pd.Series:
    """By product the first of its pictures that can still be opened."""
    images = catalogue.images.sort_values("position", kind="stable")
    paths = [Path(catalogue.folder or ".", path) for path in images["path"]]
    faults = pd.Series(check_images(paths), index=images.index, dtype=object)
    unusable = faults.dropna()
    if len(unusable):
        tell(f"{len(unusable):,} pictures cannot be used, the first: {unusable.iloc[0]}")
    return images[faults.isna()].drop_duplicates("product_id").set_index("product_id")["path"]


def _none_for_missing(values: pd.Series) -> pd.Series:
    return values.astype(object).where(values.notna(), None)


def _listed(candidates: pd.DataFrame, limit: int) -> pd.DataFrame:
    """``product_id, category_path, is_true``: per product the first true path and the first wrong ones in their order,
    at most `limit` together."""
    rows = candidates.sort_values("position", kind="stable")
    rank = rows.groupby(["product_id", "is_true"]).cumcount()
    room = limit - rows.groupby("product_id")["is_true"].transform("any").astype("int64")
    kept = rows[rank < room.where(~rows["is_true"], 1)]
    return kept[["product_id", "category_path", "is_true"]]


def _made_lists(
    catalogue: Catalogue, products: pd.DataFrame, inputs: dict[str, RunFolder], config: PrepareDataConfig
) -> pd.DataFrame:
    """What `_listed` returns, for a catalogue without lists: true paths and their look-alikes, in random order."""
    known = products.assign(true_path=catalogue.products["category_path"])
    known = known[known["true_path"].notna()]
    if known.empty:
        raise CourseError(f"{catalogue.source}: no product has a category path or candidates; nothing can be ranked.")
    tell(f"{catalogue.source} has no lists of candidates: made of the true path and its look-alikes")
    rng, rows = np.random.default_rng(config.seed), []
    near = _look_alikes(known, inputs, config.encoder, config.candidates - 1)
    for product_id, true, others in zip(known["product_id"], known["true_path"], near, strict=True):
        rows += [(product_id, str(path), path == true) for path in rng.permutation([true, *others])]
    return pd.DataFrame(rows, columns=["product_id", "category_path", "is_true"])


def _look_alikes(products: pd.DataFrame, inputs: dict[str, RunFolder], encoder: str, top: int) -> list[list[str]]:
    """For each row of `products`, which have a `true_path`, the paths of the training products that read like it."""
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


def _mined(
    products: pd.DataFrame,
    listed: pd.DataFrame,
    paths: list[str],
    inputs: dict[str, RunFolder],
    config: PrepareDataConfig,
) -> pd.DataFrame:
    """Wrong paths for the training products that have a true one: ``product_id, category_path, is_true, source``."""
    part = products[(products["split"] == "train") & products["true_path"].notna()]
    miners = {
        "sibling": lambda: siblings(part["true_path"].tolist(), paths, config.seed),
        "lookalike": lambda: _look_alikes(part, inputs, config.encoder, config.candidates + config.widen),
        "confusion": lambda: _confusions(part, inputs["train"]),
    }
    mined = {kind: miners[kind]() for kind in dict.fromkeys(config.widen_by)}
    taken = listed.groupby("product_id")["category_path"].agg(list)
    rows = []
    for row, (product_id, true) in enumerate(zip(part["product_id"], part["true_path"], strict=True)):
        queues = {kind: found[row] for kind, found in mined.items()}
        chosen = take_turns(queues, {*taken[product_id], true}, config.widen)
        rows += [(product_id, path, False, kind) for path, kind in chosen]
    return pd.DataFrame(rows, columns=["product_id", "category_path", "is_true", "source"])


def _confusions(products: pd.DataFrame, run: RunFolder) -> list[list[str]]:
    """For each product what the model of a training run ranked first and was wrong, in the order of its table."""
    table = pd.read_parquet(run.path / CONFUSIONS)
    found = table.groupby("product_id")["category_path"].agg(list).to_dict()
    return [found.get(product_id, []) for product_id in products["product_id"]]


def _write(
    folder: Path, products: pd.DataFrame, candidates: pd.DataFrame, paths: list[str], left_out: dict[str, int]
) -> None:
    products.to_parquet(folder / "products.parquet", index=False)
    candidates.to_parquet(folder / "candidates.parquet", index=False)
    write_json(folder / "facts.json", {"paths": paths, "left_out": left_out})


if __name__ == "__main__":
    run_step(print_summary)
