"""Train a small head on cached embeddings to know what goes together, from pairs that do and pairs that do not.

    python -m chapter03_multimodal.outfits.compatibility
    python -m chapter03_multimodal.outfits.compatibility --embeddings vectors --pairs pairs.csv

A stock encoder puts similar items side by side, and a shirt is similar to other shirts. The head maps embeddings into a
space where items that go together are near, and scores pairs of them. The encoder stays frozen: its vectors come from
`export_embeddings`, so an epoch takes a fraction of a second. To learn from the images themselves, fine-tune the
encoder first (`train`), export with `--model trained`, and train the head on that. Backpropagation through the encoder
would decode and encode every picture in every epoch, for a few thousand pairs that such a large network soon memorises.

Sources: Veit et al. 2015, "Learning Visual Clothing Style with Heterogeneous Dyadic Co-occurrences" (arXiv:1509.07473)
for a space of what goes together; McAuley et al. 2015 (arXiv:1506.04757) for learning it on fixed features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from chapter02_two_tower.losses import in_batch_negatives_loss, triplet_loss
from chapter03_multimodal.outfits.embeddings import MANIFEST, ItemEmbeddings
from chapter03_multimodal.outfits.head import CompatibilityHead, FrozenScorer, HeadScorer, Score, load_head, save_head
from chapter03_multimodal.outfits.metrics import FROZEN, Scorer, auc, auc_table, draw_questions, fitb_table
from chapter03_multimodal.outfits.negatives import Triplets, TripletSampler
from chapter03_multimodal.outfits.pair_data import PairData, load_pair_data, pair_data_of_files
from chapter03_multimodal.outfits.pairs import ItemFacts, Partners
from common.artifacts import Artifacts, RunFolder, fingerprint
from common.atomic import read_json, write_json
from common.catalogue import SPLITS, load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.progress import progress, tell
from common.scoreboard import save_scoreboard
from common.training import set_rate, warmup_schedule

CHAPTER, STEP = "chapter03_multimodal", "outfits.compatibility"
WARMUP = 0.1


@dataclass(frozen=True)
class CompatibilityConfig:
    """Train a head on cached embeddings to know what goes together."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one; ignored if there are embeddings and pairs."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    embeddings: Path | None = None
    """Folder of exported embeddings, for pairs of your own."""
    pairs: Path | None = None
    """Table with the columns a_id, b_id and, if known, label (1 / 0) and outfit_id, for embeddings of your own."""
    scorer: Score = "pair"
    """How a pair is scored: cosine (of the projections) or pair (a network on both of them)."""
    loss: Literal["triplet", "infonce"] = "triplet"
    """Trains the projections; with scorer pair, cross-entropy on its scores is added."""
    out_dim: int = 64
    """Dimensions of the projection."""
    hidden: int = 256
    """Width of the hidden layers."""
    dropout: float = 0.3
    """Share of a layer's inputs left out while training."""
    neg_pool_ratio: float = 1.0
    """Share of hard negatives, drawn from the anchor's partners labelled 0; the others are random."""
    margin: float = 0.3
    """Of the triplet loss, a cosine."""
    temperature: float = 0.1
    """Of InfoNCE; cosines are divided by it."""
    epochs: int = 30
    """Times over all pairs. Validation AUC chooses among them."""
    batch_size: int = 256
    """Triplets a step."""
    learning_rate: float = 1e-3
    """Peak of AdamW's rate: linear warm-up over a tenth of the steps, then linear decay to 0."""
    weight_decay: float = 0.01
    """Of AdamW."""
    seed: int = 0
    """Of weights, order and negatives."""


@dataclass(frozen=True)
class CompatibilityResult:
    """run: its folder holds a checkpoint an epoch, `epoch_001.safetensors` and so on. log: `epoch, loss, auc` (of the
    validation pairs). best: the epoch chosen and its file. held_out: AUC and FITB on the test split, a row a system
    and metric. left_out: why pairs, and how many FITB questions, were left out."""

    run: RunFolder
    log: pd.DataFrame
    best: dict[str, Any]
    held_out: pd.DataFrame
    left_out: dict[str, int]

    def head(self, embeddings: ItemEmbeddings) -> CompatibilityHead:
        """Load the best head for use on `embeddings`; see `load_head`."""
        return load_head(self.run.path / self.best["file"], embeddings)


def main(config: CompatibilityConfig) -> CompatibilityResult:
    """Train the head, choose its epoch on validation pairs, and measure it on the held-out outfits."""
    artifacts, inputs, data = _inputs(config)
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        _check(data)
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            log, best = train_and_choose(data, config, folder)
            scorer = HeadScorer(load_head(folder / best["file"], data.embeddings), data.embeddings)
            held_out, unanswered = measure(data, {f"head, {config.scorer}": scorer}, seed=config.seed)
            log.to_csv(folder / "log.csv", index=False)
            held_out.to_csv(folder / "held_out.csv", index=False)
            write_json(folder / "best.json", best)
            write_json(folder / "left_out.json", data.table.left_out | {"FITB questions": unanswered})
            save_scoreboard(folder, _scoreboard_rows(held_out, artifacts.source))
    return load_compatibility(artifacts)


def load_compatibility(artifacts: Artifacts) -> CompatibilityResult:
    """Read the head in force; raises `MissingArtifact` with the command that trains one."""
    run = artifacts.current(CHAPTER, STEP)
    log, held_out = (pd.read_csv(run.path / name) for name in ("log.csv", "held_out.csv"))
    return CompatibilityResult(
        run, log, read_json(run.path / "best.json"), held_out, read_json(run.path / "left_out.json")
    )


def train_head(
    embeddings: ItemEmbeddings,
    pairs: pd.DataFrame,
    facts: ItemFacts,
    config: CompatibilityConfig,
    *,
    after_epoch: Callable[[int, CompatibilityHead, float], None] | None = None,
) -> CompatibilityHead:
    """Train a head on training pairs and return it as it is after the last epoch.

    after_epoch(epoch from 1, head, mean loss) is called after each. The caller's random state stays as it was.
    """
    sampler = TripletSampler(pairs, facts, neg_pool_ratio=config.neg_pool_ratio)
    vectors = torch.tensor(embeddings.vectors)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        size = {"hidden": config.hidden, "dropout": config.dropout, "scorer": config.scorer}
        head = CompatibilityHead(embeddings.dimension, config.out_dim, **size)
        optimizer = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        step = 0
        for epoch in progress(range(1, config.epochs + 1), desc="compatibility head", unit="epoch"):
            triplets, losses = sampler.epoch(config.seed, epoch), []
            starts = range(0, len(triplets), config.batch_size)
            head.train()
            for start in starts:
                share = warmup_schedule(step, config.epochs * len(starts), WARMUP, "linear")
                set_rate(optimizer, config.learning_rate * share)
                optimizer.zero_grad()
                loss = batch_loss(
                    head, vectors, triplets[start : start + config.batch_size], embeddings, sampler, config
                )
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
                step += 1
            if not math.isfinite(sum(losses)):
                raise CourseError(f"compatibility: the loss is {sum(losses)} in epoch {epoch}; lower --learning-rate")
            if after_epoch is not None:
                after_epoch(epoch, head.eval(), float(np.mean(losses)))
    return head.eval()


def batch_loss(
    head: CompatibilityHead,
    vectors: Tensor,
    batch: Triplets,
    embeddings: ItemEmbeddings,
    sampler: TripletSampler,
    config: CompatibilityConfig,
) -> Tensor:
    """Return the loss of a batch of triplets.

    triplet: each anchor against its own negative. infonce: each anchor against its own negative and all other items of
    the batch, except those of the `false_negative_mask`. vectors: all embeddings [N, in_dim]. With the pair scorer its
    cross-entropy is added: both networks learn at once, the cosine to find, the scorer to rank.
    """
    u, v, w = (head(vectors[embeddings.rows(ids)]) for ids in (batch.anchors, batch.positives, batch.negatives))
    if config.loss == "triplet":
        loss = triplet_loss(u, v, w, margin=config.margin)
    else:
        known = false_negative_mask(batch, sampler.partners, sampler.facts)
        positives = torch.arange(len(batch))
        loss = in_batch_negatives_loss(u, torch.cat([v, w]), positives, known=known, temperature=config.temperature)
    if head.scorer == "pair":
        positive, negative = head.logits(u, v), head.logits(u, w)
        targets = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)])
        loss = loss + binary_cross_entropy_with_logits(torch.cat([positive, negative]), targets)
    return loss


def false_negative_mask(batch: Triplets, partners: Partners, facts: ItemFacts) -> Tensor:
    """Mark the columns of a batch that are no negatives of an anchor: bool [B, 2B], columns positives, then negatives.

    True for what is known to go with the anchor, for the anchor itself, and for variants of these, but never for what
    is labelled 0 with it.
    """
    columns: dict[str, list[int]] = {}
    for column, item in enumerate([*batch.positives, *batch.negatives]):
        columns.setdefault(item, []).append(column)
    mask = torch.zeros(len(batch), 2 * len(batch), dtype=torch.bool)
    for row, anchor in enumerate(batch.anchors):
        compatible = facts.variants(anchor, *partners.compatible[anchor])
        for item in compatible - partners.incompatible.get(anchor, frozenset()):
            mask[row, columns.get(item, [])] = True
    return mask


def train_and_choose(data: PairData, config: CompatibilityConfig, folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train, write a checkpoint after each epoch into `folder`, and choose the one with the best validation AUC.

    Returns the log (`epoch, loss, auc`) and the epoch chosen (`epoch, auc, file`).
    """
    validation, rows = data.evaluation_pairs("val", config.seed), []

    def after_epoch(epoch: int, head: CompatibilityHead, loss: float) -> None:
        scorer = HeadScorer(head, data.embeddings)
        figure = auc(scorer(validation["a_id"], validation["b_id"]), validation["label"].to_numpy())
        file = f"epoch_{epoch:03d}.safetensors"
        save_head(folder / file, head, encoder_id=data.embeddings.encoder_id, epoch=epoch, auc=figure)
        rows.append({"epoch": epoch, "loss": loss, "auc": figure, "file": file})

    train_head(data.embeddings, data.table.of_split("train"), data.facts, config, after_epoch=after_epoch)
    log = pd.DataFrame(rows)
    best = rows[int(log["auc"].to_numpy().argmax())]
    return log.drop(columns="file"), {name: best[name] for name in ("epoch", "auc", "file")}


def measure(data: PairData, scorers: Mapping[str, Scorer], *, seed: int = 0) -> tuple[pd.DataFrame, int]:
    """Measure AUC and FITB of scorers and of the frozen encoder on the test outfits; count the blanks left out.

    Distractors are of the right item's category or, where that is too small, of the nearest one above it that is large
    enough: otherwise the questions on rare categories, a third of all in the pocket shop, would be left out. Where the
    rule is not known, distractors stand in some pair, as the right item does.
    """
    scorers = {FROZEN: FrozenScorer(data.embeddings), **scorers}
    pairs = data.evaluation_pairs("test", seed)
    paired = {*data.pairs["a_id"], *data.pairs["b_id"]}
    items = [item for item in data.embeddings.ids if data.split_of.get(item) == "test"]
    if data.rule is None:
        items = [item for item in items if item in paired]
    asked = draw_questions(pairs, items, data.facts, go_together=data.rule, widen=True, seed=seed)
    scores = {name: score(pairs["a_id"], pairs["b_id"]) for name, score in scorers.items()}
    tables = [auc_table(scores, pairs, seed=seed)]
    if len(asked.table):
        tables.append(fitb_table(scorers, asked, seed=seed))
    return pd.concat(tables, ignore_index=True), asked.left_out


def _scoreboard_rows(held_out: pd.DataFrame, source: str) -> pd.DataFrame:
    facts = {"chapter": CHAPTER, "source": source, "split": "test", "seconds": float("nan")}
    return held_out.rename(columns={"n": "n_queries"}).assign(system="compatibility, " + held_out["system"], **facts)


def _inputs(config: CompatibilityConfig) -> tuple[Artifacts, dict[str, RunFolder], PairData]:
    if (config.embeddings is None) != (config.pairs is None):
        raise CourseError("compatibility: give both --embeddings and --pairs, or neither of them for a catalogue")
    if config.embeddings is not None:
        data = pair_data_of_files(config.embeddings, config.pairs, config.seed)
        # The manifest of an export holds the digests of its other files.
        key = [config.embeddings.joinpath(MANIFEST).read_bytes(), config.pairs.read_bytes()]
        return Artifacts("your_pairs", fingerprint(key), config.profile), {}, data
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data, inputs = load_pair_data(artifacts, catalogue)
    return artifacts, inputs, data


def _check(data: PairData) -> None:
    """Raise `CourseError` for data that would fail only after the training."""
    for split in SPLITS:
        labels = (
            {*data.evaluation_pairs(split)["label"]} if split != "train" else {*data.table.of_split(split)["label"], 0}
        )
        if labels != {0, 1}:
            raise CourseError(
                f"compatibility: the {split} split has {len(data.table.of_split(split)):,} pairs, not both of label 1 "
                f"and label 0; left out were {data.table.left_out or 'none'}. Give more pairs, or cross_validate."
            )
    if data.table.left_out:
        tell("compatibility: pairs left out: " + ", ".join(f"{n:,} {why}" for why, n in data.table.left_out.items()))


if __name__ == "__main__":
    run_step(main)
