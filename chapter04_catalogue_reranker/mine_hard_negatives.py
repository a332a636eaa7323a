"""Mine wrong categories that are hard to tell from the true one: siblings, look-alikes and confusions.

A list of nine candidates shows a model eight wrong paths, and after some epochs it knows them. Training lists therefore
get further wrong paths of three kinds:

- **sibling**: under the same parent as the true path. Only the last level of the path tells them apart.
- **lookalike**: the category of a training product with a similar text.
- **confusion**: a wrong path that a trained model ranked first for this product. See Xiong et al., "Approximate Nearest
  Neighbor Negative Contrastive Learning for Dense Text Retrieval" (2021), which mines with the model itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from common.category_path import split_path

Kind = Literal["sibling", "lookalike", "confusion"]
KINDS: tuple[str, ...] = get_args(Kind)
ROWS_AT_ONCE = 256


def siblings(true_paths: Sequence[str], paths: Iterable[str], seed: int) -> list[list[str]]:
    """Return the other paths under the parent of each of N true paths, in random order.

    Paths of one level are siblings of each other.
    """
    rng, family = np.random.default_rng(seed), defaultdict(list)
    for path in sorted(set(paths)):
        family[_parent(path)].append(path)
    drawn = ([str(path) for path in rng.permutation(family[_parent(true)])] for true in true_paths)
    return [[path for path in order if path != true] for order, true in zip(drawn, true_paths, strict=True)]


def _parent(path: str) -> tuple[str, ...]:
    return tuple(split_path(path)[:-1])


def nearest_paths(
    queries: np.ndarray, own: Sequence[str], products: np.ndarray, paths: Sequence[str], top: int
) -> list[list[str]]:
    """Return the paths of the other categories nearest to each query, the nearest first; at most `top`.

    A category is as near as its nearest product. queries: vectors [Q, D] of products of the categories `own` [Q], which
    are never among the results. products: vectors [N, D], of length 1 like the queries', with their `paths` [N].
    Equally near categories come in alphabetical order.
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

    mined: by kind its paths, the best first. The other kinds take the turns of one that runs out.
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
