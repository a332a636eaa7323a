"""The guide marks what is likely relevant, and overrules neither a judge nor what was mined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from chapter02_two_tower.batches import Batch
from chapter02_two_tower.guide import Guide


def batch():
    return Batch(
        query_ids=["q0"],
        product_ids=["own", "near", "far", "judged"],
        positives=torch.tensor([0]),
        own_negatives=torch.tensor([[-1]]),
        known=torch.tensor([[True, False, False, False]]),
        weights=torch.ones(1),
        typos=[0],
    )


def a_guide(irrelevant):
    angles = np.array([0.5, 0.2, 1.0, 0.1])  # from the query: own positive, nearer, farther, nearest
    products = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    places = {name: at for at, name in enumerate(("own", "near", "far", "judged"))}
    return Guide({"q0": 0}, np.array([[1.0, 0.0]], dtype=np.float32), places, products, irrelevant)


def test_what_beats_the_positive_is_marked_unless_a_judge_has_looked():
    judged = a_guide({"q0": frozenset(["judged"])})
    assert judged.mark(batch()).known.tolist() == [[True, True, False, False]]
    assert a_guide({}).mark(batch()).known.tolist() == [[True, True, False, True]]


def test_a_negative_drawn_for_the_query_stays_one_and_what_is_known_stays_marked():
    drawn = replace(batch(), own_negatives=torch.tensor([[1, -1]]))
    assert a_guide({}).mark(drawn).known.tolist() == [[True, False, False, True]]
    known = replace(drawn, known=torch.tensor([[True, True, False, False]]))
    assert a_guide({}).mark(known).known.tolist() == [[True, True, False, True]]
