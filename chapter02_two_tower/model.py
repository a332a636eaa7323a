"""Build the two towers, which put a query and the products that fit it close together.

    model = TwoTowerModel.build(Architecture(), seed=0)
    queries = model.query(model.query.tokenise(["usb c cable"]))          # [1, D], float32, length 1
    products = model.product(model.product.tokenise(["Braided USB-C cable, 2 m"]))
    queries @ products.T                                                  # cosine similarity

A tower is a transformer, a pooling of its token vectors, an optional linear projection, and L2 normalisation. As the
towers meet only in a dot product, the products of a whole shop are embedded once and searched with an index.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, fields
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chapter02_two_tower.architecture import MAX_TEMPERATURE, MIN_TEMPERATURE, Architecture
from chapter02_two_tower.model_files import (
    DESCRIPTION,
    TOWERS,
    check_files,
    describe,
    load_parts,
    read_description,
    save_parts,
    store_once,
)
from common.atomic import atomic_folder
from common.devices import choose_placement
from common.encoders import CHARACTERS_PER_TOKEN, model_folder
from common.engines import TOKENS_PER_BATCH, batches_by_length, pad
from common.errors import CourseError
from common.progress import progress

ROWS_A_CHUNK = 16


class Tower(nn.Module):
    """Turn texts into L2-normalised vectors. Make towers with `TwoTowerModel`.

    max_length: in tokens, special ones included. dimension: D of the vectors.
    """

    def __init__(self, transformer: nn.Module, head: nn.Sequential, max_length: int) -> None:
        """Join two parts made of sentence-transformers' modules; head is a pooling, then perhaps a projection."""
        super().__init__()
        self.transformer, self.head, self.max_length = transformer, head, max_length
        self.dimension: int = getattr(head[-1], "out_features", transformer.get_embedding_dimension())

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return next(self.parameters()).device

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, special tokens included, at most `max_length` of them; not padded.

        Text beyond 40 characters a token is cut before it is tokenised, as in `TextEncoder.encode`. Raises CourseError
        if texts is not a collection of str.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise CourseError("tokenise: texts must be a list of str; write tokenise([text]) for one, '' for none.")
        if not len(texts):
            return []
        limit = self.max_length * CHARACTERS_PER_TOKEN
        # Half a surrogate pair, which no tokeniser takes, becomes "?".
        clean = [str(text[:limit]).encode("utf-8", "replace").decode("utf-8") for text in texts]
        return self.transformer.tokenizer(clean, truncation=True, max_length=self.max_length)["input_ids"]

    def forward(self, tokens: Sequence[Sequence[int]], *, rows_a_chunk: int = ROWS_A_CHUNK) -> Tensor:
        """Return the vectors [B, D] of B tokenised texts, float32 and of length 1, under autocast too; with gradient.

        The rows are sorted by length, run `rows_a_chunk` at a time and put back in order. So a chunk has little padding
        (59 pairs a second in training on two cores; the batch in one piece: 40). The result is that of the whole batch
        at once, to rounding.
        """
        if not len(tokens):
            return torch.empty(0, self.dimension, device=self.device)
        order, chunks = chunks_by_length(tokens, rows_a_chunk)
        vectors = torch.cat([self.embed_chunk([tokens[at] for at in chunk]) for chunk in chunks])
        place = torch.empty(len(order), dtype=torch.long)
        place[torch.tensor(order)] = torch.arange(len(order))
        return vectors[place.to(vectors.device)]

    def embed_chunk(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Return the vectors [B, D] of B tokenised texts, in one padded pass."""
        return _embed(self.transformer, self.head, tokens, int(self.transformer.tokenizer.pad_token_id or 0))

    def embed(self, texts: Sequence[str], *, desc: str | None = None) -> np.ndarray:
        """Return the vectors float32 [N, D] of N texts, for a search or a validation; see `FrozenTower`."""
        return self.frozen().embed(self.tokenise(texts), desc=desc)

    def frozen(self) -> FrozenTower:
        """Copy the network as it is now, to embed with it more than once."""
        return FrozenTower(self)

    def save(self, folder: Path) -> None:
        """Write a folder that `SentenceTransformer(folder)` loads, with the same vectors and this `max_length`."""
        save_parts(self.transformer, self.head, self.max_length, folder)


class FrozenTower:
    """Embed with a copy of a tower's network: no gradient, no dropout, in half precision where that is native.

    Training the tower afterwards does not change the copy.
    """

    def __init__(self, tower: Tower) -> None:
        placement = choose_placement("torch")
        self.dimension = tower.dimension
        self._transformer, self._head = copy.deepcopy((tower.transformer, tower.head))
        self._transformer.to(placement.device, getattr(torch, placement.precision)).eval()
        self._head.to(placement.device).eval()  # in float32: it is small, and its input is

    @torch.inference_mode()
    def embed(self, tokens: Sequence[Sequence[int]], *, desc: str | None = None) -> np.ndarray:
        """Return the vectors float32 [N, D] of N tokenised texts (`Tower.tokenise`); equal texts are embedded once.

        desc: the label of the progress bar; without it none is shown. Raises CourseError if a vector is not finite.
        """
        first: dict[tuple[int, ...], int] = {}
        source = np.array([first.setdefault(tuple(ids), len(first)) for ids in tokens], dtype=np.int64)
        distinct, pad_id = list(first), int(self._transformer.tokenizer.pad_token_id or 0)
        vectors = np.empty((len(distinct), self.dimension), dtype=np.float32)
        with progress(total=len(distinct), desc=desc, unit="text", shown=bool(desc)) as bar:
            for batch in batches_by_length([len(ids) for ids in distinct], TOKENS_PER_BATCH):
                rows = _embed(self._transformer, self._head, [distinct[at] for at in batch], pad_id)
                vectors[batch] = rows.cpu().numpy()
                bar.update(len(batch))
        if not np.isfinite(vectors).all():
            raise CourseError("the tower gave vectors that are not numbers; train again from an earlier checkpoint.")
        return vectors[source]


class QueryTower(Tower):
    """Embed queries."""


class ProductTower(Tower):
    """Embed product texts."""


class TwoTowerModel(nn.Module):
    """Hold a query tower, a product tower and a temperature. Make one with `build` or `load`.

    If the towers share their network, `parameters()` and `state_dict()` hold it once, under "query.".
    """

    def __init__(self, query: QueryTower, product: ProductTower, architecture: Architecture) -> None:
        super().__init__()
        self.query, self.product, self.architecture = query, product, architecture
        if architecture.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(log(architecture.temperature)))
        if architecture.shared:
            self.register_state_dict_post_hook(_leave_out_product)
            self.register_load_state_dict_pre_hook(_repeat_query_as_product)

    @property
    def temperature(self) -> Tensor:
        """Return the divisor of the cosines in the loss, a scalar.

        A learned one is kept between 0.01 and 1, but its gradient is that of the unbounded one, so that it can leave
        the bound again.
        """
        if not self.architecture.learn_temperature:
            return torch.tensor(self.architecture.temperature, device=self.query.device)
        bounded = self.log_temperature.clamp(log(MIN_TEMPERATURE), log(MAX_TEMPERATURE))
        return (self.log_temperature + (bounded - self.log_temperature).detach()).exp()

    @classmethod
    def build(cls, architecture: Architecture, seed: int) -> TwoTowerModel:
        """Make an untrained model, in float32 and training mode; a projection is drawn with `seed`.

        Raises CourseError if the encoder is not found, or brings modules beyond pooling and normalisation.
        """
        transformer, pretrained_head = load_parts(model_folder(architecture.encoder))
        if any(type(module).__name__ != "Pooling" for module in pretrained_head):
            kinds = ", ".join(type(module).__name__ for module in pretrained_head)
            raise CourseError(
                f"encoder {architecture.encoder!r} has a head of its own ({kinds}), which the towers would lose; "
                "choose a plain encoder, or continue a training with TwoTowerModel.load."
            )
        head = _new_head(transformer.get_embedding_dimension(), architecture, seed)
        both = [(transformer, head), (transformer, head) if architecture.shared else copy.deepcopy((transformer, head))]
        return cls._assemble(both, architecture)

    @classmethod
    def _assemble(cls, parts: Sequence[tuple[nn.Module, nn.Sequential]], architecture: Architecture) -> TwoTowerModel:
        for transformer, _ in parts:
            _prepare(transformer, architecture)
        query = QueryTower(*parts[0], max_length=architecture.query_length)
        product = ProductTower(*parts[1], max_length=architecture.product_length)
        return cls(query, product, architecture).train()

    def save(self, folder: Path) -> None:
        """Write `folder`/query and `folder`/product, which `SentenceTransformer` loads, and `two_tower.json`.

        The folder appears whole or not at all. Raises CourseError if there is something in it already.
        """
        folder = Path(folder)
        if folder.is_dir() and any(folder.iterdir()):
            raise CourseError(f"{folder}: there is something in this folder; save the model to a new one.")
        with atomic_folder(folder) as staging:
            for name in TOWERS:
                getattr(self, name).save(staging / name)
            if self.architecture.shared:
                store_once(staging)
            describe(staging, architecture=asdict(self.architecture), temperature=float(self.temperature.detach()))

    @classmethod
    def load(cls, folder: Path) -> TwoTowerModel:
        """Read the model that `save` wrote to `folder`, on the CPU, in training mode.

        Raises CourseError if files are missing, cut short or changed, or do not fit the architecture they state.
        """
        folder = Path(folder)
        description = read_description(folder, {field.name for field in fields(Architecture)})
        architecture = Architecture(**description["architecture"])
        check_files(folder, description)
        parts = [_load_tower(folder / "query", architecture)]
        parts.append(parts[0] if architecture.shared else _load_tower(folder / "product", architecture))
        model = cls._assemble(parts, architecture)
        if architecture.learn_temperature:
            nn.init.constant_(model.log_temperature, log(description["temperature"]))
        return model


def truncate(vectors: Any, dimension: int) -> Any:
    """Cut vectors [..., D], a tensor or an array, to their first `dimension` components, again of length 1.

    After training with `losses.nested_loss` the short vectors search almost as well as the long ones, at a fraction of
    the memory (Matryoshka; Kusupati et al. 2022, arXiv:2205.13147). Raises CourseError if there are fewer components.
    """
    if not 1 <= dimension <= vectors.shape[-1]:
        raise CourseError(f"vectors of {vectors.shape[-1]} components cannot be cut to {dimension}.")
    head = vectors[..., :dimension]
    if isinstance(head, Tensor):
        return nn.functional.normalize(head, dim=-1)
    return head / np.maximum(np.linalg.norm(head, axis=-1, keepdims=True), 1e-12)


def chunks_by_length(tokens: Sequence[Sequence[int]], rows: int) -> tuple[list[int], list[list[int]]]:
    """Return the positions of the texts, longest first, and the same positions in chunks of `rows`."""
    if rows < 1:
        raise CourseError(f"rows_a_chunk must be at least 1, not {rows}.")
    order = sorted(range(len(tokens)), key=lambda at: -len(tokens[at]))
    return order, [order[start : start + rows] for start in range(0, len(order), rows)]


def _embed(transformer: nn.Module, head: nn.Sequential, tokens: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    device = next(transformer.parameters()).device
    input_ids, attention_mask = (torch.from_numpy(array).to(device) for array in pad(tokens, pad_id))
    features = transformer({"input_ids": input_ids, "attention_mask": attention_mask})
    # Pooled and projected in float32: that costs next to nothing, and bf16 would leave each vector three digits.
    with torch.autocast(device.type, enabled=False):
        features["token_embeddings"] = features["token_embeddings"].float()
        return nn.functional.normalize(head(features)["sentence_embedding"], dim=-1)


def _new_head(width: int, architecture: Architecture, seed: int) -> nn.Sequential:
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling

    modules = [Pooling(width, pooling_mode=architecture.pooling)]
    if architecture.projection is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            dense = Dense(width, architecture.projection, bias=False, activation_function=None)
            # Orthogonal rows or columns keep the encoder's cosines, exactly if nothing is cut off: training starts
            # from what the encoder knows.
            nn.init.orthogonal_(dense.linear.weight)
        modules.append(dense)
    return nn.Sequential(*modules)


def _prepare(transformer: nn.Module, architecture: Architecture) -> None:
    longest = getattr(transformer.config, "max_position_embeddings", None)
    wanted = max(architecture.query_length, architecture.product_length)
    if longest is not None and 0 < longest < wanted:
        raise CourseError(f"the encoder reads at most {longest} tokens, not {wanted}; shorten the texts.")
    for part in transformer.modules():
        if isinstance(part, nn.Dropout):
            part.p = architecture.dropout
    transformer.auto_model.get_input_embeddings().requires_grad_(architecture.train_token_embeddings)
    if architecture.gradient_checkpointing:
        transformer.auto_model.activation_checkpointing_enable({"use_reentrant": False})


def _leave_out_product(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}product.")]:
        del state[key]


def _repeat_query_as_product(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}query.")]:
        state[f"{prefix}product.{key.removeprefix(f'{prefix}query.')}"] = state[key]


def _load_tower(folder: Path, architecture: Architecture) -> tuple[nn.Module, nn.Sequential]:
    transformer, head = load_parts(folder)
    found = [
        (type(module).__name__, getattr(module, "out_features", None) or getattr(module, "pooling_mode", None))
        for module in head
    ]
    projection = [] if architecture.projection is None else [("Dense", architecture.projection)]
    if found != [("Pooling", architecture.pooling), *projection]:
        raise CourseError(f"{folder}: a tower of another architecture than {DESCRIPTION} states; train it again.")
    return transformer, head
