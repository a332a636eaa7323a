"""What goes with this: a small head on cached embeddings, trained on pairs that go together and pairs that do not.

    python -m chapter03_multimodal.outfits.compatibility
    python -m chapter03_multimodal.outfits.compatibility --embeddings vectors --pairs pairs.csv

A stock encoder puts what looks alike side by side, and a shirt looks like other shirts. The head maps an embedding
into a space where items are near that go together, and scores a pair of them. The encoder stays frozen: its vectors
come from `export_embeddings`, so an epoch takes a fraction of a second. To learn from the images themselves, fine-tune
the encoder first (`train`), export with `--model trained`, and train the head on that: backpropagating through the
encoder would decode and encode every picture in every epoch, for a few thousand pairs that a network of its size
learns by heart.

Sources: Veit et al. 2015, "Learning Visual Clothing Style with Heterogeneous Dyadic Co-occurrences" (arXiv:1509.07473)
for a space of what goes together; McAuley et al. 2015 (arXiv:1506.04757) for learning it on fixed features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from chapter02_two_tower.losses import in_batch_negatives_loss, triplet_loss
from chapter02_two_tower.train import schedule
from chapter03_multimodal.outfits.export_embeddings import MANIFEST, ItemEmbeddings, load_embeddings, load_export
from chapter03_multimodal.outfits.head import (
    CompatibilityHead,
    FrozenScorer,
    HeadScorer,
    Score,
    load_head,
    save_head,
)
from chapter03_multimodal.outfits.metrics import (
    FROZEN,
    Rule,
    auc,
    auc_table,
    draw_questions,
    fitb_table,
    pair_auc,
    shop_rule,
)
from chapter03_multimodal.outfits.pairs import (
    ItemFacts,
    PairTable,
    Partners,
    TripletMaker,
    Triplets,
    add_negatives,
    clean_pairs,
    hashed_splits,
    product_folds,
    read_pairs,
)
from common.artifacts import Artifacts, RunFolder, fingerprint
from common.atomic import read_json, write_json
from common.catalogue import SPLITS, Catalogue, load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.progress import progress, tell

CHAPTER, STEP = "chapter03_multimodal", "outfits.compatibility"


@dataclass(frozen=True)
class CompatibilityConfig:
    """Train a head on cached embeddings to know what goes together."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one; not looked at if there are embeddings and pairs."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    embeddings: Path | None = None
    """Folder of exported embeddings, for pairs of your own."""
    pairs: Path | None = None
    """Table with the columns a_id, b_id and, if known, label (1 / 0) and outfit_id, for embeddings of your own."""
    scorer: Score = "pair"
    """What a pair is scored by: the cosine of the projections, or a network on both of them."""
    loss: Literal["triplet", "infonce"] = "triplet"
    """What shapes the projections; with scorer pair, cross-entropy on its scores is added."""
    out_dim: int = 64
    """Dimensions of the projection."""
    hidden: int = 256
    """Width of the hidden layers."""
    dropout: float = 0.3
    """Share of a layer's inputs left out while training."""
    neg_pool_ratio: float = 1.0
    """Share of negatives drawn from the anchor's judged partners (label 0); the others are random."""
    margin: float = 0.3
    """Of the triplet loss, a cosine."""
    temperature: float = 0.1
    """Of InfoNCE; cosines are divided by it."""
    epochs: int = 30
    """Times over all pairs. Validation AUC chooses among them."""
    batch_size: int = 256
    """Triplets a step."""
    learning_rate: float = 1e-3
    """Peak of AdamW's rate; warmed up over a tenth of the steps, then falling to 0 in a line."""
    weight_decay: float = 0.01
    """Of AdamW."""
    seed: int = 0
    """Of weights, order and negatives."""


@dataclass(frozen=True)
class PairData:
    """What a head is trained and measured on. rule: how a generated shop put its outfits together, for test questions
    alone. split_of: the split of each item."""

    embeddings: ItemEmbeddings
    table: PairTable
    facts: ItemFacts
    split_of: dict[str, str]
    rule: Rule | None = None

    @property
    def pairs(self) -> pd.DataFrame:
        return self.table.pairs

    def measured(self, split: str, seed: int = 0) -> pd.DataFrame:
        """The labelled pairs of a split; where the source has no label 0, with sampled ones (`add_negatives`)."""
        pairs = self.table.of_split(split)
        if (self.pairs["label"] == 0).any() or pairs.empty:
            return pairs
        return add_negatives(pairs, Partners.of(self.pairs), self.facts, self.split_of, seed=seed)


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
    return load_compatibility(artifacts)


def load_compatibility(artifacts: Artifacts) -> CompatibilityResult:
    """Read the head in force; raises `MissingArtifact` with the command that trains one."""
    run = artifacts.current(CHAPTER, STEP)
    log, held_out = (pd.read_csv(run.path / name) for name in ("log.csv", "held_out.csv"))
    return CompatibilityResult(
        run, log, read_json(run.path / "best.json"), held_out, read_json(run.path / "left_out.json")
    )


def load_pair_data(artifacts: Artifacts, catalogue: Catalogue) -> tuple[PairData, dict[str, RunFolder]]:
    """A catalogue's pairs on its exported embeddings, and the runs they come from.

    Splits are those after the audit of the pictures (`prepare_data`): a pair whose items it put into different splits
    is in none.
    """
    from chapter03_multimodal.prepare_data import load_multimodal_data

    data, export = load_multimodal_data(artifacts, catalogue), load_export(artifacts)
    if catalogue.pairs.empty:
        raise CourseError(f"{catalogue.source}: the catalogue has no pairs; nothing says what goes together")
    split_of = dict(data.pairs[["product_id", "split"]].itertuples(index=False, name=None))
    table = clean_pairs(catalogue.pairs, export.embeddings.ids, split_of)
    facts = ItemFacts.of(catalogue.products)
    pair_data = PairData(export.embeddings, table, facts, split_of, shop_rule(catalogue))
    return pair_data, {"prepare_data": data.run, "export_embeddings": export.run}


def pair_data_of_files(embeddings: Path, pairs: Path, seed: int = 0) -> PairData:
    """Pairs of a file on exported embeddings. The items are split by hash; a pair across splits is in none."""
    items, facts = load_embeddings(embeddings), ItemFacts({}, {})
    split_of = hashed_splits(items.ids, facts, seed)
    return PairData(items, clean_pairs(read_pairs(pairs), items.ids, split_of), facts, split_of)


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
    maker = TripletMaker(pairs, facts, neg_pool_ratio=config.neg_pool_ratio)
    vectors = torch.tensor(embeddings.vectors)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = CompatibilityHead(
            embeddings.dimension,
            config.out_dim,
            hidden=config.hidden,
            dropout=config.dropout,
            scorer=config.scorer,
        )
        optimizer = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        step = 0
        for epoch in progress(range(1, config.epochs + 1), desc="compatibility head", unit="epoch"):
            triplets, losses = maker.epoch(config.seed, epoch), []
            head.train()
            starts = range(0, len(triplets), config.batch_size)
            for start in starts:
                batch = _part(triplets, slice(start, start + config.batch_size))
                total = config.epochs * len(starts)
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * schedule(step, total)
                optimizer.zero_grad()
                loss = batch_loss(head, vectors, batch, embeddings, maker, config)
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
    maker: TripletMaker,
    config: CompatibilityConfig,
) -> Tensor:
    """The loss of a batch of triplets.

    triplet: each anchor against its own negative. infonce: each anchor against its own negative and whatever else is in
    the batch, except what is known to go with it, its variants, and itself. vectors: all embeddings [N, in_dim]. With
    the pair scorer, its cross-entropy is added: both networks learn at once, the cosine to find, the scorer to rank.
    """
    u, v, w = (head(vectors[embeddings.rows(ids)]) for ids in (batch.anchors, batch.positives, batch.negatives))
    if config.loss == "triplet":
        loss = triplet_loss(u, v, w, margin=config.margin)
    else:
        known = known_partners(batch, maker.partners, maker.facts)
        positives = torch.arange(len(batch))
        loss = in_batch_negatives_loss(u, torch.cat([v, w]), positives, known=known, temperature=config.temperature)
    if head.scorer == "pair":
        fit, clash = head.logits(u, v), head.logits(u, w)
        targets = torch.cat([torch.ones_like(fit), torch.zeros_like(clash)])
        loss = loss + binary_cross_entropy_with_logits(torch.cat([fit, clash]), targets)
    return loss


def known_partners(batch: Triplets, partners: Partners, facts: ItemFacts) -> Tensor:
    """Which columns of a batch are no negatives of which anchor: bool [B, 2B], columns are positives, then negatives.

    True for what is known to go with the anchor, for the anchor itself, and for variants of these, but never for what
    was judged not to go with it.
    """
    columns: dict[str, list[int]] = {}
    for column, item in enumerate([*batch.positives, *batch.negatives]):
        columns.setdefault(item, []).append(column)
    known = torch.zeros(len(batch), 2 * len(batch), dtype=torch.bool)
    for row, anchor in enumerate(batch.anchors):
        no_negatives = facts.variants(anchor, *partners.fits[anchor])
        for item in no_negatives - partners.clashes.get(anchor, frozenset()):
            known[row, columns.get(item, [])] = True
    return known


def train_and_choose(data: PairData, config: CompatibilityConfig, folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train, write a checkpoint after each epoch into `folder`, and choose the one of best validation AUC.

    Returns the log (`epoch, loss, auc`) and the epoch chosen (`epoch, auc, file`).
    """
    validation, rows = data.measured("val", config.seed), []

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


def measure(
    data: PairData, scorers: dict[str, Callable[..., np.ndarray]], *, split: str = "test", seed: int = 0
) -> tuple[pd.DataFrame, int]:
    """AUC and FITB of scorers and the frozen encoder on the outfits of a split, and the number of blanks left out.

    Distractors are of the right item's category or, where that is small, the nearest one above it that has enough: else
    the questions on rare categories, a third of all in the pocket shop, would be left out. Where the rule is not known
    they stand in some pair, as the right item does.
    """
    scorers = {FROZEN: FrozenScorer(data.embeddings), **scorers}
    pairs = data.measured(split, seed)
    paired = {*data.pairs["a_id"], *data.pairs["b_id"]}
    here = [item for item in data.embeddings.ids if data.split_of.get(item) == split]
    items = here if data.rule is not None else [item for item in here if item in paired]
    asked = draw_questions(pairs, items, data.facts, go_together=data.rule, widen=True, seed=seed)
    tables = [pair_auc(scorers, pairs, seed=seed)]
    if len(asked.table):
        tables.append(fitb_table(scorers, asked, seed=seed))
    return pd.concat(tables, ignore_index=True), asked.left_out


def cross_validate(
    data: PairData, config: CompatibilityConfig, *, folds: int = 5, rounds: int = 2_000
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cross-validate by product, for sources too small for one test split. Splits are not looked at.

    Products (whole groups of variants) are dealt into folds. A fold's head is trained on the pairs that have *no* item
    in it, so it has never seen a product of the fold in any pair. Measured are the pairs with *both* items in the fold
    ("both unseen", 1 / folds of all: nothing of them was trained on), and, beside it, those with at least one ("one or
    both unseen"; a pair across two folds is measured in both). The last epoch counts: there is nothing to choose it by.

    Where there is no label 0, each positive (a, b) gets a sampled negative (a, c) with c unseen just as b is
    (`add_negatives`). Scores of different heads do not compare, so positives meet negatives of their own fold only.

    Returns the table of figures (as `auc_table`, with `tested`) and the measured pairs with their scores.
    """
    fold_of = product_folds(data.embeddings.ids, data.facts, folds, config.seed)
    judged, partners = (data.pairs["label"] == 0).any(), Partners.of(data.pairs)
    frozen, parts = FrozenScorer(data.embeddings), []
    for fold in range(folds):
        unseen = {item: place == fold for item, place in fold_of.items()}
        count = data.pairs["a_id"].map(unseen).astype(int) + data.pairs["b_id"].map(unseen).astype(int)
        head = train_head(data.embeddings, data.pairs[count == 0], data.facts, config)
        tested = data.pairs[count > 0]
        if not judged:
            tested = add_negatives(tested, partners, data.facts, unseen, seed=config.seed + fold)
        a, b = tested["a_id"], tested["b_id"]
        scores = {"fold": fold, "unseen": a.map(unseen).astype(int) + b.map(unseen).astype(int)}
        scores |= {FROZEN: frozen(a, b), "head": HeadScorer(head, data.embeddings)(a, b)}
        parts.append(tested.assign(**scores))
    pairs = pd.concat(parts, ignore_index=True)
    tables = []
    for tested, rows in (("both unseen", pairs[pairs["unseen"] == 2]), ("one or both unseen", pairs)):
        scores = {name: rows[name].to_numpy() for name in (FROZEN, "head")}
        found = auc_table(scores, rows, strata=rows["fold"].to_numpy(), seed=config.seed, rounds=rounds)
        tables.append(found.assign(tested=tested))
    return pd.concat(tables, ignore_index=True), pairs


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
    """Refuse what would fail only after the training."""
    for split in SPLITS:
        labels = {*data.measured(split)["label"]} if split != "train" else {*data.table.of_split(split)["label"], 0}
        if labels != {0, 1}:
            raise CourseError(
                f"compatibility: the {split} split has {len(data.table.of_split(split)):,} pairs, not both of label 1 "
                f"and label 0; left out were {data.table.left_out or 'none'}. Give more pairs, or cross_validate."
            )
    if data.table.left_out:
        tell("compatibility: pairs left out: " + ", ".join(f"{n:,} {why}" for why, n in data.table.left_out.items()))


def _part(triplets: Triplets, rows: slice) -> Triplets:
    return Triplets(triplets.anchors[rows], triplets.positives[rows], triplets.negatives[rows], triplets.judged[rows])


if __name__ == "__main__":
    run_step(main)
