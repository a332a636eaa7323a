"""Score pairs of items with the compatibility head, a small network on cached embeddings."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from chapter03_multimodal.outfits.embeddings import ItemEmbeddings
from common.atomic import atomic_write
from common.errors import CourseError, MissingArtifact

HEAD = "head"
FORMAT = 1

Score = Literal["cosine", "pair"]


class CompatibilityHead(nn.Module):
    """Map item embeddings [N, in_dim] to vectors [N, out_dim] of length 1, near each other for what goes together.

    A pair is scored, with the same result in either order, by

        cosine   u · v                                  for search in an index
        pair     sigmoid( MLP([u * v, |u - v|]) )       a probability, for reranking

    Both need the MLP that projects: "the colours harmonise and not both are patterned" is not about looking alike, so
    no rotation of the embeddings can express it. A cosine can (plain items in the middle of their harmony, patterned
    ones around it, far from each other), but needs room for that; the pair scorer learns it from fewer pairs.
    """

    def __init__(
        self, in_dim: int, out_dim: int = 64, *, hidden: int = 256, dropout: float = 0.0, scorer: Score = "pair"
    ) -> None:
        super().__init__()
        if scorer not in get_args(Score):
            raise CourseError(f"scorer {scorer!r}: choose one of {', '.join(get_args(Score))}")
        self.in_dim, self.out_dim, self.hidden, self.scorer = in_dim, out_dim, hidden, scorer
        self.project = nn.Sequential(
            nn.LayerNorm(in_dim),
            nn.Dropout(dropout),
            nn.Linear(in_dim, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, out_dim),
        )
        if scorer == "pair":
            self.judge = nn.Sequential(
                nn.Linear(2 * out_dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, 1)
            )

    def forward(self, vectors: Tensor) -> Tensor:
        """Project embeddings [..., in_dim] to [..., out_dim]."""
        return normalize(self.project(vectors), dim=-1)

    def logits(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the pair scorer's log-odds [...] that projections u and v [..., out_dim] go together."""
        # At length sqrt(out_dim) the entries are about 1, as a fresh linear layer expects.
        u, v = u * math.sqrt(self.out_dim), v * math.sqrt(self.out_dim)
        return self.judge(torch.cat([u * v, (u - v).abs()], dim=-1)).squeeze(-1)

    def score(self, u: Tensor, v: Tensor) -> Tensor:
        """Score how well projections u and v [..., out_dim] go together, [...]: a cosine or a probability."""
        if self.scorer == "cosine":
            return (u * v).sum(dim=-1)
        # In float32, all pairs beyond log-odds of 17 would have the probability 1.
        return torch.sigmoid(self.logits(u, v).double())


@dataclass(frozen=True)
class HeadScorer:
    """Score pairs of items, `scorer(a_ids, b_ids) -> float64 [N]`, by a head on the embeddings it was trained for."""

    head: CompatibilityHead
    embeddings: ItemEmbeddings

    @cached_property
    def projected(self) -> np.ndarray:
        """Project all items into the head's space: float32 [N, out_dim], in the order of the embeddings."""
        with torch.inference_mode():
            return self.head.eval()(torch.tensor(self.embeddings.vectors)).numpy()

    def __call__(self, a_ids: Sequence[str], b_ids: Sequence[str]) -> np.ndarray:
        u, v = (torch.tensor(self.projected[self.embeddings.rows(ids)]) for ids in (a_ids, b_ids))
        with torch.inference_mode():
            return self.head.eval().score(u, v).double().numpy()


@dataclass(frozen=True)
class FrozenScorer:
    """Score pairs by the cosine of the embeddings as they are: the baseline that takes similar for compatible."""

    embeddings: ItemEmbeddings

    def __call__(self, a_ids: Sequence[str], b_ids: Sequence[str]) -> np.ndarray:
        u, v = (self.embeddings.vectors[self.embeddings.rows(ids)] for ids in (a_ids, b_ids))
        return (u * v).sum(axis=1, dtype=np.float64)


def save_head(file: str | Path, head: CompatibilityHead, *, encoder_id: str, epoch: int, **figures: float) -> None:
    """Write a checkpoint: the state, and in the file's header what is needed to build the head again.

    Raises `CourseError` if the file exists: no epoch overwrites another.
    """
    file = Path(file)
    if file.exists():
        raise CourseError(f"{file}: this checkpoint was written before; train into another folder")
    described = {
        "format": FORMAT,
        "in_dim": head.in_dim,
        "out_dim": head.out_dim,
        "hidden": head.hidden,
        "scorer": head.scorer,
        "encoder_id": encoder_id,
        "epoch": epoch,
        **figures,
    }
    state = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    with atomic_write(file) as temporary:
        save_file(state, temporary, metadata={HEAD: json.dumps(described)})


def load_head(file: str | Path, embeddings: ItemEmbeddings | None = None) -> CompatibilityHead:
    """Read a checkpoint, for evaluation. embeddings: those that it will be used on.

    Raises `CourseError` if the file is no checkpoint, if its tensors do not have the dimensions that it states, or if
    the embeddings have another dimension or encoder than those that it was trained on.
    """
    described, state = _read_head(Path(file))
    head = CompatibilityHead(
        described["in_dim"], described["out_dim"], hidden=described["hidden"], scorer=described["scorer"]
    )
    mine = head.state_dict()
    wrong = sorted(mine.keys() ^ state.keys()) or [name for name in mine if mine[name].shape != state[name].shape]
    if wrong:
        raise CourseError(
            f"{file}: says in_dim {head.in_dim}, out_dim {head.out_dim}, but its tensors are not of these dimensions "
            f"(first difference: {wrong[0]}); train the head again"
        )
    if embeddings is not None and embeddings.dimension != head.in_dim:
        raise CourseError(
            f"{file}: the head takes embeddings of {head.in_dim} dimensions, these have {embeddings.dimension}; export "
            f"the embeddings of {described['encoder_id']!r}, or train a head on these"
        )
    if embeddings is not None and embeddings.encoder_id != described["encoder_id"]:
        raise CourseError(
            f"{file}: the head was trained on embeddings of {described['encoder_id']!r}, these are of "
            f"{embeddings.encoder_id!r}; train a head on these"
        )
    head.load_state_dict(state)
    return head.eval()


def _read_head(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the header (see `save_head`) and the state."""
    if not file.is_file():
        raise MissingArtifact(
            f"{file}: no such checkpoint. Make it with: python -m chapter03_multimodal.outfits.compatibility"
        )
    try:
        with safe_open(file, framework="pt") as opened:
            described = json.loads((opened.metadata() or {}).get(HEAD, "{}"))
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise CourseError(f"{file}: not a readable safetensors file ({error}); train the head again") from None
    if described.get("format") != FORMAT:
        raise CourseError(f"{file}: not a checkpoint of a compatibility head of format {FORMAT}; train the head again")
    return described, state
