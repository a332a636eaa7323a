"""Train towers without attention in seconds: an average of token embeddings, or a GRU over them.

    python -m chapter02_two_tower.pooled_towers.train --catalogue pocket_shop

They learn from the chapter's pairs with the triplet loss on cosines. A pool of products measures them beside the
untuned MiniLM: small networks that know this shop against one that was pretrained on a billion sentence pairs.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from chapter02_two_tower.batches import Batch, BatchMaker
from chapter02_two_tower.pooled_towers.data import (
    Embed,
    Pool,
    TokenTable,
    load_token_table,
    pool_of_test_queries,
    validation_pool,
)
from chapter02_two_tower.pooled_towers.model import PooledArchitecture, PooledTowers, untrained_mean
from chapter02_two_tower.training_data import TrainingData, by_query, known_relevant, load_training_data
from common.artifacts import Artifacts, RunFolder
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.devices import choose_placement
from common.encoders import load_text_encoder
from common.errors import CourseError
from common.profiles import with_profile_defaults
from common.progress import progress, tell
from common.settings import artifacts_root
from common.training import clip_gradients

CHAPTER, STEP = "chapter02_two_tower", "pooled_towers.train"
HEADLINE = "nDCG@10"

SYSTEMS = {"mean": "mean tower", "gru": "GRU tower"}
UNTRAINED, MINILM_UNTUNED = "token average, untrained", "MiniLM, untuned"


@dataclass(frozen=True)
class PooledConfig:
    """Train the pooled towers. None stands for the profile's default (`PROFILE_DEFAULTS`)."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    kinds: tuple[str, ...] = ("mean", "gru")
    """Kinds of towers: mean, gru."""
    dimension: int = 128
    """Dimension of the vectors."""
    query_length: int = 32
    """Tokens of a query that are read."""
    product_length: int = 32
    """Tokens of a product's text that are read."""
    batch_size: int = 64
    """Positive pairs a step."""
    negatives: int = 0
    """Negatives drawn for every positive, besides the other products of the batch; each takes as long as a positive."""
    margin: float = 0.4
    """Margin between a positive's cosine and a negative's."""
    learning_rate: float = 3e-3
    """First learning rate of AdamW; it falls to 0 in a straight line."""
    token_weight_rate: float = 1e-2
    """The same for the mean tower's token weights, which are single numbers and may move faster."""
    epochs: int | None = None
    """Passes over the pairs."""
    pairs: int | None = None
    """Positive pairs an epoch, at most."""
    pool: int = 5_000
    """Products among which validation and test queries search."""
    pool_queries: int = 500
    """Validation and test queries, at most of each."""
    seed: int = 0
    """Seed of the weights, the order of the pairs, the negatives and the pools."""


PROFILE_DEFAULTS: dict[str, dict[str, Any]] = {
    "smoke": {"epochs": 1, "pairs": 256},
    "pocket": {"epochs": 5, "pairs": 20_000},
    "full": {"epochs": 8, "pairs": 100_000},
}


def resolved(config: PooledConfig) -> PooledConfig:
    """Fill in the profile's defaults."""
    return with_profile_defaults(config, PROFILE_DEFAULTS)


@dataclass(frozen=True)
class PooledResult:
    """Hold the pooled towers in force and their figures.

    run: holds towers and tables. towers: by kind. history: `kind, step, loss, nDCG@10, seconds`, a row an epoch.
    validation: by system the metrics of each validation query in the pool; besides the towers there are two systems
    without training (`UNTRAINED`, `MINILM_UNTUNED`).
    """

    run: RunFolder
    towers: dict[str, PooledTowers]
    history: pd.DataFrame
    validation: dict[str, pd.DataFrame]


def main(config: PooledConfig) -> PooledResult:
    """Train each kind of tower, keep its best epoch by validation nDCG@10, and measure it beside systems untrained."""
    config = resolved(config)
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data = load_training_data(artifacts)
    inputs = {"prepare_data": data.run}
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        pool = validation_pool(catalogue, data, size=config.pool, queries=config.pool_queries, seed=config.seed)
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            towers, histories = {}, []
            for kind in config.kinds:
                towers[kind], history = train_towers(kind, config, data, pool)
                towers[kind].save(folder / kind)
                histories.append(history)
            scores = measure(towers, pool, config)
            pd.concat(scores, names=["system"]).to_parquet(folder / "validation.parquet")
            pd.concat(histories).to_parquet(folder / "history.parquet", index=False)
    result = load_pooled(artifacts)
    for name, row in means(result.validation).iterrows():
        tell(f"{name}: " + ", ".join(f"{metric} {value:.3f}" for metric, value in row.items()))
    return result


def means(scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Average `PooledResult.validation` or `test_scores` over the queries: a row a system, a column a metric."""
    return pd.DataFrame({name: table.mean() for name, table in scores.items()}).T.rename_axis("system")


def load_pooled(artifacts: Artifacts) -> PooledResult:
    """Read the pooled towers in force; raises `MissingArtifact` with the command that makes them."""
    run = artifacts.current(CHAPTER, STEP)
    table = load_token_table()
    towers = {kind: PooledTowers.load(run.path / kind, table) for kind in run.manifest["config"]["kinds"]}
    stacked = pd.read_parquet(run.path / "validation.parquet")
    validation = {name: stacked.xs(name, level="system") for name in stacked.index.unique("system")}
    return PooledResult(run, towers, pd.read_parquet(run.path / "history.parquet"), validation)


def test_scores(result: PooledResult, catalogue: Catalogue) -> dict[str, pd.DataFrame]:
    """Measure each test query in its pool, by system; only for the final report, after all choices.

    Raises `CourseError` if the catalogue has no judged test queries.
    """
    config = PooledConfig(**result.run.manifest["config"])
    pool = pool_of_test_queries(catalogue, size=config.pool, queries=config.pool_queries, seed=config.seed)
    return measure(result.towers, pool, config)


def measure(towers: Mapping[str, PooledTowers], pool: Pool, config: PooledConfig) -> dict[str, pd.DataFrame]:
    """Measure each query of the pool, by system, from the weakest start to the strongest."""
    table, encoder = load_token_table(), load_text_encoder(cache=artifacts_root() / "embeddings")
    systems: dict[str, tuple[Embed, Embed]] = {
        UNTRAINED: (
            lambda texts: untrained_mean(table, texts, config.query_length),
            lambda texts: untrained_mean(table, texts, config.product_length),
        )
    }
    systems |= {SYSTEMS[kind]: (pair.embed_queries, pair.embed_products) for kind, pair in towers.items()}
    systems[MINILM_UNTUNED] = (lambda texts: encoder.encode(texts, desc="embedding").vectors,) * 2
    return {name: pool.measure(*embedders) for name, embedders in systems.items()}


def train_towers(kind: str, config: PooledConfig, data: TrainingData, pool: Pool) -> tuple[PooledTowers, pd.DataFrame]:
    """Train a query and a product tower of one kind; return those of the best epoch, and the history.

    config: `resolved`. Raises `CourseError` if there is nothing to train on, or the loss is no number.
    """
    lengths = {"query_length": config.query_length, "product_length": config.product_length}
    architecture = PooledArchitecture(kind=kind, dimension=config.dimension, **lengths)
    towers = PooledTowers(architecture, load_token_table(), config.seed).to(choose_placement("torch").device)
    batches = batch_maker(config, data)
    queries, products = training_tokens(towers, data)
    optimizer = torch.optim.AdamW(_parameter_groups(towers, config))
    total = config.epochs * batches.steps
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
    best, history, started = (-1.0, {}), [], time.perf_counter()
    with progress(total=total, desc=f"training {SYSTEMS[kind]}", unit="step") as bar:
        for epoch in range(config.epochs):
            losses = []
            for batch in batches.epoch(epoch):
                q = towers.query([queries[query_id] for query_id in batch.query_ids])
                p = towers.product([products[product_id] for product_id in batch.product_ids])
                loss = batch_triplet_loss(q, p, batch, config.margin)
                optimizer.zero_grad()
                loss.backward()
                if not math.isfinite(clip_gradients(towers.parameters()) + loss.item()):
                    raise CourseError(f"{SYSTEMS[kind]}: the loss is {loss.item()}; try a lower --learning-rate")
                optimizer.step()
                rate.step()
                losses.append(loss.item())
                bar.update()
            ndcg = float(pool.measure(towers.embed_queries, towers.embed_products)[HEADLINE].mean())
            seconds = time.perf_counter() - started
            history.append((kind, (epoch + 1) * batches.steps, sum(losses) / len(losses), ndcg, seconds))
            if ndcg > best[0]:
                best = (ndcg, copy.deepcopy(towers.state_dict()))
    towers.load_state_dict(best[1])
    return towers.cpu().eval(), pd.DataFrame(history, columns=["kind", "step", "loss", HEADLINE, "seconds"])


def batch_maker(config: PooledConfig, data: TrainingData) -> BatchMaker:
    """Return the maker of batches: exact and substitute products as positives, random and judged ones as negatives."""
    pairs = data.training_pairs
    positives = pairs[(pairs["label"] == 1) & (pairs["stage"] == 1)]
    return BatchMaker(
        positives=positives,
        negatives=by_query(pairs[pairs["label"] == 0]),
        relevant=known_relevant(data.relevant),
        batch_size=config.batch_size,
        negatives_per_positive=config.negatives,
        pairs=min(config.pairs, len(positives)),
        seed=config.seed,
    )


def batch_triplet_loss(queries: torch.Tensor, products: torch.Tensor, batch: Batch, margin: float) -> torch.Tensor:
    """Compute the triplet loss on cosines over all triples of a batch at once.

    A triple is a query, its positive and any other product that is not known to be relevant to it. queries [B, D],
    products [C, D], each of length 1. The loss is the mean of weight * (cos(q, n) - cos(q, p) + margin) over the
    triples in which it is above 0. Soon nearly all triples keep the margin, so a mean over all would fade away (Schroff
    et al. 2015, "FaceNet", choose their triples for the same reason). Equal to `losses.triplet_loss` of those triples,
    but without copies of their vectors.
    """
    known, positives, weights = (part.to(queries.device) for part in (batch.known, batch.positives, batch.weights))
    cosines = queries @ products.T
    negative = ~known
    negative[torch.arange(len(queries), device=queries.device), positives] = False
    hinge = torch.relu(cosines - cosines.gather(1, positives[:, None]) + margin) * negative
    broken = (hinge > 0).sum().clamp(min=1)
    return (hinge * weights[:, None]).sum() / broken


def training_tokens(towers: PooledTowers, data: TrainingData) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Tokenise the training texts once; return the token ids by query id and by product id."""
    queries = data.training_pairs.drop_duplicates("query_id")
    products = data.training_pairs.drop_duplicates("product_id")
    return (
        dict(zip(queries["query_id"], towers.query_tokens(queries["query"].tolist()), strict=True)),
        dict(zip(products["product_id"], towers.product_tokens(products["product_text"].tolist()), strict=True)),
    )


def heaviest_tokens(
    towers: PooledTowers, table: TokenTable, tower: str, count: int = 15
) -> tuple[list[str], list[str]]:
    """Return the tokens that weigh most in a mean tower ("query" or "product"), and those that weigh least."""
    weights = getattr(towers, tower).log_weight.detach()
    order = weights.argsort(descending=True)
    return table.words(order[:count].tolist()), table.words(order.flip(0)[:count].tolist())


def _parameter_groups(towers: PooledTowers, config: PooledConfig) -> list[dict[str, Any]]:
    named = dict(towers.named_parameters())
    token_weights = [value for name, value in named.items() if name.endswith("log_weight")]
    others = [value for name, value in named.items() if not name.endswith("log_weight")]
    groups = [{"params": others, "lr": config.learning_rate}]
    # A token that never occurred keeps the weight 1, without decay pulling the others back to it.
    return groups + [{"params": token_weights, "lr": config.token_weight_rate, "weight_decay": 0.0}] * bool(
        token_weights
    )


if __name__ == "__main__":
    run_step(main)
