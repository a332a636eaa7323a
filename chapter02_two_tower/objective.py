"""Compute the loss of one batch from its vectors, with the losses that the config asks for."""

from __future__ import annotations

import torch

from chapter02_two_tower.batches import Batch
from chapter02_two_tower.losses import (
    in_batch_negatives_loss,
    nested_loss,
    triplet_loss,
    weighted_contrastive_loss,
    weighted_sum,
)
from chapter02_two_tower.train_config import TrainConfig


def batch_loss(
    queries: torch.Tensor, products: torch.Tensor, batch: Batch, config: TrainConfig, temperature: torch.Tensor | float
) -> torch.Tensor:
    """Compute the weighted sum of the losses that `config` asks for, and again on each prefix (`config.dimensions`).

    queries: [B, D]. products: [C, D].
    """

    def at_one_dimension(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        losses = {
            "in_batch": lambda: _in_batch(q, p, batch, temperature),
            "contrastive": lambda: _contrastive(q, p, batch),
            "triplet": lambda: _triplet(q, p, batch),
        }
        wanted = {name: getattr(config, name) for name in losses if getattr(config, name)}
        return weighted_sum(wanted, {name: losses[name]() for name in wanted})

    dimensions = dict.fromkeys((*config.dimensions, queries.shape[1]), 1.0)
    return nested_loss(at_one_dimension, queries, products, dimensions)


def _in_batch(q: torch.Tensor, p: torch.Tensor, batch: Batch, temperature: torch.Tensor | float) -> torch.Tensor:
    known, weights = batch.known.to(q.device), batch.weights.to(q.device)
    positives = batch.positives.to(q.device)
    return in_batch_negatives_loss(q, p, positives, known=known, weights=weights, temperature=temperature)


def _contrastive(q: torch.Tensor, p: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Compute the contrastive loss of all positive pairs, and of all queries with the negatives drawn for them."""
    row, place = _drawn(batch)
    left = torch.cat([q, q[row]])
    right = torch.cat([p[batch.positives], p[batch.own_negatives[row, place]]])
    labels = torch.cat([torch.ones(len(q)), torch.zeros(len(row))]).to(q.device)
    weights = torch.cat([batch.weights, torch.ones(len(row))]).to(q.device)
    return weighted_contrastive_loss(left, right, labels, weights=weights)


def _triplet(q: torch.Tensor, p: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Compute the triplet loss of every query with its positive and each negative drawn for it."""
    row, place = _drawn(batch)
    if not len(row):
        return 0.0 * (q.sum() + p.sum())
    negatives = p[batch.own_negatives[row, place]]
    weights = batch.weights[row].to(q.device)
    return triplet_loss(q[row], p[batch.positives[row]], negatives, weights=weights)


def _drawn(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return row and place of every negative drawn for a pair, without those that are known to be relevant."""
    own = batch.own_negatives
    if not own.shape[1]:
        return torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)
    excluded = batch.known.gather(1, own.clamp(min=0))
    return ((own >= 0) & ~excluded).nonzero(as_tuple=True)
