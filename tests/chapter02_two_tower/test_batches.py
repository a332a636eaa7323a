"""What stands in a batch: different queries, each product once, everything relevant marked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter02_two_tower.batches import BatchMaker
from common.errors import CourseError

PAIRS = pd.DataFrame(
    [(f"q{q}", f"p{(q * 3 + n) % 17}", 1.0 if n % 2 else 0.9) for q in range(12) for n in range(1 + q % 4)],
    columns=["query_id", "product_id", "weight"],
)
RELEVANT = {q: frozenset(rows) for q, rows in PAIRS.groupby("query_id")["product_id"]}
NEGATIVES = {f"q{q}": [f"n{q}", f"n{q + 1}", f"n{q + 2}"] for q in range(11)}  # q11 has none


def maker(**changes):
    arguments = {"batch_size": 4, "negatives_per_positive": 2, "pairs": 16, "seed": 0}
    return BatchMaker(PAIRS, NEGATIVES, RELEVANT, **(arguments | changes))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(0, 3), st.integers(2, 40), st.integers(0, 5), st.integers(0, 3))
def test_every_batch_says_the_truth_about_its_pairs(batch_size, negatives, pairs, seed, epoch):
    batches = maker(batch_size=batch_size, negatives_per_positive=negatives, pairs=pairs, seed=seed)
    made = batches.epoch(epoch)
    assert len(made) == batches.steps == max(1, pairs // batch_size)
    weight_of = PAIRS.set_index(["query_id", "product_id"])["weight"]
    for batch in made:
        assert len(batch) == min(batch_size, pairs) and len(set(batch.product_ids)) == len(batch.product_ids)
        for row, query in enumerate(batch.query_ids):
            positive = batch.product_ids[batch.positives[row]]
            assert float(batch.weights[row]) == pytest.approx(weight_of[query, positive])
            for column, product in enumerate(batch.product_ids):
                assert bool(batch.known[row, column]) == (product in RELEVANT[query])
            own = [batch.product_ids[at] for at in batch.own_negatives[row].tolist() if at >= 0]
            assert len(own) == len(set(own)) == min(negatives, len(NEGATIVES.get(query, [])))
            assert set(own) <= set(NEGATIVES.get(query, []))


def test_the_same_arguments_make_the_same_batches_and_epochs_differ():
    one, two = maker().epoch(1), maker().epoch(1)
    for a, b in zip(one, two, strict=True):
        assert (a.query_ids, a.product_ids) == (b.query_ids, b.product_ids)
        assert a.own_negatives.tolist() == b.own_negatives.tolist()
    assert [b.query_ids for b in one] != [b.query_ids for b in maker().epoch(0)]
    assert [b.query_ids for b in one] != [b.query_ids for b in maker(seed=1).epoch(1)]


def test_queries_of_a_batch_differ_and_every_pair_comes_before_one_comes_again():
    batches = maker(batch_size=6, pairs=12)
    seen = []
    for epoch in range(6):
        for batch in batches.epoch(epoch):
            assert len(set(batch.query_ids)) == 6
            seen += [(q, batch.product_ids[p]) for q, p in zip(batch.query_ids, batch.positives, strict=True)]
    of_q3 = [pair for pair in seen if pair[0] == "q3"]
    assert len(of_q3) == 6 and len(set(of_q3[:4])) == 4 == PAIRS["query_id"].eq("q3").sum()


def test_similar_queries_stand_together_and_still_take_turns():
    partner = {f"q{at}": [f"q{at ^ 1}", f"q{(at + 5) % 12}"] for at in range(12)}
    for epoch in range(3):
        round_of_queries = []
        for batch in maker(pairs=12, together=2, similar=partner).epoch(epoch):
            assert all(partner[query][0] in batch.query_ids for query in batch.query_ids)
            round_of_queries += batch.query_ids
        assert len(set(round_of_queries)) == 12
    alone = maker(pairs=12).epoch(0)
    assert not all(partner[query][0] in batch.query_ids for batch in alone for query in batch.query_ids)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 20))
def test_groups_take_the_most_similar_queries_that_are_left(together, seed):
    rng = np.random.default_rng(seed)
    queries = [f"q{at}" for at in rng.permutation(11)]
    similar = {query: [queries[at] for at in rng.permutation(11)[:7] if queries[at] != query] for query in queries[1:]}
    found = maker(together=together, similar=similar)._grouped(list(queries), np.random.default_rng(1))
    assert sorted(found) == sorted(queries)
    expected, taken = [], set()
    for query in queries:
        if query not in taken:
            group = [query, *[other for other in similar.get(query, []) if other not in taken][: together - 1]]
            expected.append(group)
            taken |= set(group)
    assert all("-".join(group) + "-" in "-".join(found) + "-" for group in expected)


def test_groups_are_shuffled():
    queries = [f"q{at}" for at in range(12)]
    groups = maker(together=2, similar={f"q{at}": [f"q{at ^ 1}"] for at in range(12)})
    orders = {tuple(groups._grouped(list(queries), np.random.default_rng(seed))) for seed in range(8)}
    assert len(orders) > 1


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(CourseError, match="no positive pair"):
        BatchMaker(PAIRS[:0], {}, {}, batch_size=4, negatives_per_positive=0, pairs=4, seed=0)
    with pytest.raises(CourseError, match="two pairs or more"):
        maker(batch_size=1)
    with pytest.raises(CourseError, match="1 or more, not 0"):
        maker(together=0)
