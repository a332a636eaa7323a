"""Build towers without attention: an average of token embeddings, or a small recurrent network over them.

Both read a text as the pretrained embeddings of its tokens (`TokenTable`), which are not trained. The trained part is
small: it takes seconds on a CPU. The towers show what is lost if tokens do not see each other (the average), or see
them one after another (the GRU).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import embedding, embedding_bag, layer_norm, normalize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from chapter02_two_tower.pooled_towers.data import TokenTable
from common.atomic import read_json, write_json
from common.engines import batches_by_length, pad
from common.errors import CourseError

TOKENS_A_BATCH = 16_384
Tokens = Sequence[Sequence[int]]


class MeanTower(nn.Module):
    """Take the weighted average of the token embeddings, then a linear layer.

    This is fastText's idea of a sentence (Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification"), with
    a learned weight for each token. All weights start at 1, the plain average. A trained tower knows which tokens
    matter, as an inverse document frequency would (Arora et al. 2017, "A Simple but Tough-to-Beat Baseline for Sentence
    Embeddings").
    """

    def __init__(self, table: torch.Tensor, dimension: int) -> None:
        """Make a tower. table: float32 [V, E], not trained and not saved. dimension: D of the vectors."""
        super().__init__()
        self.register_buffer("table", table, persistent=False)
        self.log_weight = nn.Parameter(torch.zeros(len(table)))
        self.projection = nn.Linear(table.shape[1], dimension)

    def forward(self, tokens: Tokens) -> torch.Tensor:
        """Return the vectors of B texts, float32 [B, D], each of length 1."""
        ids, starts = _joined(tokens, self.table.device)
        weights = self.log_weight[ids].exp()
        total = embedding_bag(ids, self.table, starts, mode="sum", per_sample_weights=weights)
        # Only the direction of the average matters, so it is not divided by the sum of the weights.
        return normalize(self.projection(normalize(total, dim=-1)), dim=-1)


class GRUTower(nn.Module):
    """Read the token embeddings with a gated recurrent unit forwards and another one backwards, and average the states.

    Unlike an average of tokens it can tell "case for a phone" from "phone with a case" (Cho et al. 2014, "Learning
    Phrase Representations using RNN Encoder-Decoder"). Its time grows with the longest text of a batch. Texts are
    packed, so padding is never computed.
    """

    def __init__(self, table: torch.Tensor, dimension: int) -> None:
        """Make a tower. table: float32 [V, E], not trained and not saved. dimension: D of the vectors, even."""
        super().__init__()
        self.register_buffer("table", table, persistent=False)
        self.projection = nn.Linear(table.shape[1], dimension)
        self.gru = nn.GRU(dimension, dimension // 2, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tokens) -> torch.Tensor:
        """Return the vectors of B texts, float32 [B, D], each of length 1."""
        padded, mask = pad(tokens, 0)
        # A token occurs in many texts of a batch, and is projected once.
        distinct, places = torch.from_numpy(padded).to(self.table.device).unique(return_inverse=True)
        # Pretrained rows are short; a recurrent unit starts to move with inputs of about 1.
        projected = self.projection(layer_norm(self.table[distinct], self.table.shape[1:]))
        lengths = torch.from_numpy(mask.sum(axis=1))
        packed = pack_padded_sequence(embedding(places, projected), lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        # Beyond a text's end the states are zeros; a sum points where the average does.
        return normalize(states.sum(dim=1), dim=-1)


KINDS: dict[str, type[MeanTower] | type[GRUTower]] = {"mean": MeanTower, "gru": GRUTower}


@dataclass(frozen=True)
class PooledArchitecture:
    """Choose the shape of a pair of towers."""

    kind: str = "mean"
    """mean or gru."""
    dimension: int = 128
    """Dimension of the vectors."""
    query_length: int = 32
    """Tokens of a query that are read."""
    product_length: int = 32
    """Tokens of a product's text that are read."""


class PooledTowers(nn.Module):
    """Hold a query tower and a product tower of one kind, which share nothing but the pretrained table."""

    def __init__(self, architecture: PooledArchitecture, table: TokenTable, seed: int = 0) -> None:
        """Draw the weights with `seed`. Raises `CourseError` for an unknown kind or an odd dimension."""
        super().__init__()
        if architecture.kind not in KINDS:
            raise CourseError(f"no pooled tower {architecture.kind!r}; choose one of {', '.join(KINDS)}")
        if architecture.dimension < 2 or architecture.dimension % 2:
            raise CourseError(f"dimension must be an even number, not {architecture.dimension}")
        self.architecture, self.vocabulary = architecture, table
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.query = KINDS[architecture.kind](table.matrix, architecture.dimension)
            self.product = KINDS[architecture.kind](table.matrix, architecture.dimension)

    def query_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of queries, cut to the query length."""
        return self.vocabulary.tokenise(texts, self.architecture.query_length)

    def product_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of product texts, cut to the product length."""
        return self.vocabulary.tokenise(texts, self.architecture.product_length)

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of N queries, float32 [N, D]."""
        return _embed(self.query, self.query_tokens(texts))

    def embed_products(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of N product texts, float32 [N, D]."""
        return _embed(self.product, self.product_tokens(texts))

    def save(self, folder: Path) -> None:
        """Write ``pooled.json`` and ``model.safetensors`` into `folder`; the pretrained table is not repeated there."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous().cpu() for name, value in self.state_dict().items()}, folder / WEIGHTS)
        write_json(folder / RECIPE, asdict(self.architecture))

    @classmethod
    def load(cls, folder: Path, table: TokenTable) -> PooledTowers:
        """Read towers that `save` wrote. Raises `CourseError` if a file is missing, cut short, or does not fit."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            towers = cls(PooledArchitecture(**read_json(folder / RECIPE)), table)
            towers.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, SafetensorError, RuntimeError, TypeError) as error:
            fault = str(error).splitlines()[0][:200]
            raise CourseError(f"{folder}: these pooled towers cannot be read ({fault}); train them again") from None
        return towers.eval()


WEIGHTS, RECIPE = "model.safetensors", "pooled.json"


def untrained_mean(table: TokenTable, texts: Sequence[str], max_length: int) -> np.ndarray:
    """Return the plain average of the token embeddings of each text, float32 [N, E], each of length 1.

    The mean tower starts from it, before its linear layer.
    """
    ids, starts = _joined(table.tokenise(texts, max_length), table.matrix.device)
    return normalize(embedding_bag(ids, table.matrix, starts, mode="mean"), dim=-1).cpu().numpy()


def _embed(tower: nn.Module, tokens: Tokens) -> np.ndarray:
    vectors = np.zeros((len(tokens), tower.projection.out_features), dtype=np.float32)
    with torch.inference_mode():
        for batch in batches_by_length([len(ids) for ids in tokens], TOKENS_A_BATCH):
            vectors[batch] = tower([tokens[at] for at in batch]).cpu().numpy()
    return vectors


def _joined(tokens: Tokens, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all ids in a row, long [N], and the start of each text, long [B]."""
    ids = torch.from_numpy(np.concatenate([np.asarray(text, dtype=np.int64) for text in tokens]))
    starts = torch.from_numpy(np.cumsum([0, *map(len, tokens[:-1])]))
    return ids.to(device), starts.to(device)
