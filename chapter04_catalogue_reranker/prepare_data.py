"""Prepare the data of the reranker: products with picture and text, and up to nine candidate categories for each.

`python -m chapter04_catalogue_reranker.prepare_data --catalogue pocket_shop`

Rules for the candidate lists:

- one candidate: the list stays; there is nothing to rank, and training learns from it only if it is widened;
- a path listed twice counts once (the catalogue's contract ensures it);
- no true path: the product is neither trained on nor measured, but exported;
- two true paths: the first is the true one; the others are dropped, since they are neither true nor wrong;
- an empty list: the product is left out and counted, as is one with neither a text nor a picture.

A catalogue that has categories but no lists (ABO, your own) gets some: the true path and its eight nearest look-alikes,
in random order. Figures on such lists depend on *these* look-alikes; do not compare them with figures on other lists.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from chapter03_multimodal.prepare_data import given_or_drawn_splits
from chapter04_catalogue_reranker.candidate_lists import first_candidates, made_lists, mined_candidates
from chapter04_catalogue_reranker.mine_hard_negatives import KINDS, Kind
from common.artifacts import Artifacts, RunFolder
from common.atomic import read_json, write_json
from common.catalogue import SPLITS, Catalogue, load_catalogue
from common.catalogue.images import check_images
from common.catalogue.splits import carve_validation
from common.cli import run_step
from common.encoders import MINILM
from common.errors import CourseError, MissingArtifact
from common.progress import tell

CHAPTER, STEP = "chapter04_catalogue_reranker", "prepare_data"
LISTED = "listed"


@dataclass(frozen=True)
class PrepareDataConfig:
    """Collect text, picture and candidate categories of every product, and harder ones for training products."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    candidates: int = 9
    """Most listed paths per product, the true one among them; at least 2."""
    widen: int = 4
    """Mined wrong paths to add to the list of each training product; 0 for none."""
    widen_by: tuple[Kind, ...] = ("sibling", "lookalike")
    """Kinds to mine, in turn: sibling, lookalike, confusion."""
    encoder: str = MINILM
    """Text encoder that finds look-alikes if chapter 1 has no index of the catalogue."""
    seed: int = 0
    """Seed of the order of siblings, and of lists that are made here."""


@dataclass(frozen=True)
class RerankerData:
    """Hold products, their candidates and all paths of one catalogue.

    `products`: ``product_id, text`` (`product_text`, may be empty), ``image`` (path of the first picture that can be
    opened, as in ``catalogue.images``; None if there is none), ``group_id``, ``split``, ``true_path`` (None if no
    candidate is true).
    `candidates`: ``product_id, category_path, is_true, position`` (0, 1, …), ``source`` ("listed" or a kind of
    `mine_hard_negatives`); per product no path twice, the listed ones first. Only training products have others.
    `paths`: every category path of the catalogue, sorted. `left_out`: number of products by reason.
    """

    run: RunFolder
    catalogue: Catalogue
    products: pd.DataFrame
    candidates: pd.DataFrame
    paths: list[str]
    left_out: dict[str, int] = field(default_factory=dict)


def product_text(title: str | None, description: str | None) -> str:
    """Return the text of a product: ``Title: … / Description: …``.

    A missing or blank part is left out with its label; ``""`` if both are. The category is not part of it: it is the
    answer.
    """
    parts = (("Title", title), ("Description", description))
    return " / ".join(f"{label}: {text.strip()}" for label, text in parts if text and text.strip())


def main(config: PrepareDataConfig) -> RerankerData:
    """Make the tables and save them, or return the result of an earlier run from the same inputs.

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
    """Read the current data; raises `MissingArtifact` with the command that makes them."""
    run = artifacts.current(CHAPTER, STEP)
    products = pd.read_parquet(run.path / "products.parquet")
    for name in ("image", "true_path"):
        products[name] = _none_for_missing(products[name])
    candidates = pd.read_parquet(run.path / "candidates.parquet")
    return RerankerData(run, catalogue, products, candidates, **read_json(run.path / "facts.json"))


def make_tables(
    catalogue: Catalogue, config: PrepareDataConfig, inputs: dict[str, RunFolder]
) -> tuple[pd.DataFrame, pd.DataFrame, list[str], dict[str, int]]:
    """Return products, candidates, paths and left_out of `RerankerData`.

    inputs: the runs that provide look-alikes ("reindex", of chapter 1) and confusions ("train").
    """
    products = _products(catalogue)
    if catalogue.category_candidates.empty:
        known = products.assign(true_path=catalogue.products["category_path"])
        settings = {"count": config.candidates, "encoder": config.encoder, "seed": config.seed}
        listed = made_lists(catalogue.source, known, inputs, **settings)
    else:
        listed = first_candidates(catalogue.category_candidates, config.candidates)
    true = listed[listed["is_true"]].set_index("product_id")["category_path"]
    products["true_path"] = _none_for_missing(products["product_id"].map(true))
    products, left_out = _usable(products, set(listed["product_id"]))
    listed = listed[listed["product_id"].isin(products["product_id"])].assign(source=LISTED)
    named = (catalogue.category_candidates["category_path"], catalogue.products["category_path"].dropna())
    paths = sorted(set().union(*named))
    rows = [listed]
    if config.widen:
        mined = mined_candidates(
            products,
            listed,
            paths,
            inputs,
            kinds=config.widen_by,
            count=config.widen,
            top=config.candidates + config.widen,
            encoder=config.encoder,
            seed=config.seed,
        )
        rows.append(mined)
    candidates = pd.concat(rows, ignore_index=True).astype({"is_true": bool, "source": "str"})
    row_of = pd.Series(products.index, index=products["product_id"])
    candidates = candidates.sort_values("product_id", key=lambda ids: ids.map(row_of), kind="stable", ignore_index=True)
    candidates["position"] = candidates.groupby("product_id").cumcount().astype("int64")
    return products, candidates[["product_id", "category_path", "is_true", "position", "source"]], paths, left_out


def summary(data: RerankerData) -> pd.DataFrame:
    """Count per split: products, those with an image, a text and a true path, mean numbers of listed and of added
    candidates, distinct true paths, and the Acc@1 of a random guess among the listed (0 without a true path)."""
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
    """Prepare a catalogue for the reranker and print a summary of its splits."""
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
    """Return the runs to read: chapter 1's index for look-alikes, if there is one, and the training for confusions."""
    kinds, inputs = config.widen_by if config.widen else (), {}
    if "lookalike" in kinds or catalogue.category_candidates.empty:
        try:
            inputs["reindex"] = artifacts.current("chapter01_baseline", "reindex")
        except MissingArtifact:
            tell(f"chapter 1 has no index of {catalogue.source}: texts are embedded with {config.encoder}")
    if "confusion" in kinds:
        inputs["train"] = artifacts.current(CHAPTER, "train")
    return inputs


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
    """Return the products that can be ranked, and how many cannot, by reason."""
    listed = products["product_id"].isin(with_list)
    has_input = products["text"].ne("") | products["image"].notna()
    left_out = {"no candidate": int((~listed).sum()), "neither text nor picture": int((listed & ~has_input).sum())}
    return products[listed & has_input].reset_index(drop=True), left_out


def _first_usable(catalogue: Catalogue) -> pd.Series:
    """Return, by product, the path of its first picture that can be opened."""
    images = catalogue.images.sort_values("position", kind="stable")
    paths = [Path(catalogue.folder or ".", path) for path in images["path"]]
    faults = pd.Series(check_images(paths), index=images.index, dtype=object)
    unusable = faults.dropna()
    if len(unusable):
        tell(f"{len(unusable):,} pictures cannot be used, the first: {unusable.iloc[0]}")
    return images[faults.isna()].drop_duplicates("product_id").set_index("product_id")["path"]


def _none_for_missing(values: pd.Series) -> pd.Series:
    return values.astype(object).where(values.notna(), None)


def _write(
    folder: Path, products: pd.DataFrame, candidates: pd.DataFrame, paths: list[str], left_out: dict[str, int]
) -> None:
    products.to_parquet(folder / "products.parquet", index=False)
    candidates.to_parquet(folder / "candidates.parquet", index=False)
    write_json(folder / "facts.json", {"paths": paths, "left_out": left_out})


if __name__ == "__main__":
    run_step(print_summary)
