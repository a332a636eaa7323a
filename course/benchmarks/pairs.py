"""Draw the pairs that the benchmarks train on: judged training queries of a catalogue, each with a relevant product."""

from __future__ import annotations

from dataclasses import dataclass

from chapter02_two_tower.batches import BatchMaker
from chapter02_two_tower.training_data import searchable
from common.catalogue import RELEVANT_GRADE, Catalogue
from common.errors import CourseError


@dataclass(frozen=True)
class Pairs:
    """Hold pairs of texts. queries, products: [N]. A batch has different queries if there are enough of them."""

    queries: list[str]
    products: list[str]

    def batches(self, size: int) -> list[Pairs]:
        """Return the pairs in their order, `size` at a time; a smaller rest is left out."""
        starts = range(0, len(self.queries) - size + 1, size)
        return [Pairs(self.queries[at : at + size], self.products[at : at + size]) for at in starts]


def judged_pairs(catalogue: Catalogue, count: int, *, batch_size: int, seed: int = 0) -> Pairs:
    """Draw `count` pairs, a multiple of `batch_size`; without judged training queries, raise `CourseError`."""
    train = catalogue.split_queries("train").set_index("query_id")["query"]
    texts = searchable(catalogue.products)
    judged = catalogue.judgements
    relevant = judged[
        (judged["grade"] >= RELEVANT_GRADE) & judged["query_id"].isin(train.index) & judged["product_id"].isin(texts)
    ]
    if relevant.empty:
        raise CourseError(f"benchmark: {catalogue.source} has no judged training queries; choose another catalogue.")
    maker = BatchMaker(relevant.assign(weight=1.0), {}, {}, batch_size, 0, count, seed)
    drawn = [(q, b.product_ids[at]) for b in maker.epoch(0) for q, at in zip(b.query_ids, b.positives, strict=True)]
    return Pairs([train[query_id] for query_id, _ in drawn], [texts[product_id] for _, product_id in drawn])
