"""Bring pairs, their embeddings and what is known of the items together, from a catalogue or from files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from chapter03_multimodal.outfits.embeddings import ItemEmbeddings, load_embeddings
from chapter03_multimodal.outfits.export_embeddings import load_export
from chapter03_multimodal.outfits.metrics import Rule, shop_rule
from chapter03_multimodal.outfits.negatives import add_negatives
from chapter03_multimodal.outfits.pairs import ItemFacts, PairTable, Partners, clean_pairs, hashed_splits, read_pairs
from common.artifacts import Artifacts, RunFolder
from common.catalogue import Catalogue
from common.errors import CourseError


@dataclass(frozen=True)
class PairData:
    """What a head is trained and measured on. split_of: the split of each item. rule: how a generated shop made its
    outfits, for test questions only."""

    embeddings: ItemEmbeddings
    table: PairTable
    facts: ItemFacts
    split_of: dict[str, str]
    rule: Rule | None = None

    @property
    def pairs(self) -> pd.DataFrame:
        return self.table.pairs

    @property
    def has_negatives(self) -> bool:
        """Tell whether the source labels any pair 0."""
        return bool((self.pairs["label"] == 0).any())

    def evaluation_pairs(self, split: str, seed: int = 0) -> pd.DataFrame:
        """Return the labelled pairs of a split, with sampled negatives (`add_negatives`) if the source has none."""
        pairs = self.table.of_split(split)
        if self.has_negatives or pairs.empty:
            return pairs
        return add_negatives(pairs, Partners.of(self.pairs), self.facts, self.split_of, seed=seed)


def load_pair_data(artifacts: Artifacts, catalogue: Catalogue) -> tuple[PairData, dict[str, RunFolder]]:
    """Return a catalogue's pairs on its exported embeddings, and the runs they come from.

    Splits are those after the audit of the pictures (`prepare_data`): a pair whose items are now in different splits is
    in none.
    """
    from chapter03_multimodal.prepare_data import load_multimodal_data

    data, export = load_multimodal_data(artifacts, catalogue), load_export(artifacts)
    if catalogue.pairs.empty:
        raise CourseError(f"{catalogue.source}: the catalogue has no pairs; nothing says what goes together")
    split_of = dict(data.pairs[["product_id", "split"]].itertuples(index=False, name=None))
    table = clean_pairs(catalogue.pairs, export.embeddings.ids, split_of)
    facts = ItemFacts.of(catalogue.products)
    pair_data = PairData(export.embeddings, table, facts, split_of, shop_rule(catalogue))
    return pair_data, {"prepare_data": data.run, "export_embeddings": export.run}


def pair_data_of_files(embeddings: Path, pairs: Path, seed: int = 0) -> PairData:
    """Return the pairs of a file on exported embeddings. Items are split by hash; a pair across splits is in none."""
    items, facts = load_embeddings(embeddings), ItemFacts({}, {})
    split_of = hashed_splits(items.ids, facts, seed)
    return PairData(items, clean_pairs(read_pairs(pairs), items.ids, split_of), facts, split_of)
