"""Rank all category paths for texts, and mix the model's ranking with votes of what can be looked up.

This is stage 0 of the chapter: the text tower is frozen, its features are computed once, and one projection is trained
for products and categories. All paths are candidates in every step. A few thousand paths cost less than choosing among
them, and no confusions need to be mined, since none is left out.

The model's probabilities and the votes are added:

    score(path) = log( softmax(scale * cosine)(path) + sum over voters of weight * vote(path) )

A vote gives its mass to few paths: those of the most similar known texts, or the one that a rule names. A path that no
known text has can still come first, by its words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from chapter04_catalogue_reranker.losses import listwise_loss
from chapter04_catalogue_reranker.model import CatalogueReranker
from chapter04_catalogue_reranker.ranking_metrics import macro_recall_at_1, rank_of_truth
from common.errors import CourseError
from common.progress import progress
from common.training import clip_gradients, parameter_groups, set_rate, warmup_schedule

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
WEIGHT_DECAY, WARMUP = 0.01, 0.05
TEXTS_PER_CHUNK = 256


@dataclass(frozen=True)
class Fitting:
    """Set epochs, texts per step, peak learning rate, and the seed of the order."""

    epochs: int = 6
    batch_size: int = 256
    learning_rate: float = 1e-3
    seed: int = 0


def fit_text_ranker(
    model: CatalogueReranker, texts: np.ndarray, paths: np.ndarray, labels: np.ndarray, fitting: Fitting
) -> CatalogueReranker:
    """Train the text projection and the scale of `model`, in place, and return it in evaluation mode.

    texts: float32 [N, Ht], paths: float32 [C, Ht], features of the frozen text tower. labels: int64 [N], the number of
    each text's path. Each text picks its path out of all C (`losses.listwise_loss`).
    Raises CourseError if the loss is no longer a number.
    """
    texts, paths, labels = torch.from_numpy(texts), torch.from_numpy(paths), torch.from_numpy(labels)
    model.train_parts(0)
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, WEIGHT_DECAY, no_decay="lora_"), fused=True)
    batches = list(_batches(len(texts), fitting))
    for step, rows in enumerate(progress(batches, desc="training", unit="batch")):
        set_rate(optimizer, fitting.learning_rate * warmup_schedule(step, len(batches), WARMUP, "cosine"))
        optimizer.zero_grad()
        scores = model.scale * _embed(model, texts[rows]) @ model.embed_categories(paths).T
        loss = listwise_loss(scores, torch.ones_like(scores, dtype=torch.bool), labels[rows])
        if not torch.isfinite(loss):
            raise CourseError("real_text: the loss is no longer a number; lower --learning-rate")
        loss.backward()
        clip_gradients(model.parameters())
        optimizer.step()
    return model.eval()


def _batches(count: int, fitting: Fitting) -> Iterator[Tensor]:
    """Yield the rows of each step; an incomplete last batch is left out, unless it is the only one."""
    rng, size = np.random.default_rng(fitting.seed), min(fitting.batch_size, count)
    for _ in range(fitting.epochs):
        order = torch.from_numpy(rng.permutation(count))
        yield from order[: count // size * size].split(size)


def _embed(model: CatalogueReranker, texts: Tensor) -> Tensor:
    """Return the vectors of products that have a text and no picture."""
    has_text = torch.ones(len(texts), dtype=torch.bool)
    blank = torch.zeros(len(texts), model.vision_tower.width)
    return model.embed_products(texts, blank, has_text, ~has_text).fused


@torch.inference_mode()
def probabilities(model: CatalogueReranker, texts: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """Return softmax(scale * cosine) over all paths, float32 [N, C]. texts [N, Ht], paths [C, Ht]: features."""
    categories = model.embed_categories(torch.from_numpy(paths))
    return (model.scale * _embed(model, torch.from_numpy(texts)) @ categories.T).softmax(dim=1).numpy()


# votes


def similarities(known: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """Return cosines of TF-IDF vectors of words and pairs of words, float32 [N, M]: N texts, M known texts, which give
    vocabulary and document frequencies."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectoriser = TfidfVectorizer(ngram_range=(1, 2))
    memory = vectoriser.fit_transform(known).T.tocsr()
    found = np.empty((len(texts), len(known)), dtype=np.float32)
    for start in range(0, len(texts), TEXTS_PER_CHUNK):
        chunk = vectoriser.transform(texts[start : start + TEXTS_PER_CHUNK])
        found[start : start + TEXTS_PER_CHUNK] = (chunk @ memory).toarray()
    return found


def nearest_paths(similar: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """Return the paths of the known texts, the most similar text's first, each once; of equals the earlier text's.

    similar: [N, M], with M known texts. labels: int64 [M], their paths.
    """
    order = np.argsort(-similar, axis=1, kind="stable")
    return [list(dict.fromkeys(labels[row].tolist())) for row in order]


def neighbours_vote(
    similar: np.ndarray, labels: np.ndarray, n_paths: int, *, k: int = 10, temperature: float = 0.05
) -> np.ndarray:
    """Return the votes of the k most similar known texts for their paths, weighted by a softmax: float32 [N, C]; rows
    sum to 1.

    similar: [N, M]. labels: int64 [M]. temperature: divides the similarities; the lower, the more the nearest decides.
    A path's vote is the sum over its texts.
    """
    order = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    near = np.take_along_axis(similar, order, axis=1) / temperature
    weights = np.exp(near - near.max(axis=1, keepdims=True))
    votes = np.zeros((len(similar), n_paths), dtype=np.float32)
    np.add.at(votes, (np.arange(len(similar))[:, None], labels[order]), weights / weights.sum(axis=1, keepdims=True))
    return votes


def rule_votes(ranked: Sequence[Sequence[int]], n_paths: int) -> np.ndarray:
    """Return one vote for the first path of each ranking, and none for an empty ranking: float32 [N, C]."""
    votes = np.zeros((len(ranked), n_paths), dtype=np.float32)
    for row, paths in enumerate(ranked):
        votes[row, paths[:1]] = 1
    return votes


def mix(learned: np.ndarray, votes: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Return the scores of the module's formula, float64 [N, C]. learned, votes: [N, C]."""
    total = learned.astype(np.float64) + sum(weights[name] * vote for name, vote in votes.items())
    return np.log(np.maximum(total, 1e-30))


def choose_weights(
    learned: np.ndarray, votes: Mapping[str, np.ndarray], labels: np.ndarray, grid: Sequence[float] = WEIGHTS
) -> dict[str, float]:
    """Return the weights with the highest sum of R@1 and macro R@1; of equals those with the smallest sum.

    R@1 alone would take every vote for a frequent path, at the cost of the rare ones.
    learned, votes: of N held-out texts, [N, C]. labels: int64 [N].
    """
    choices = [dict(zip(votes, chosen, strict=True)) for chosen in product(grid, repeat=len(votes))]
    choices.sort(key=lambda weights: sum(weights.values()))
    first = [true_ranks(mix(learned, votes, weights), labels) == 1 for weights in choices]
    return choices[int(np.argmax([hits.mean() + macro_recall_at_1(hits, labels) for hits in first]))]


def true_ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the rank, from 1, of each text's true path among all, ties broken against the system: float64 [N]."""
    return rank_of_truth(scores, np.ones(scores.shape, dtype=bool), labels)
