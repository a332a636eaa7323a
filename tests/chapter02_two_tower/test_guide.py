"""The guide marks what is likely relevant, and never overrules a judge."""

from __future__ import annotations

import numpy as np
import torch

from chapter02_two_tower.batches import Batch
from chapter02_two_tower.guide import Guide


def batch():
    return Batch(
        query_ids=["q0"],
        product_ids=["own", "near", "far", "judged"],
        positives=torch.tensor([0]),
        own_negatives=torch.tensor([[1]]),
        known=torch.tensor([[True, False, False, False]]),
        weights=torch.ones(1),
        typos=[0],
    )


def test_what_beats_the_positive_is_marked_unless_a_judge_has_looked():
    angles = np.array([0.5, 0.2, 1.0, 0.1])  # from the query: own positive, nearer, farther, nearest
    products = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    places = {name: at for at, name in enumerate(("own", "near", "far", "judged"))}
    queries = np.array([[1.0, 0.0]], dtype=np.float32)
    guide = Guide({"q0": 0}, queries, places, products, irrelevant={"q0": frozenset(["judged"])})
    assert guide.mark(batch()).known.tolist() == [[True, True, False, False]]
    free = Guide({"q0": 0}, queries, places, products, irrelevant={})
    assert free.mark(batch()).known.tolist() == [[True, True, False, True]]
