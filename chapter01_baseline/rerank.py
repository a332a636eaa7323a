"""Train the cross-encoder on the training queries, and choose its weight on the validation queries.

`python -m chapter01_baseline.rerank`

The loss is ListNet (Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach", 2007): for each query,
the softmax of the scores of its products should be the softmax of their grades.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from sentence_transformers.util import batch_to_device
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import get_linear_schedule_with_warmup

from chapter01_baseline.choose import judged_queries, load_choices
from chapter01_baseline.cross_encoder import new_cross_encoder, save_cross_encoder
from chapter01_baseline.pair_scorer import PairScorer
from chapter01_baseline.reindex import load_indices
from chapter01_baseline.reranker import CrossEncoderReranker, choose_reranker_weight, rerank_texts
from chapter01_baseline.systems import RERANKED, first_stages
from chapter01_baseline.training_lists import GradedList, graded_lists, training_pairs
from common.artifacts import Artifacts, RunFolder
from common.atomic import read_json, write_json
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.devices import choose_placement
from common.encoders import MINILM
from common.errors import CourseError
from common.profiles import with_profile_defaults
from common.progress import progress
from common.search import Searcher
from common.training import clip_gradients

if TYPE_CHECKING:
    from sentence_transformers.cross_encoder import CrossEncoder

CHAPTER, STEP = "chapter01_baseline", "rerank"

SHARPNESS = 2.0
"""How much a grade weighs in the target distribution: e^2 = 7.4 times the probability of the grade below."""
LOG_EVERY = 10
"""Steps whose mean loss is one row of the history."""


@dataclass(frozen=True)
class RerankConfig:
    """Train a cross-encoder on the training queries. None stands for the profile's default (`PROFILE_DEFAULTS`)."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    model: str | None = None
    """What to start from: "all-MiniLM-L6-v2" (packaged), a hub name, or a local folder."""
    queries: int | None = None
    """At most this many training queries, drawn with `seed`."""
    products_per_query: int = 8
    """Products of each training query: at most half of them relevant, the rest hard negatives."""
    epochs: int | None = None
    """How often each pair is seen."""
    queries_per_step: int = 4
    """Training queries a step, each with its list of products."""
    learning_rate: float = 2e-4
    """Peak of AdamW's learning rate: warmed up over a tenth of the steps, then falling to 0 in a straight line."""
    max_length: int = 64
    """Tokens of query and product text together; the rest of the text is cut off."""
    depth: int | None = None
    """How many hits of the first stage are reordered."""
    validation_queries: int | None = None
    """At most this many validation queries choose the weight."""
    seed: int = 0
    """Of the sample, the new layer's weights and the order of the queries."""


PROFILE_DEFAULTS: dict[str, dict[str, Any]] = {
    "smoke": {"model": MINILM, "queries": 8, "epochs": 1, "depth": 10, "validation_queries": 8},
    "pocket": {"model": MINILM, "queries": 672, "epochs": 1, "depth": 50, "validation_queries": 133},
    "full": {
        "model": "cross-encoder/ms-marco-MiniLM-L6-v2",
        "queries": 20_000,
        "epochs": 1,
        "depth": 50,
        "validation_queries": 500,
    },
}


@dataclass(frozen=True)
class RerankResult:
    """run: where model and settings are. weights: by first stage, the share of the cross-encoder, with the curves they
    were chosen from (first, weight, nDCG@10). history: step, loss (mean of `LOG_EVERY` steps). pairs: how many it was
    trained on. seconds: of training alone."""

    run: RunFolder
    weights: dict[str, float]
    curves: pd.DataFrame
    history: pd.DataFrame
    pairs: int
    seconds: float


def main(config: RerankConfig) -> RerankResult:
    """Fine-tune a cross-encoder that reranks the best hits of the fused searchers, and choose its weights."""
    config = with_profile_defaults(config, PROFILE_DEFAULTS)
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    inputs = {step: artifacts.current(CHAPTER, step) for step in ("reindex", "choose")}
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        found = first_stages(load_indices(artifacts, catalogue), load_choices(artifacts))
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            train_and_choose(folder, config, catalogue, {name: found[name] for name in RERANKED})
    return load_result(artifacts)


def train_and_choose(folder: Path, config: RerankConfig, catalogue: Catalogue, firsts: Mapping[str, Searcher]) -> None:
    """Train on the training queries, choose the weights on the validation queries, and save all into a run's folder.

    config: with the profile's defaults. firsts: the first stages to rerank, by name, the strongest last, which supplies
    further hard negatives.
    """
    model, lists = training_start(catalogue, list(firsts.values())[-1], config)
    started = time.perf_counter()
    history = train_cross_encoder(model, lists, config)
    seconds = time.perf_counter() - started
    save_cross_encoder(model, folder / "model")
    queries, scorer, texts = validation_sample(catalogue, config), PairScorer(model), rerank_texts(catalogue)
    weights, curves = {}, []
    for name, first in firsts.items():
        reranker = CrossEncoderReranker(first, scorer, texts, depth=config.depth)
        weights[name], curve = choose_reranker_weight(reranker, queries, catalogue)
        curves.append(curve.assign(first=name))
    pairs = sum(len(one.texts) for one in lists)
    summary = {"weights": weights, "depth": config.depth, "max_length": config.max_length, "pairs": pairs}
    write_json(folder / "rerank.json", summary | {"seconds": seconds})
    pd.concat(curves).to_parquet(folder / "weights.parquet", index=False)
    history.to_parquet(folder / "history.parquet")


def training_start(
    catalogue: Catalogue, first: Searcher, config: RerankConfig
) -> tuple[CrossEncoder, list[GradedList]]:
    """Return the untrained cross-encoder, and the lists to train it on; `first` supplies further hard negatives."""
    sample = {"queries": config.queries, "products_per_query": config.products_per_query, "seed": config.seed}
    lists = graded_lists(training_pairs(catalogue, first, **sample), rerank_texts(catalogue))
    return new_cross_encoder(config.model, max_length=config.max_length, seed=config.seed), lists


def train_cross_encoder(model: CrossEncoder, lists: list[GradedList], config: RerankConfig) -> pd.DataFrame:
    """Fine-tune `model` in place, and return the history: step, loss (mean of `LOG_EVERY` steps).

    config: supplies `epochs`, `queries_per_step`, `learning_rate` and `seed`.
    """
    steps = config.epochs * math.ceil(len(lists) / config.queries_per_step)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, max(1, steps // 10), steps)
    step, losses, history = 0, [], []
    torch.manual_seed(config.seed)  # of dropout, if the model has any
    model.train()
    with progress(total=steps, desc="training") as bar:
        for epoch in range(config.epochs):
            for batch in batches(lists, config.queries_per_step, config.seed + epoch):
                loss = list_net_loss(score_lists(model, batch), batch)
                loss.backward()
                clip_gradients(trained)
                optimizer.step()  # at rate 0 in the first step, where the warm-up begins
                optimizer.zero_grad()
                schedule.step()  # sets the rate of the next step
                step += 1
                bar.update(1)
                losses.append(loss.detach())
                if len(losses) == min(LOG_EVERY, steps):
                    history.append((step, sum(losses).item() / len(losses)))
                    losses.clear()
    return pd.DataFrame(history, columns=["step", "loss"])


def batches(lists: list[GradedList], queries_per_step: int, seed: int) -> DataLoader:
    """Return all lists once in the random order of `seed`, as batches of `queries_per_step`."""
    order = torch.randperm(len(lists), generator=torch.Generator().manual_seed(seed)).tolist()
    return DataLoader(lists, batch_size=queries_per_step, sampler=order, collate_fn=list)


def score_lists(model: CrossEncoder, batch: list[GradedList]) -> list[torch.Tensor]:
    """Return the logits of the products of each list, float32.

    The pairs of all lists go through the network in parts of `len(batch)`, which bounds the memory. In bfloat16, where
    the device has it natively, only the passes through the network are computed: weights and AdamW stay in float32.
    """
    bfloat16 = choose_placement("torch").precision == "bfloat16"
    pairs = [(one.query, text) for one in batch for text in one.texts]
    logits = []
    for start in range(0, len(pairs), len(batch)):
        features = batch_to_device(model.preprocess(pairs[start : start + len(batch)]), model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bfloat16):
            logits.append(model(features)["scores"].reshape(-1).float())
    return list(torch.cat(logits).split([len(one.texts) for one in batch]))


def list_net_loss(scores: list[torch.Tensor], batch: list[GradedList]) -> torch.Tensor:
    """Return the mean over the lists of the cross-entropy between softmax(`SHARPNESS` * grades) and softmax(scores)."""
    grades = [SHARPNESS * torch.tensor(one.grades, device=own.device) for own, one in zip(scores, batch, strict=True)]
    targets = pad_sequence(grades, batch_first=True, padding_value=-math.inf).softmax(dim=1)
    return cross_entropy(pad_sequence(scores, batch_first=True, padding_value=-1e16), targets)


def validation_sample(catalogue: Catalogue, config: RerankConfig) -> pd.DataFrame:
    """Draw the validation queries that choose the weights. Raises CourseError if none is judged."""
    queries = judged_queries(catalogue, "val").sort_values("query_id")
    if queries.empty:
        raise CourseError(f"rerank: catalogue {catalogue.source} has no judged queries of split 'val'.")
    sample = np.random.default_rng(config.seed).permutation(len(queries))[: config.validation_queries]
    return queries.iloc[np.sort(sample)]


def load_result(artifacts: Artifacts) -> RerankResult:
    """Read the current run, as `main` returns it. Raises `MissingArtifact` if there is none."""
    current = artifacts.current(CHAPTER, STEP)
    summary = read_json(current.path / "rerank.json")
    history = pd.read_parquet(current.path / "history.parquet")
    curves = pd.read_parquet(current.path / "weights.parquet")
    return RerankResult(current, summary["weights"], curves, history, summary["pairs"], summary["seconds"])


if __name__ == "__main__":
    run_step(main)
