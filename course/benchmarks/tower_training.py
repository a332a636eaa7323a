"""Measure pairs a second: our training loop beside `SentenceTransformerTrainer` with `MultipleNegativesRankingLoss`.

All start from the same model and see the same batches in the same order, at the same rate, with the same loss and
optimizer and no dropout, so they should learn the same. They take turns, a slice of steps each, so that other load on
the machine hits all. Tokenisation and the bookkeeping between two steps count; start-up does not.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from chapter01_baseline.choose import evaluation_judgements, judged_queries
from chapter02_two_tower.losses import in_batch_negatives_loss
from chapter02_two_tower.model import Architecture, QueryTower, Tower, TwoTowerModel
from chapter02_two_tower.stages import WARMUP
from chapter02_two_tower.train import WEIGHT_DECAY
from chapter02_two_tower.training_data import searchable
from common.catalogue import Catalogue, load_catalogue
from common.devices import Placement, choose_placement
from common.encoders import MINILM, model_folder
from common.engines import load_sentence_transformer
from common.evaluation import evaluate
from common.progress import tell
from common.search import hits_from_scores
from common.training import MAX_GRAD_NORM, clip_gradients, warmup_schedule
from course.benchmarks.pairs import Pairs, judged_pairs

BATCH = 64
ROUNDS = 3
STEPS = 8  # a round; the first of them is not timed
RATE = 5e-5
QUERY_LENGTH, PRODUCT_LENGTH = 32, 64
METRIC = "nDCG@10"


def main(
    catalogue: Catalogue | None = None, *, encoder: str = MINILM, batch: int = BATCH, steps: int = STEPS
) -> list[dict[str, Any]]:
    """Measure on judged training queries of `catalogue`, by default the pocket shop; about five minutes on two cores.

    Returns two rows, against the trainer in our precision and in its default, float32: name, ours, peer, unit,
    our_value and peer_value (pairs a second, medians over the rounds), ratio (median of the rounds' ratios), our_ndcg
    and peer_ndcg (nDCG@10 of the validation queries after all steps), note. Where the machine has no native bfloat16
    both rows are against float32. Raises CourseError if the catalogue has no judged training queries.
    """
    catalogue = catalogue if catalogue is not None else load_catalogue("pocket_shop")
    placement = choose_placement("torch")
    batches = judged_pairs(catalogue, ROUNDS * steps * batch, batch_size=batch).batches(batch)
    half = placement.precision == "bfloat16"
    runners: dict[str, OurTraining | TrainerTraining] = {"ours": OurTraining(encoder, placement, len(batches), half)}
    for precision in ("bfloat16", "float32") if half else ("float32",):
        runners[precision] = TrainerTraining(encoder, placement, len(batches), precision == "bfloat16")
    rates = _in_turn(runners, batches, steps)
    quality = {}
    for name, runner in runners.items():
        tell(f"{name}: {METRIC} on the validation queries")
        quality[name] = _quality(runner.towers(), catalogue)
    note = (
        f"batch {batch}, {len(batches) * batch:,} pairs of {catalogue.source}, {QUERY_LENGTH} + {PRODUCT_LENGTH} tokens"
    )
    ours = f"own loop, {'bfloat16 autocast' if half else 'float32'} on {placement.device}"
    compared = {"training, same precision": [*runners][1], "training, against the fp32 default": "float32"}
    return [_row(name, ours, peer, rates, quality, note) for name, peer in compared.items()]


def _row(name: str, ours: str, peer: str, rates: dict, quality: dict[str, float], note: str) -> dict[str, Any]:
    return {
        "name": name,
        "ours": ours,
        "peer": f"SentenceTransformerTrainer {peer}",
        "unit": "pairs/s",
        "our_value": round(float(np.median(rates["ours"])), 1),
        "peer_value": round(float(np.median(rates[peer])), 1),
        "ratio": round(float(np.median(np.divide(rates["ours"], rates[peer]))), 2),
        "our_ndcg": round(quality["ours"], 4),
        "peer_ndcg": round(quality[peer], 4),
        "note": note,
    }


class OurTraining:
    """Train our towers with the steps of `chapter02_two_tower.train` and the plainest of its losses."""

    def __init__(self, encoder: str, placement: Placement, total: int, half: bool) -> None:
        lengths = {"query_length": QUERY_LENGTH, "product_length": PRODUCT_LENGTH}
        architecture = Architecture(encoder=encoder, **lengths, train_token_embeddings=True)
        self.model = TwoTowerModel.build(architecture, seed=0).to(placement.device)
        self.optimizer, self.scheduler = _optimizer(self.model, total)
        self.device, self.half = placement.device, half

    def train(self, batches: Sequence[Pairs]) -> list[float]:
        """Take a step for each batch; return the time at the end of each, in seconds."""
        ends = []
        self.model.train()
        for batch in batches:
            self.optimizer.zero_grad()
            self.loss(batch).backward()
            clip_gradients(self.model.parameters())
            self.optimizer.step()
            self.scheduler.step()
            ends.append(_now(self.device))
        return ends

    def loss(self, batch: Pairs) -> torch.Tensor:
        """Compute the peer's default loss: in-batch negatives in one direction, without masks."""
        query, product = self.model.query, self.model.product
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            queries, products = query(query.tokenise(batch.queries)), product(product.tokenise(batch.products))
        own = torch.arange(len(queries), device=queries.device)
        return in_batch_negatives_loss(queries, products, own, temperature=0.05, both_directions=False)

    def towers(self) -> tuple[Tower, Tower]:
        """Return the towers of queries and of products."""
        return self.model.query, self.model.product


class TrainerTraining:
    """Train with the public trainer, called for each slice of steps with the same model, optimizer and schedule."""

    def __init__(self, encoder: str, placement: Placement, total: int, half: bool) -> None:
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        where = Placement(placement.device, "torch", "float32", "trained in float32, or under autocast")
        self.model = load_sentence_transformer(model_folder(encoder), where, PRODUCT_LENGTH).train()
        for part in self.model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        self.loss = MultipleNegativesRankingLoss(self.model)
        self.optimizer, self.scheduler = _optimizer(self.model, total)
        self.device, self.half = placement.device, half

    def train(self, batches: Sequence[Pairs]) -> list[float]:
        """Take a step for each batch; return the time at the end of each, in seconds."""
        from datasets import Dataset
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
        from transformers import PrinterCallback

        texts = {name: [text for batch in batches for text in getattr(batch, name)] for name in ("queries", "products")}
        ends: list[float] = []
        logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
        with tempfile.TemporaryDirectory() as folder:
            arguments = SentenceTransformerTrainingArguments(
                output_dir=folder,
                max_steps=len(batches),
                per_device_train_batch_size=len(batches[0].queries),
                batch_sampler=_in_order,
                max_grad_norm=MAX_GRAD_NORM,
                use_cpu=self.device == "cpu",
                bf16=self.half,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            trainer = SentenceTransformerTrainer(
                model=self.model,
                args=arguments,
                train_dataset=Dataset.from_dict(texts),
                loss=self.loss,
                optimizers=(self.optimizer, self.scheduler),
                callbacks=[_clock(ends, self.device)],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return ends

    def towers(self) -> tuple[Tower, Tower]:
        """Return the same network twice, as towers, so that it is measured in the same way as ours."""
        tower = QueryTower(self.model[0], nn.Sequential(self.model[1]), PRODUCT_LENGTH)
        return tower, tower


def _optimizer(model: nn.Module, total: int) -> tuple[Any, Any]:
    """Return AdamW, fused, as is the trainer's default, and a rate that warms up over a tenth of the steps."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=WEIGHT_DECAY, fused=True)

    def share(step: int) -> float:
        # LambdaLR asks for one step more than there are.
        return warmup_schedule(min(step, total - 1), total, WARMUP, "linear")

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def _in_order(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> Any:
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from torch.utils.data import SequentialSampler

    return DefaultBatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last)


def _clock(ends: list[float], device: str) -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(_now(device))

    return Clock()


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _in_turn(runners: dict[str, Any], batches: list[Pairs], steps: int) -> dict[str, list[float]]:
    """Measure pairs a second of each runner in each round; the runner that begins changes from round to round."""
    rates: dict[str, list[float]] = {name: [] for name in runners}
    order = list(runners)
    for number, start in enumerate(range(0, len(batches), steps)):
        part = batches[start : start + steps]
        for name in order[number % len(order) :] + order[: number % len(order)]:
            ends = runners[name].train(part)
            rates[name].append(sum(len(batch.queries) for batch in part[1:]) / (ends[-1] - ends[0]))
            tell(f"round {number + 1}, {name}: {rates[name][-1]:.1f} pairs/s")
    return rates


def _quality(towers: tuple[Tower, Tower], catalogue: Catalogue) -> float:
    queries, texts = judged_queries(catalogue, "val"), searchable(catalogue.products)
    vectors = towers[1].embed([*texts.values()], desc="embedding products")
    scores = towers[0].embed(queries["query"].tolist()) @ vectors.T
    hits = hits_from_scores(scores, [*texts], 10)
    grades = evaluation_judgements(catalogue)
    grades = grades[grades["query_id"].isin(queries["query_id"])]
    return float(evaluate(hits, queries["query_id"].tolist(), grades, metrics=(METRIC,)).mean()[METRIC])
