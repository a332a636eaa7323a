"""Reranking: a cross-encoder reads query and product together, slowly, and reorders the best 50 of a fast searcher.

The vectors of a bi-encoder are made before query and product meet; a cross-encoder lets every word of one attend to
every word of the other. It costs one pass through the network per pair, so it can only be a second stage, and it can
only reorder what the first stage found. Source: Nogueira and Cho, "Passage Re-ranking with BERT" (2019).

`python -m chapter01_baseline.rerank` trains it on the training queries and chooses its share on the validation ones.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from chapter01_baseline.choose import evaluation_judgements, judged_queries
from chapter01_baseline.cross_encoder import from_sentence_encoder, load_cross_encoder, save_cross_encoder
from chapter01_baseline.fusion import choose_weight, convex_fusion
from chapter01_baseline.pair_scorer import PairScorer
from common.artifacts import Artifacts, RunFolder, read_json, write_json
from common.catalogue import Catalogue, load_catalogue, product_text
from common.cli import run_step
from common.devices import choose_placement
from common.encoders import MINILM, packaged_minilm
from common.errors import CourseError
from common.progress import progress
from common.search import Hits, Searcher, check_k, check_request, hits_from_rows
from common.settings import resolve_profile

if TYPE_CHECKING:
    from sentence_transformers.cross_encoder import CrossEncoder

CHAPTER, STEP = "chapter01_baseline", "rerank"

RERANK_FIELDS = ("title", "brand", "colour", "material", "category_path", "attributes", "description")
"""What the cross-encoder reads. The description stands last: it is long, repeats the rest, and is what gets cut off."""

SHARPNESS = 2.0
"""What a grade is worth in the target distribution of training: e^2 = 7.4 times the probability of the grade below."""


class CrossEncoderReranker:
    """Reorders the first `depth` hits of another searcher; itself a `common.search.Searcher`.

    first: the first stage. scorer: runs a cross-encoder over pairs. product_texts: product id -> what it reads of it.
    weight: the share of the cross-encoder in the final score; both scores are brought to [0, 1] within a query
    (`convex_fusion`). 1 is the cross-encoder alone, 0 the first stage.
    Hits below `depth` follow in the order of the first stage, with negative scores.
    """

    def __init__(
        self,
        first: Searcher,
        scorer: PairScorer,
        product_texts: Mapping[str, str],
        *,
        weight: float = 1.0,
        depth: int = 50,
    ) -> None:
        if not 0 <= weight <= 1:
            raise CourseError(f"rerank: weight must be between 0 and 1, not {weight!r}.")
        self.first, self.scorer, self.product_texts = first, scorer, product_texts
        self.weight, self.depth = weight, check_k(depth)

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Hits:
        """The k best products of each query; see `common.search.Searcher`."""
        request = check_request(queries, k, allowed, exclude)
        filters = {"allowed": request.allowed, "exclude": request.exclude}
        first = self.first.search(request.queries, max(self.depth, request.k), **filters)
        top = _cut(first, self.depth)
        reranked = convex_fusion([top, self.score(request.queries, top)], self.depth, weight=self.weight)
        rows = []
        for row in range(len(first)):
            below = [product_id for product_id, _ in first.row(row)[self.depth :]]
            ids, scores = zip(*reranked.row(row), strict=True) if reranked.row(row) else ((), ())
            rows.append(([*ids, *below], [*scores, *(-float(place) for place in range(1, len(below) + 1))]))
        return hits_from_rows(rows, request.k)

    def score(self, queries: Sequence[str], hits: Hits) -> Hits:
        """The same products as `hits`, ordered by the cross-encoder alone; scores are its logits."""
        rows = [[product_id for product_id, _ in hits.row(row)] for row in range(len(hits))]
        pairs = [
            (query, self.product_texts[product_id])
            for query, row in zip(queries, rows, strict=True)
            for product_id in row
        ]
        scores = iter(self.scorer.score(pairs))
        return hits_from_rows([(row, [next(scores) for _ in row]) for row in rows], hits.k)


def _cut(hits: Hits, k: int) -> Hits:
    return Hits(hits.ids[:, :k], hits.scores[:, :k])


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
    """Peak of AdamW's learning rate; warmed up over a tenth of the steps, then falling to 0 in a line."""
    max_length: int = 64
    """Tokens of query and product text together; the rest of the text is cut off."""
    depth: int = 50
    """How many hits of the first stage are reordered."""
    validation_queries: int | None = None
    """At most this many validation queries choose the weight."""
    seed: int = 0
    """Of the sample, the new layer's weights and the order of the pairs."""


PROFILE_DEFAULTS: dict[str, dict[str, Any]] = {
    "smoke": {"model": MINILM, "queries": 8, "epochs": 1, "validation_queries": 8},
    "pocket": {"model": MINILM, "queries": 672, "epochs": 1, "validation_queries": 133},
    "full": {"model": "cross-encoder/ms-marco-MiniLM-L6-v2", "queries": 20_000, "epochs": 1, "validation_queries": 500},
}


def resolved(config: RerankConfig) -> RerankConfig:
    """The config with the profile's defaults filled in."""
    profile = resolve_profile(config.profile)
    missing = {name: value for name, value in PROFILE_DEFAULTS[profile].items() if getattr(config, name) is None}
    return replace(config, profile=profile, **missing)


@dataclass(frozen=True)
class RerankResult:
    """run: where model and settings are. weights: by first stage, the share of the cross-encoder, with the curves they
    were chosen from (first, weight, nDCG@10). history: step, loss. pairs: how many it was trained on. seconds: of
    training alone."""

    run: RunFolder
    weights: dict[str, float]
    curves: pd.DataFrame
    history: pd.DataFrame
    pairs: int
    seconds: float


def training_pairs(
    catalogue: Catalogue, first: Searcher, *, queries: int, products_per_query: int, seed: int
) -> pd.DataFrame:
    """query_id, query, product_id, grade: what the cross-encoder learns from, a sample of the training queries.

    Half of a query's products at most are relevant ones (grade 2 or 3), drawn at random. The rest are hard negatives:
    first judged ones of grade 0 or 1, then, where these do not suffice, products that `first` ranks 21st to 50th and
    nobody judged (the very first of them would too often be relevant); these count as grade 0.
    Raises CourseError if the catalogue has no judged training queries.
    """
    rng = np.random.default_rng(seed)
    train = catalogue.queries[catalogue.queries["split"] == "train"].sort_values("query_id")
    judged = {query_id: group for query_id, group in catalogue.judgements.groupby("query_id")}
    train = train[train["query_id"].isin(judged)]
    if train.empty:
        raise CourseError(f"rerank: catalogue {catalogue.source} has no judged queries of split 'train' to learn from.")
    train = train.iloc[np.sort(rng.permutation(len(train))[:queries])]
    hits = first.search(train["query"].tolist(), 50)
    rows = []
    for position, (query_id, query) in enumerate(zip(train["query_id"], train["query"], strict=True)):
        group = judged[query_id]
        group = group.iloc[rng.permutation(len(group))]
        positive = group[group["grade"] >= 2][: products_per_query // 2]
        negative = group[group["grade"] < 2][: products_per_query - len(positive)]
        chosen = dict(zip(positive["product_id"], positive["grade"], strict=True))
        chosen |= dict(zip(negative["product_id"], negative["grade"], strict=True))
        known = set(group["product_id"])
        unjudged = [product_id for product_id, _ in hits.row(position)[20:] if product_id not in known]
        missing = products_per_query - len(chosen)
        chosen |= dict.fromkeys([unjudged[i] for i in rng.permutation(len(unjudged))[:missing]], 0)
        rows += [(query_id, query, product_id, grade) for product_id, grade in chosen.items()]
    return pd.DataFrame(rows, columns=["query_id", "query", "product_id", "grade"])


def new_cross_encoder(model: str, *, max_length: int, seed: int) -> CrossEncoder:
    """A cross-encoder with one output: with our head on the packaged MiniLM, or a pretrained one by name or folder.

    seed: of the output layer, where the pretrained one has none of its own.
    """
    from transformers import set_seed

    set_seed(seed)
    with _quiet():
        if model == MINILM:
            return from_sentence_encoder(packaged_minilm(), max_length=max_length)
        from sentence_transformers.cross_encoder import CrossEncoder

        return CrossEncoder(model, num_labels=1, max_length=max_length, device=choose_placement("torch").device)


def train_cross_encoder(
    model: CrossEncoder,
    pairs: pd.DataFrame,
    product_texts: Mapping[str, str],
    *,
    epochs: int,
    queries_per_step: int,
    learning_rate: float,
    seed: int,
) -> pd.DataFrame:
    """Fine-tune `model` in place on `training_pairs`; returns the history: step, loss (mean of 10 steps).

    The loss is ListNet (Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach", 2007): of each
    query's products, the softmax of the scores should be that of `SHARPNESS` * grade. The loop is that of
    sentence-transformers; chapter 2 writes its own.
    """
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import ListNetLoss
    from transformers import PrinterCallback

    lists = [rows for _, rows in pairs.groupby("query_id", sort=False)]
    examples = {
        "query": [rows["query"].iloc[0] for rows in lists],
        "products": [[product_texts[product_id] for product_id in rows["product_id"]] for rows in lists],
        "label": [(SHARPNESS * rows["grade"]).tolist() for rows in lists],
    }
    placement = choose_placement("torch")
    steps = epochs * -(-len(lists) // queries_per_step)
    with tempfile.TemporaryDirectory() as folder, _quiet(), progress(total=steps, desc="training") as bar:
        arguments = CrossEncoderTrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=queries_per_step,
            learning_rate=learning_rate,
            warmup_steps=max(1, steps // 10),
            seed=seed,
            use_cpu=placement.device == "cpu",
            bf16=placement.precision == "bfloat16",  # autocast: the weights and AdamW stay in float32
            logging_steps=min(10, steps),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = CrossEncoderTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(examples),
            loss=ListNetLoss(model),
            callbacks=[_bar_callback(bar)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        history = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return pd.DataFrame(history, columns=["step", "loss"])


def _bar_callback(bar: tqdm) -> Any:
    from transformers import TrainerCallback

    class Bar(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            bar.update(1)

    return Bar()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the libraries say while they load and train; warnings of ours and errors pass."""
    from transformers.utils import logging as transformers_logging

    logger, before = logging.getLogger("sentence_transformers"), transformers_logging.get_verbosity()
    level = logger.level
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()


def run(
    config: RerankConfig,
    catalogue: Catalogue,
    firsts: Mapping[str, Searcher],
    artifacts: Artifacts,
    inputs: Mapping[str, RunFolder] | None = None,
) -> RerankResult:
    """Train on the training queries, choose the weights on the validation queries, save all as a run.

    config: `resolved`. firsts: the first stages to rerank, by name, strongest last; it fills up the hard negatives.
    inputs: the runs that they were read from.
    """
    texts = rerank_texts(catalogue)
    sample = {"queries": config.queries, "products_per_query": config.products_per_query, "seed": config.seed}
    pairs = training_pairs(catalogue, list(firsts.values())[-1], **sample)
    model = new_cross_encoder(config.model, max_length=config.max_length, seed=config.seed)
    started = time.perf_counter()
    chosen = ("epochs", "queries_per_step", "learning_rate", "seed")
    history = train_cross_encoder(model, pairs, texts, **{name: getattr(config, name) for name in chosen})
    seconds = time.perf_counter() - started
    with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
        with _quiet():
            save_cross_encoder(model, folder / "model")
        scorer, weights, curves = PairScorer(model), {}, []
        for name, first in firsts.items():
            reranker = CrossEncoderReranker(first, scorer, texts, depth=config.depth)
            weights[name], curve = _choose_weight(reranker, catalogue, config)
            curves.append(curve.assign(first=name))
        summary = {"weights": weights, "depth": config.depth, "max_length": config.max_length, "pairs": len(pairs)}
        write_json(folder / "rerank.json", summary | {"seconds": seconds})
        pd.concat(curves).to_parquet(folder / "weights.parquet", index=False)
        history.to_parquet(folder / "history.parquet")
    return load_result(artifacts)


def _choose_weight(
    reranker: CrossEncoderReranker, catalogue: Catalogue, config: RerankConfig
) -> tuple[float, pd.DataFrame]:
    queries = judged_queries(catalogue, "val").sort_values("query_id")
    if queries.empty:
        raise CourseError(f"rerank: catalogue {catalogue.source} has no judged queries of split 'val'.")
    sample = np.random.default_rng(config.seed).permutation(len(queries))[: config.validation_queries]
    queries = queries.iloc[np.sort(sample)]
    words, query_ids = queries["query"].tolist(), queries["query_id"].tolist()
    top = reranker.first.search(words, config.depth)
    return choose_weight([top, reranker.score(words, top)], query_ids, evaluation_judgements(catalogue))


def rerank_texts(catalogue: Catalogue) -> dict[str, str]:
    """product id -> what the cross-encoder reads of it."""
    texts = product_text(catalogue.products, RERANK_FIELDS)
    return dict(zip(catalogue.products["product_id"], texts, strict=True))


def load_result(artifacts: Artifacts) -> RerankResult:
    """The current run, as `main` returned it. Raises MissingArtifact if there is none."""
    current = artifacts.current(CHAPTER, STEP)
    summary = read_json(current.path / "rerank.json")
    history = pd.read_parquet(current.path / "history.parquet")
    curves = pd.read_parquet(current.path / "weights.parquet")
    return RerankResult(current, summary["weights"], curves, history, summary["pairs"], summary["seconds"])


def load_rerankers(
    firsts: Mapping[str, Searcher], catalogue: Catalogue, artifacts: Artifacts
) -> dict[str, CrossEncoderReranker]:
    """The trained cross-encoder of the current run on top of each first stage, with the weight chosen for its name
    (0.5 for a first stage that no weight was chosen for)."""
    result = load_result(artifacts)
    summary = read_json(result.run.path / "rerank.json")
    with _quiet():
        scorer = PairScorer(load_cross_encoder(result.run.path / "model", max_length=summary["max_length"]))
    texts = rerank_texts(catalogue)
    return {
        name: CrossEncoderReranker(first, scorer, texts, weight=result.weights.get(name, 0.5), depth=summary["depth"])
        for name, first in firsts.items()
    }


def main(config: RerankConfig) -> RerankResult:
    """Fine-tune a cross-encoder that reranks the fused searchers' best products, and choose its weights."""
    from chapter01_baseline.systems import fused_stages

    config = resolved(config)
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    inputs = {step: artifacts.current(CHAPTER, step) for step in ("reindex", "choose")}
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        run(config, catalogue, fused_stages(catalogue, artifacts), artifacts, inputs)
    return load_result(artifacts)


if __name__ == "__main__":
    run_step(main)
