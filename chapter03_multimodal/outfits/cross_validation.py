"""Cross-validate compatibility heads by product, for sources too small for one test split."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from chapter03_multimodal.outfits.compatibility import CompatibilityConfig, train_head
from chapter03_multimodal.outfits.head import FrozenScorer, HeadScorer
from chapter03_multimodal.outfits.metrics import FROZEN, auc_table, draw_questions, fill_in_the_blank
from chapter03_multimodal.outfits.negatives import add_negatives
from chapter03_multimodal.outfits.pair_data import PairData
from chapter03_multimodal.outfits.pairs import Partners, product_folds

HEAD = "head"


@dataclass(frozen=True)
class CrossValidation:
    """auc: as `auc_table`, with `tested`. pairs: the measured pairs with their `fold`, how many of the two items are
    `unseen`, and a column of scores for each system. answers: a row a FITB question: `outfit`, and for each system the
    grade of its answer, 0 to 1; no columns if there are no questions."""

    auc: pd.DataFrame
    pairs: pd.DataFrame
    answers: pd.DataFrame


def cross_validate(data: PairData, config: CompatibilityConfig, *, folds: int = 5) -> CrossValidation:
    """Train a head for each fold of products, and measure it and the frozen encoder on that fold; splits are ignored.

    Products (whole groups of variants) are dealt into folds. A fold's head is trained on the pairs with *no* item in
    the fold, so it has never seen a product of it. AUC is measured on the pairs with *both* items in the fold ("both
    unseen", 1 / folds of all), and also on those with at least one ("one or both unseen"; a pair across two folds is
    measured in both). FITB is measured on outfits of products of one fold, with distractors of that fold that stand in
    a pair. The last epoch counts: there is no validation set.

    Where there is no label 0, each positive (a, b) gets a sampled negative (a, c) with c unseen just as b is
    (`add_negatives`). Scores of different heads do not compare, so positives meet only negatives of their own fold.
    """
    fold_of = product_folds(data.embeddings.ids, data.facts, folds, config.seed)
    partners, paired = Partners.of(data.pairs), {*data.pairs["a_id"], *data.pairs["b_id"]}
    measured, answers = [], []
    for fold in range(folds):
        unseen = {item: place == fold for item, place in fold_of.items()}
        count = _unseen(data.pairs, unseen)
        head = train_head(data.embeddings, data.pairs[count == 0], data.facts, config)
        scorers = {FROZEN: FrozenScorer(data.embeddings), HEAD: HeadScorer(head, data.embeddings)}
        pairs = data.pairs[count > 0]
        if not data.has_negatives:
            pairs = add_negatives(pairs, partners, data.facts, unseen, seed=config.seed + fold)
        scores = {name: scorer(pairs["a_id"], pairs["b_id"]) for name, scorer in scorers.items()}
        measured.append(pairs.assign(fold=fold, unseen=_unseen(pairs, unseen), **scores))
        items = [item for item in data.embeddings.ids if unseen[item] and item in paired]
        asked = draw_questions(data.pairs[count == 2], items, data.facts, widen=True, seed=config.seed + fold)
        if len(asked.table):
            grades = {name: fill_in_the_blank(scorer, asked) for name, scorer in scorers.items()}
            answers.append(pd.DataFrame({"outfit": asked.table["outfit_id"], **grades}))
    pairs = pd.concat(measured, ignore_index=True)
    tables = []
    for tested, rows in (("both unseen", pairs[pairs["unseen"] == 2]), ("one or both unseen", pairs)):
        scores = {name: rows[name].to_numpy() for name in (FROZEN, HEAD)}
        tables.append(auc_table(scores, rows, strata=rows["fold"].to_numpy(), seed=config.seed).assign(tested=tested))
    found = pd.concat(answers, ignore_index=True) if answers else pd.DataFrame()
    return CrossValidation(pd.concat(tables, ignore_index=True), pairs, found)


def _unseen(pairs: pd.DataFrame, unseen: dict[str, bool]) -> pd.Series:
    """Count the unseen items of each pair: 0, 1 or 2."""
    return pairs["a_id"].map(unseen).astype(int) + pairs["b_id"].map(unseen).astype(int)
