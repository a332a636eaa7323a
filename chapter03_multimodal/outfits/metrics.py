"""Measure on held-out outfits how well a scorer knows what goes together, with intervals and beside a baseline.

AUC         the probability that a pair that goes together scores above one that does not
FITB        fill in the blank: an outfit lacks an item; which of four candidates completes it?

Both as in Han et al. 2017, "Learning Fashion Compatibility with Bidirectional LSTMs" (arXiv:1707.05691). The
distractors are harder: they are of the right item's own category, as in Vasileva et al. 2018, "Learning Type-Aware
Embeddings for Fashion Compatibility" (arXiv:1803.09196). A scorer is any function `score(a_ids, b_ids) -> [N]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from chapter03_multimodal.outfits.pairs import ItemFacts, Partners, Substitutes
from common.catalogue import Catalogue
from common.errors import CourseError
from common.statistics import compare, summarise

Scorer = Callable[[Sequence[str], Sequence[str]], np.ndarray]
Rule = Callable[[str, str], bool]

CHOICES = 4
FROZEN = "frozen encoder"
"""The baseline that all other scorers are compared with."""
WEIGHTS_AT_ONCE = 4_000_000
"""Held in memory while bootstrapping."""


@dataclass(frozen=True)
class Questions:
    """table: `outfit_id, context` (what else is in the outfit), `choices` (the right item first; a scorer does not
    learn the order). left_out: blanks for which there were not enough distractors."""

    table: pd.DataFrame
    left_out: int


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the area under the ROC curve: the share of (positive, negative) pairs in the right order, ties half.

    scores: [N], higher goes together better. labels: [N] of 1 and 0. Raises `CourseError` if one label is missing.

    Source: the Mann-Whitney form, Hanley & McNeil 1982, "The meaning and use of the area under a ROC curve".
    """
    return weighted_auc(scores, labels, np.ones((1, len(scores)))).item()


def weighted_auc(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, *, strata: np.ndarray | None = None
) -> np.ndarray:
    """Return the AUC [R] under R weightings [R, N] of the pairs: a weight of 2 counts a pair twice, 0 leaves it out.

    strata: [N]; positives are compared with negatives of their own stratum only, such as a fold: scores of different
    models do not compare. NaN where a weighting leaves nothing to compare.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if scores.shape != labels.shape or scores.ndim != 1 or not np.isin(labels, [0, 1]).all():
        raise CourseError(f"auc: scores {scores.shape} and labels {labels.shape} must be [N] each, labels 0 or 1")
    if not np.isfinite(scores).all():
        raise CourseError("auc: a score is not a finite number; look at the embeddings it was made from")
    strata = np.zeros(len(scores), dtype=np.int64) if strata is None else np.asarray(strata)
    won, compared = np.zeros(len(weights)), np.zeros(len(weights))
    for stratum in np.unique(strata):
        part = strata == stratum
        more_won, more_compared = _wins(scores[part], labels[part], weights[:, part])
        won, compared = won + more_won, compared + more_compared
    if len(weights) == 1 and not compared.any():
        raise CourseError("auc: needs pairs labelled 1 and pairs labelled 0; one of them is missing")
    return np.divide(won, compared, out=np.full(len(won), np.nan), where=compared > 0)


def auc_table(
    scores: Mapping[str, np.ndarray],
    pairs: pd.DataFrame,
    *,
    strata: np.ndarray | None = None,
    seed: int = 0,
    rounds: int = 2_000,
) -> pd.DataFrame:
    """Return the AUC of each system's scores [N] over N labelled pairs, with 95% intervals.

    Columns: `system, metric, value, ci_low, ci_high, n`, and `difference, difference_low, difference_high` to `FROZEN`.
    Pairs of one outfit share items and are not independent, so the bootstrap draws outfits (pairs without one: all
    pairs of the same `a_id`), the same ones for every system: the difference is paired.
    """
    labels = pairs["label"].to_numpy()
    cluster = pd.factorize(pairs["outfit_id"].fillna(pairs["a_id"]))[0]
    count = cluster.max() + 1 if len(cluster) else 0
    whole = {name: weighted_auc(s, labels, np.ones((1, len(s))), strata=strata).item() for name, s in scores.items()}
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in scores}
    step = max(1, WEIGHTS_AT_ONCE // len(pairs))
    for start in range(0, rounds, step):
        size = min(step, rounds - start)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=size)[:, cluster].astype(np.float64)
        for name, values in scores.items():
            drawn[name].append(weighted_auc(values, labels, weights, strata=strata))
    sample = {name: np.concatenate(parts) for name, parts in drawn.items()}
    rows = []
    for name in scores:
        low, high = np.nanquantile(sample[name], [0.025, 0.975])
        row = {"system": name, "metric": "AUC", "value": whole[name], "ci_low": low, "ci_high": high, "n": len(pairs)}
        if FROZEN in scores and name != FROZEN:
            low, high = np.nanquantile(sample[name] - sample[FROZEN], [0.025, 0.975])
            row |= {"difference": whole[name] - whole[FROZEN], "difference_low": low, "difference_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def draw_questions(
    pairs: pd.DataFrame,
    items: Sequence[str],
    facts: ItemFacts,
    *,
    go_together: Rule | None = None,
    widen: bool = False,
    seed: int = 0,
) -> Questions:
    """Blank each item of each outfit once, and find distractors for it.

    pairs: labelled pairs of one split. An outfit is what its pairs labelled 1 name; a pair without `outfit_id` is an
    outfit of two. The context of a blank is what the outfit's pairs say it goes with: all of a true outfit, but in a
    list of recommendations only the item that they are recommended for. items: the items of the same split, from which
    distractors are drawn.

    A distractor is of the right item's category (the same path or below it; widen: if there are too few, a level up,
    and so on), not in the outfit, not known to go with any other item of it, and no variant of such an item. Items
    labelled 0 with an item of the outfit come first, then random ones. A random one may complete the outfit as well as
    the right item does, and then even a perfect scorer misses: in the pocket shop a third of all pairs go together. A
    shop that knows its rule gives it as `go_together(a_id, b_id)`: the distractors are then items that clash with
    something in the outfit (variants too, they differ in colour), and a perfect scorer reaches 1. Left out and counted:
    blanks with too few distractors, and those of unknown category in a source that has categories.
    """
    rng = np.random.default_rng(seed)
    partners, substitutes = Partners.of(pairs), Substitutes(sorted(items), facts.categories)
    rows, left_out = [], 0
    for outfit_id, members in _outfits(pairs).items():
        for right, others in members.items():
            context = tuple(others)
            known = set(members).union(*(partners.compatible[item] for item in context))
            excluded = facts.variants(*known) if go_together is None else known

            def usable(item: str, context: tuple[str, ...] = context, excluded: set[str] = excluded) -> bool:
                clashes = go_together is None or not all(go_together(other, item) for other in context)
                return item not in excluded and clashes

            found = substitutes.of(right, usable, least=CHOICES - 1, widen=widen)
            if not found or (facts.categories and right not in facts.categories):
                left_out += 1
                continue
            judged = frozenset().union(*(partners.incompatible.get(item, frozenset()) for item in context))
            found = [found[at] for at in rng.permutation(len(found))]
            found.sort(key=lambda item, judged=judged: item not in judged)  # stable: random within both kinds
            rows.append((outfit_id, context, (right, *found[: CHOICES - 1])))
    return Questions(pd.DataFrame(rows, columns=["outfit_id", "context", "choices"]), left_out)


def fill_in_the_blank(score: Scorer, questions: Questions) -> np.ndarray:
    """Grade the answer to each question [Q]: 1 if the right item has the highest mean score with the context.

    1/n if it shares that score with n - 1 others, else 0. A scorer that knows nothing gets 0.25 with four choices.
    """
    asked = [
        (context, choice)
        for context, choices in questions.table[["context", "choices"]].itertuples(index=False, name=None)
        for choice in choices
    ]
    if not asked:
        raise CourseError("fill_in_the_blank: there are no questions; the categories are too small for distractors")
    contexts = [item for context, _ in asked for item in context]
    candidates = [choice for context, choice in asked for _ in context]
    sizes = np.array([len(context) for context, _ in asked])
    sums = np.add.reduceat(np.asarray(score(contexts, candidates), np.float64), np.r_[0, np.cumsum(sizes)[:-1]])
    means = (sums / sizes).reshape(len(questions.table), -1)
    best = means == means.max(axis=1, keepdims=True)
    return np.where(best[:, 0], 1 / best.sum(axis=1), 0.0)


def fitb_table(scorers: Mapping[str, Scorer], questions: Questions, *, seed: int = 0) -> pd.DataFrame:
    """Return the FITB accuracy of each scorer, columns as in `auc_table` and `p` of the paired randomisation test.

    An outfit counts once, with the mean over its questions: outfits, not questions, are the sample.
    """
    of_outfit = {
        name: pd.DataFrame({"outfit": questions.table["outfit_id"], "FITB": fill_in_the_blank(score, questions)})
        .groupby("outfit")
        .mean()
        for name, score in scorers.items()
    }
    rows = []
    for name, table in of_outfit.items():
        row = {"system": name} | summarise(table, seed=seed).iloc[0].rename({"n_queries": "n"}).to_dict()
        if FROZEN in of_outfit and name != FROZEN:
            found = compare(table, of_outfit[FROZEN], "FITB", seed=seed)
            row |= {"difference": found.difference, "difference_low": found.ci_low, "difference_high": found.ci_high}
            row["p"] = found.p
        rows.append(row)
    return pd.DataFrame(rows)


def shop_rule(catalogue: Catalogue) -> Rule | None:
    """Return the rule `go_together(a_id, b_id)` by which the generated shop made its outfits; None for other sources.

    It serves to make test questions, never to train.
    """
    if catalogue.source != "pocket_shop":
        return None
    from common.pocket_shop.outfits import go_together
    from common.pocket_shop.shop import load_facts

    facts = load_facts(catalogue)
    row_of = {product_id: row for row, product_id in enumerate(facts["product_id"])}
    return lambda a, b: go_together(facts, row_of[a], row_of[b])


def _outfits(pairs: pd.DataFrame) -> dict[str, dict[str, list[str]]]:
    """Return the items of each outfit, in order of first mention, each with the others that it is known to go with."""
    found: dict[str, dict[str, list[str]]] = {}
    positives = pairs[pairs["label"] == 1]
    for a, b, outfit_id in zip(positives["a_id"], positives["b_id"], positives["outfit_id"], strict=True):
        outfit = found.setdefault(f"{a} + {b}" if pd.isna(outfit_id) else outfit_id, {})
        outfit.setdefault(a, []).append(b)
        outfit.setdefault(b, []).append(a)
    return found


def _wins(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight [R] of the comparisons that positives win against negatives, and of all comparisons."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])  # of runs of equal scores
    positive = np.add.reduceat((weights * (labels == 1))[:, order], starts, axis=1)
    negative = np.add.reduceat((weights * (labels == 0))[:, order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    won = (positive * (below + negative / 2)).sum(axis=1)
    return won, positive.sum(axis=1) * negative.sum(axis=1)
