"""Make pairs of a picture and a text from a catalogue, with no picture in two splits.

`python -m chapter03_multimodal.prepare_data --catalogue pocket_shop`
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from chapter03_multimodal.duplicates import COLOUR_TOLERANCE, THRESHOLD, audit
from common.artifacts import Artifacts, RunFolder
from common.catalogue import SPLITS, Catalogue, load_catalogue
from common.catalogue.splits import split_by_group
from common.category_path import split_path
from common.cli import run_step
from common.errors import CourseError
from common.progress import tell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHAPTER, STEP = "chapter03_multimodal", "prepare_data"
TABLES = ("pairs", "duplicates", "moved")


@dataclass(frozen=True)
class PrepareDataConfig:
    """Make pairs of pictures and texts, and move pictures that stand in two splits."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    threshold: int = THRESHOLD
    """Bits of 256 in which the hashes of two pictures may differ for them to count as one; 0 to 127."""
    colour_tolerance: int = COLOUR_TOLERANCE
    """How far their colours may differ where they differ most, 0 to 255."""
    text: Literal["all", "title"] = "all"
    """all: title, brand, type, category path, colour and material, each said once; title: as it is, nothing more."""


@dataclass(frozen=True)
class MultimodalData:
    """Pictures and texts of one catalogue.

    pairs: a row a usable picture: ``product_id, path`` (as in ``catalogue.images``), ``text`` (`multimodal_text`, or
    the title; empty if nothing is known of the product), ``group_id`` (the product's id where it has no group),
    ``category_path`` (may be missing), ``split`` (after the audit). duplicates, moved: what the audit found, see
    `chapter03_multimodal.duplicates.Audit`; variants move together, so a moved product need not have a picture.
    """

    run: RunFolder
    catalogue: Catalogue
    pairs: pd.DataFrame
    duplicates: pd.DataFrame
    moved: pd.DataFrame

    def with_text(self, split: str) -> pd.DataFrame:
        """Return the pairs of a split that have a text."""
        return self.pairs[(self.pairs["split"] == split) & (self.pairs["text"] != "")]


def main(config: PrepareDataConfig) -> MultimodalData:
    """Make the tables and save them, or read those that were made from the same before.

    Raises `CourseError` for a catalogue without pictures and for settings out of range.
    """
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    if artifacts.reuse(CHAPTER, STEP, config=config) is None:
        tables = make_tables(catalogue, config)
        with artifacts.new_run(CHAPTER, STEP, config=config) as folder:
            for name, table in tables.items():
                table.to_parquet(folder / f"{name}.parquet", index=False)
    return load_multimodal_data(artifacts, catalogue)


def load_multimodal_data(artifacts: Artifacts, catalogue: Catalogue) -> MultimodalData:
    """Read the current tables; raises `MissingArtifact` with the command that makes them."""
    run = artifacts.current(CHAPTER, STEP)
    tables = {name: pd.read_parquet(run.path / f"{name}.parquet") for name in TABLES}
    return MultimodalData(run=run, catalogue=catalogue, **tables)


def make_tables(catalogue: Catalogue, config: PrepareDataConfig) -> dict[str, pd.DataFrame]:
    """Make the tables of `MultimodalData`, by name."""
    if catalogue.images.empty:
        raise CourseError(f"{catalogue.source}: no pictures; this chapter needs a catalogue that has some.")
    products = catalogue.products.assign(split=given_or_drawn_splits(catalogue.products))
    found = audit(
        products,
        catalogue.images,
        folder=catalogue.folder,
        threshold=config.threshold,
        colour_tolerance=config.colour_tolerance,
    )
    unusable = found.hashes.unusable
    if unusable:
        tell(f"{len(unusable):,} pictures left out, the first: {next(iter(unusable.values()))}")
    if len(unusable) == len(catalogue.images):
        raise CourseError(f"{catalogue.source}: none of the pictures can be read any more; load the catalogue again.")
    facts = products.assign(
        text=multimodal_text(products) if config.text == "all" else products["title"].fillna(""),
        group_id=products["group_id"].fillna(products["product_id"]),
        split=found.splits,
    )[["product_id", "text", "group_id", "category_path", "split"]]
    pictures = catalogue.images.iloc[found.hashes.rows][["product_id", "path"]]
    pairs = pictures.merge(facts, on="product_id")[
        ["product_id", "path", "text", "group_id", "category_path", "split"]
    ].astype("str")
    return {"pairs": pairs, "duplicates": found.duplicates, "moved": found.moved}


def given_or_drawn_splits(products: pd.DataFrame) -> pd.Series:
    """Return the split of every product: its own, else that of its group, else one drawn for the whole group.

    A hash of the group's name draws it: 80, 10 and 10% (`common.catalogue.splits`).
    """
    groups = products["group_id"].fillna(products["product_id"])
    of_group = products["split"].groupby(groups).transform("first")
    return of_group.fillna(split_by_group(products)).astype("str")


def multimodal_text(products: pd.DataFrame) -> list[str]:
    """Describe the picture of each row: title, brand, type, category path, colour and material, as one string.

    The type is the attribute ``type``. Missing fields are skipped, and so are repetitions: a brand that starts the
    title, a category that the title names. The description is left out: CLIP reads 77 tokens or fewer, and what
    descriptions say (care, delivery) can rarely be seen. ``""`` for a product of which nothing is known.
    """
    columns = ("title", "brand", "attributes", "category_path", "colour", "material")
    values = (products[name].astype(object).where(products[name].notna(), "").tolist() for name in columns)
    return [_said_once(*row) for row in zip(*values, strict=True)]


def _said_once(title: str, brand: str, attributes: str, category_path: str, colour: str, material: str) -> str:
    kind = json.loads(attributes).get("type") if attributes else None
    levels = split_path(category_path)
    fields = [[title], [brand], [kind if isinstance(kind, str) else ""], levels, [colour], [material]]
    said, sentences = " ", []
    for field in fields:
        new = []
        for part in field:
            words = " ".join(re.findall(r"\w+", part.casefold()))
            if words and f" {words} " not in said:
                new.append(part.strip())
                if field is not fields[1]:  # a brand may be called Oak & Co. and sell pine
                    said += f"{words} | "  # the bar keeps words of two fields from being read as one phrase
        if new:
            sentences.append(", ".join(new))
    return ". ".join(sentences)


def split_picture(data: MultimodalData, axes: Axes) -> Axes:
    """Draw the number of pictures in each split as bars, with those that the audit moved in and moved away.

    Pictures that were moved away are an empty frame.
    """
    origin = data.pairs["product_id"].map(data.moved.set_index("product_id")["from_split"])
    came, left = data.pairs["split"][origin.notna()].value_counts(), origin.value_counts()
    here = data.pairs["split"].value_counts()
    here, came, left = (counts.reindex(SPLITS, fill_value=0).to_numpy() for counts in (here, came, left))
    axes.bar(SPLITS, here - came, color="#5b8db8", label="as the catalogue has them")
    axes.bar(SPLITS, came, bottom=here - came, color="#d99a3d", label="moved in")
    axes.bar(SPLITS, left, bottom=here, color="none", edgecolor="#aa3c37", linestyle="--", label="moved away")
    for place, (now, gone) in enumerate(zip(here, left, strict=True)):
        text = f"{now:,}" + (f" (−{gone:,})" if gone else "")
        axes.text(place, now + gone, text, ha="center", va="bottom")
    axes.set_ylim(0, 1.12 * max(1, np.max(here + left)))
    axes.set_ylabel("pictures")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return axes


def print_summary(config: PrepareDataConfig) -> None:
    """Make the pairs of a catalogue and print how many there are in each split, and what the audit moved."""
    data = main(config)
    counts = data.pairs["split"].value_counts()
    print(f"{len(data.pairs):,} pictures: " + ", ".join(f"{counts.get(split, 0):,} {split}" for split in SPLITS))
    exact = int(data.duplicates["exact"].sum())
    print(f"{len(data.duplicates):,} pairs looked alike across splits ({exact:,} of them exact copies); ", end="")
    print(f"{len(data.moved):,} products were moved")


if __name__ == "__main__":
    run_step(print_summary)
