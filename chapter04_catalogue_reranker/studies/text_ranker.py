"""The reranker on texts alone, against all paths at once, and beside it the votes of what is remembered.

Stage 0 of the chapter: the text tower is frozen and what it says of a text is computed once; the projection is trained,
one for products and categories. All paths are candidates in every step: a few thousand cost less than to choose among
them, and confusions need not be mined, for none is left out.

What the ranker has learned and what can be looked up are mixed as probabilities:

    score(path) = log( softmax(scale * cosine)(path) + sum over voters of weight * vote(path) )

A vote puts its mass on few paths: those of the most similar known texts, or the one that a rule names. A path that no
known text has can still come first, by its words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from chapter03_multimodal.train import schedule
from chapter04_catalogue_reranker.losses import listwise_loss
from chapter04_catalogue_reranker.model import CatalogueReranker
from chapter04_catalogue_reranker.ranking_metrics import macro_recall_at_1, rank_of_truth
from common.errors import CourseError
from common.progress import progress

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
WEIGHT_DECAY, WARM_UP, LONGEST_GRADIENT = 0.01, 0.05, 1.0
TEXTS_A_CHUNK = 256


@dataclass(frozen=True)
class Fitting:
    """How a projection is trained: times that every text is seen, texts a step, peak learning rate, seed of the
    order."""

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
    told, every, truth = torch.from_numpy(texts), torch.from_numpy(paths), torch.from_numpy(labels)
    model.train_parts(0)
    model.train()
    optimizer = torch.optim.AdamW(model.parameter_groups(WEIGHT_DECAY), fused=True)
    batches = list(_batches(len(texts), fitting))
    rates = fitting.learning_rate * schedule(len(batches), WARM_UP)
    for rate, rows in zip(progress(rates, desc="training", unit="batch"), batches, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        optimizer.zero_grad()
        scores = model.scale * _vectors(model, told[rows]) @ model.embed_categories(every).T
        loss = listwise_loss(scores, torch.ones_like(scores, dtype=torch.bool), truth[rows])
        if not torch.isfinite(loss):
            raise CourseError("real_text: the loss is no longer a number; lower --learning-rate")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), LONGEST_GRADIENT)
        optimizer.step()
    return model.eval()


def _batches(count: int, fitting: Fitting) -> Iterator[Tensor]:
    """Rows of each step; those that fill no batch are left to another epoch, unless they are all there is."""
    rng, size = np.random.default_rng(fitting.seed), min(fitting.batch_size, count)
    for _ in range(fitting.epochs):
        order = torch.from_numpy(rng.permutation(count))
        yield from order[: count // size * size].split(size)


def _vectors(model: CatalogueReranker, texts: Tensor) -> Tensor:
    """The products' vectors of a model that is told texts alone."""
    there = torch.ones(len(texts), dtype=torch.bool)
    blank = torch.zeros(len(texts), model.vision_tower.width)
    return model.embed_products(texts, blank, there, ~there).fused


@torch.inference_mode()
def probabilities(model: CatalogueReranker, texts: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """softmax(scale * cosine) over all paths: float32 [N, C]. texts [N, Ht], paths [C, Ht]: features."""
    every = model.embed_categories(torch.from_numpy(paths))
    return (model.scale * _vectors(model, torch.from_numpy(texts)) @ every.T).softmax(dim=1).numpy()


# what is remembered


def similarities(known: Sequence[str], asked: Sequence[str]) -> np.ndarray:
    """Cosines of TF-IDF vectors of words and pairs of words, float32 [N, M]: N asked texts, M known ones, from which
    vocabulary and document frequencies are taken."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectoriser = TfidfVectorizer(ngram_range=(1, 2))
    memory = vectoriser.fit_transform(known).T.tocsr()
    found = np.empty((len(asked), len(known)), dtype=np.float32)
    for start in range(0, len(asked), TEXTS_A_CHUNK):
        chunk = vectoriser.transform(asked[start : start + TEXTS_A_CHUNK])
        found[start : start + TEXTS_A_CHUNK] = (chunk @ memory).toarray()
    return found


def nearest_paths(similar: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """The known texts' paths, that of the most similar one first, each once; of equals the earlier text comes first.

    similar: [N, M], with M known texts. labels: int64 [M], their paths.
    """
    order = np.argsort(-similar, axis=1, kind="stable")
    return [list(dict.fromkeys(labels[row].tolist())) for row in order]


def neighbours_vote(
    similar: np.ndarray, labels: np.ndarray, n_paths: int, *, k: int = 10, temperature: float = 0.05
) -> np.ndarray:
    """Votes of the k most similar known texts for their paths, weighted by a softmax: float32 [N, C], rows sum to 1.

    similar: [N, M]. labels: int64 [M]. temperature: what similarities are divided by; the lower, the more the nearest
    decides. A path's vote is the sum over its texts.
    """
    order = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    near = np.take_along_axis(similar, order, axis=1) / temperature
    weights = np.exp(near - near.max(axis=1, keepdims=True))
    votes = np.zeros((len(similar), n_paths), dtype=np.float32)
    np.add.at(votes, (np.arange(len(similar))[:, None], labels[order]), weights / weights.sum(axis=1, keepdims=True))
    return votes


def rule_votes(ranked: Sequence[Sequence[int]], n_paths: int) -> np.ndarray:
    """The whole vote for the first path of each ranking, none where a ranking is empty: float32 [N, C]."""
    votes = np.zeros((len(ranked), n_paths), dtype=np.float32)
    for row, paths in enumerate(ranked):
        votes[row, paths[:1]] = 1
    return votes


def mixed(learned: np.ndarray, votes: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """The scores of the module's formula, float64 [N, C]. learned: [N, C], of `probabilities`; votes: [N, C] each."""
    total = learned.astype(np.float64) + sum(weights[name] * vote for name, vote in votes.items())
    return np.log(np.maximum(total, 1e-30))


def choose_weights(
    learned: np.ndarray, votes: Mapping[str, np.ndarray], labels: np.ndarray, grid: Sequence[float] = WEIGHTS
) -> dict[str, float]:
    """The weights with the highest sum of R@1 and macro R@1; of equals those that lean the least on votes.

    R@1 alone would take every vote for a frequent path, and pay with the rare ones.
    learned, votes: of N held-out texts, [N, C]. labels: int64 [N].
    """
    choices = sorted((dict(zip(votes, chosen, strict=True)) for chosen in product(grid, repeat=len(votes))), key=_sum)
    first = [places(mixed(learned, votes, weights), labels) == 1 for weights in choices]
    return choices[int(np.argmax([hits.mean() + macro_recall_at_1(hits, labels) for hits in first]))]


def places(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The place, from 1, of each text's true path among all, ties broken against the system: float64 [N]."""
    return rank_of_truth(scores, np.ones(scores.shape, dtype=bool), labels)


def _sum(weights: Mapping[str, float]) -> float:
    return sum(weights.values())
