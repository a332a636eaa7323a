"""Wrong categories that are hard to tell from the true one: siblings, look-alikes, and what the model took for true.

A list of nine candidates shows a model eight ways to be wrong, and after some epochs it knows them. Training lists are
therefore made longer with wrong paths of three kinds, each of which misleads in its own way:

- **sibling**: under the same parent as the true path. Only the last word of the path tells them apart.
- **lookalike**: the category of a training product whose text is near to this one's.
- **confusion**: what a trained model ranked first for this product, and was wrong. See Xiong et al., "Approximate
  Nearest Neighbor Negative Contrastive Learning for Dense Text Retrieval" (2021), which mines with the model itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

LEVELS = " > "
Kind = Literal["sibling", "lookalike", "confusion"]
KINDS: tuple[str, ...] = get_args(Kind)
ROWS_AT_ONCE = 256


def parent_of(path: str) -> str:
    """The path without its last level; ``""`` for a path of one level."""
    return path.rpartition(LEVELS)[0]


def siblings(true_paths: Sequence[str], paths: Iterable[str], seed: int) -> list[list[str]]:
    """The paths that share their parent with each of N true paths, in random order, the true one left out.

    Paths of one level are siblings of each other.
    """
    rng, family = np.random.default_rng(seed), defaultdict(list)
    for path in sorted(set(paths)):
        family[parent_of(path)].append(path)
    drawn = ([str(path) for path in rng.permutation(family[parent_of(true)])] for true in true_paths)
    return [[path for path in order if path != true] for order, true in zip(drawn, true_paths, strict=True)]


def nearest_paths(
    queries: np.ndarray, own: Sequence[str], products: np.ndarray, paths: Sequence[str], top: int
) -> list[list[str]]:
    """The paths of other categories nearest to each query, the nearest first; at most `top`.

    A category is as near as its nearest product. queries: vectors [Q, D] of products that stand in `own` [Q], which is
    never among the answers. products: vectors [N, D], of length 1 like the queries', with their `paths` [N]. Categories
    that are equally near come in alphabetical order.
    """
    if not len(products):
        return [[] for _ in own]
    order = np.argsort(np.asarray(paths, dtype=object), kind="stable")
    names, starts = np.unique(np.asarray(paths, dtype=object)[order], return_index=True)
    ordered, column = products[order], {name: at for at, name in enumerate(names)}
    found = []
    for start in range(0, len(queries), ROWS_AT_ONCE):
        block = slice(start, start + ROWS_AT_ONCE)
        near = np.maximum.reduceat(queries[block] @ ordered.T, starts, axis=1)
        for row, path in enumerate(own[block]):
            near[row, column.get(path, [])] = -np.inf
        best = np.argsort(-near, axis=1, kind="stable")[:, : top + 1]
        found += [
            [names[at] for at in ranked if scores[at] > -np.inf][:top]
            for ranked, scores in zip(best, near, strict=True)
        ]
    return found


def take_turns(mined: Mapping[str, Sequence[str]], taken: Collection[str], count: int) -> list[tuple[str, str]]:
    """Choose up to `count` paths that are not in `taken`, one of each kind in turn, as pairs (path, kind).

    mined: by kind its paths, the best first. A kind that runs out leaves its turns to the others.
    """
    queues, seen, chosen = {kind: iter(paths) for kind, paths in mined.items()}, set(taken), []
    while queues and len(chosen) < count:
        for kind in list(queues)[: count - len(chosen)]:
            path = next((path for path in queues[kind] if path not in seen), None)
            if path is None:
                del queues[kind]
            else:
                seen.add(path)
                chosen.append((path, kind))
    return chosen
