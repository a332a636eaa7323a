"""Choose the pairs of a batch, whose products are each other's in-batch negatives.

Every other product of a batch is a negative for a query, so the batch decides how hard and how true the negatives are.
Three rules hold. Queries take turns, so that a batch has different ones (a query comes twice only where one round ends
and the next begins). A product is in a batch once, however many pairs name it. A product that is known to be relevant
to a query is marked, to be masked.

Similar queries can share a batch (`BatchMaker.together`). Products that fit one of them nearly fit the others, and so
become hard negatives that cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from common.errors import CourseError


@dataclass(frozen=True)
class Batch:
    """Hold a batch of B pairs, and the C distinct products of the pairs and their negatives.

    query_ids: [B]. product_ids: [C]. positives: long [B], the column of each pair's product. own_negatives: long
    [B, N], the columns of the negatives drawn for each pair, -1 where there are fewer. known: bool [B, C], products
    known to be relevant to the query of the row. weights: float [B]. typos: [B], for each query the seed of a typing
    error, 0 for none.
    """

    query_ids: list[str]
    product_ids: list[str]
    positives: torch.Tensor
    own_negatives: torch.Tensor
    known: torch.Tensor
    weights: torch.Tensor
    typos: list[int]

    def __len__(self) -> int:
        return len(self.query_ids)


@dataclass(frozen=True)
class BatchMaker:
    """Make the batches of an epoch; the same arguments and epoch give the same batches in every process.

    positives: `query_id, product_id, weight`. negatives: query id -> products to draw from. relevant: query id -> all
    products known to be relevant to it, in any split or stage. pairs: positives an epoch; the next epoch continues
    with the next pair of every query. typo_share: share of the queries that get a typing error. together: size of a
    group of similar queries; 1 groups none. similar: for each query other ones, the most similar first.

    Hofstätter et al. 2021 draw batches from clusters of queries (TAS-Balanced, arXiv:2104.06967). Here a batch has
    several groups, so that each query meets other kinds of products too.
    """

    positives: pd.DataFrame
    negatives: Mapping[str, Sequence[str]]
    relevant: Mapping[str, frozenset[str]]
    batch_size: int
    negatives_per_positive: int
    pairs: int
    seed: int
    typo_share: float = 0.0
    together: int = 1
    similar: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.positives):
            raise CourseError("there is no positive pair to train on; prepare_data prints what a catalogue has.")
        if self.batch_size < 2 or self.pairs < 1:
            raise CourseError(f"a batch needs two pairs or more and an epoch one, not {self.batch_size}, {self.pairs}.")
        if self.together < 1:
            raise CourseError(f"together counts a query too: 1 or more, not {self.together}.")

    @property
    def steps(self) -> int:
        """Return the number of batches an epoch; the next epoch takes a smaller rest, unless it is all there is."""
        return max(1, self.pairs // self.batch_size)

    def epoch(self, number: int) -> list[Batch]:
        """Return the batches of epoch `number`, counted from 0."""
        size = self.steps * min(self.batch_size, self.pairs)
        order = self._order((number + 1) * size)[number * size :]
        rng = np.random.default_rng([self.seed, 1, number])
        return [self._batch(self.positives.iloc[part], rng) for part in np.array_split(order, self.steps)]

    def _order(self, count: int) -> list[int]:
        """Return rows of positives, round after round: each query gives its next pair, in a new order each round."""
        rng = np.random.default_rng([self.seed, 0])
        rows_of = {query: rng.permutation(rows) for query, rows in self.positives.groupby("query_id").indices.items()}
        queries = list(rows_of)
        order: list[int] = []
        turn = 0
        while len(order) < count:
            shuffled = [queries[at] for at in rng.permutation(len(queries))]
            order += [int(rows_of[query][turn % len(rows_of[query])]) for query in self._grouped(shuffled, rng)]
            turn += 1
        return order[:count]

    def _grouped(self, queries: list[str], rng: np.random.Generator) -> list[str]:
        """Reorder the queries in groups of `together`: each query takes the most similar ones that are left.

        A group stays smaller if its similar queries are taken. The groups are shuffled; otherwise the last ones of each
        round, which had little to choose from, would always share a batch.
        """
        if self.together == 1:
            return queries
        left, groups = dict.fromkeys(queries), []
        for query in queries:
            if query in left:
                near = [other for other in self.similar.get(query, ()) if other in left and other != query]
                groups.append([query, *near[: self.together - 1]])
                for taken in groups[-1]:
                    del left[taken]
        return [query for at in rng.permutation(len(groups)) for query in groups[at]]

    def _batch(self, rows: pd.DataFrame, rng: np.random.Generator) -> Batch:
        queries, own = rows["query_id"].tolist(), []
        for query in queries:
            pool = self.negatives.get(query, ())
            size = min(self.negatives_per_positive, len(pool))
            own.append([pool[at] for at in rng.choice(len(pool), size, replace=False)] if size else [])
        typos = rng.integers(1, 2**31, len(rows)) * (rng.random(len(rows)) < self.typo_share)
        columns = {p: at for at, p in enumerate(dict.fromkeys([*rows["product_id"], *(p for ps in own for p in ps)]))}
        places = torch.full((len(rows), self.negatives_per_positive), -1)
        known = torch.zeros(len(rows), len(columns), dtype=torch.bool)
        for row, (query, drawn) in enumerate(zip(queries, own, strict=True)):
            places[row, : len(drawn)] = torch.tensor([columns[p] for p in drawn], dtype=torch.long)
            relevant = self.relevant.get(query, frozenset())
            known[row, [at for product, at in columns.items() if product in relevant]] = True
        return Batch(
            query_ids=queries,
            product_ids=list(columns),
            positives=torch.tensor([columns[p] for p in rows["product_id"]]),
            own_negatives=places,
            known=known,
            weights=torch.tensor(rows["weight"].to_numpy(), dtype=torch.float32),
            typos=typos.tolist(),
        )
