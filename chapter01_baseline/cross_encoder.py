"""Build, save and load a cross-encoder that starts from what a sentence encoder knows.

The usual head, a new linear layer on the first token, starts from nothing and needs far more judged pairs than a small
shop has. With our head query and product still attend to each other in every layer, but the score is the cosine between
the mean of the query's tokens and the mean of the product's: before any training it ranks much like the sentence
encoder, and training only has to improve on that. (ColBERT, Khattab and Zaharia 2020, compares token vectors of texts
that were read apart; this compares mean vectors of texts that were read together.)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from sentence_transformers.base.modules import Module, Transformer

from common.devices import choose_placement
from common.encoders import MINILM, packaged_minilm

if TYPE_CHECKING:
    from sentence_transformers.cross_encoder import CrossEncoder

_ENCODER = "encoder"


class SegmentCosine(Module):
    """Compute the score `scale` * cosine(mean of the query's tokens, mean of the product's); ends a CrossEncoder.

    Reads `token_embeddings` [B, T, D], `token_type_ids` [B, T] (0 query, 1 product) and `attention_mask` [B, T];
    writes `scores` [B, 1]. scale is 1 / temperature: 20 means 0.05.
    """

    config_keys = ("scale",)

    def __init__(self, scale: float = 20.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, features: dict[str, torch.Tensor], **_: object) -> dict[str, torch.Tensor]:
        """Add `scores` to the features."""
        segments, here = features["token_type_ids"], features["attention_mask"].bool()
        query = _mean(features["token_embeddings"], here & (segments == 0))
        product = _mean(features["token_embeddings"], here & (segments == 1))
        features["scores"] = self.scale * torch.nn.functional.cosine_similarity(query, product, dim=-1).unsqueeze(1)
        return features

    def save(self, output_path: str, *args: object, **kwargs: object) -> None:
        """Write the scale as JSON."""
        self.save_config(output_path)


def _mean(vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean [B, D] of the masked tokens of vectors [B, T, D]; zeros where there are none."""
    mask = mask.unsqueeze(-1).to(vectors.dtype)
    return (vectors * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def new_cross_encoder(model: str, *, max_length: int, seed: int) -> CrossEncoder:
    """Return a cross-encoder with one output: our head on the packaged MiniLM, or a pretrained one by name or folder.

    seed: of the output layer, if the pretrained one has none of its own.
    """
    from sentence_transformers.cross_encoder import CrossEncoder
    from transformers import set_seed

    set_seed(seed)
    if model == MINILM:
        return from_sentence_encoder(packaged_minilm(), max_length=max_length)
    with _quiet():
        return CrossEncoder(model, num_labels=1, max_length=max_length, device=choose_placement("torch").device)


def from_sentence_encoder(folder: Path, *, max_length: int) -> CrossEncoder:
    """Return a CrossEncoder with a `SegmentCosine` head on the sentence encoder in `folder`, untrained, in float32.

    max_length: tokens of query and product text together. The token embeddings stay frozen: a few thousand pairs touch
    too few of them, and training is faster.
    """
    model = _assemble(folder, max_length)
    embeddings = model[0].auto_model.embeddings
    with torch.no_grad():
        # A sentence encoder has only ever read segment 0; the second must not look foreign to it.
        embeddings.token_type_embeddings.weight[1] = embeddings.token_type_embeddings.weight[0]
    embeddings.requires_grad_(False)
    return model


def save_cross_encoder(model: CrossEncoder, folder: Path) -> None:
    """Save `model` for `load_cross_encoder`: one with our head as its encoder, any other as the library does."""
    with _quiet():
        if isinstance(model[-1], SegmentCosine):
            # The library loads a module of ours by name only if it may run code from the folder, which we never allow.
            (folder / _ENCODER).mkdir(parents=True)
            model[0].save(str(folder / _ENCODER))
        else:
            model.save_pretrained(str(folder), create_model_card=False)


def load_cross_encoder(folder: Path, *, max_length: int) -> CrossEncoder:
    """Load what `save_cross_encoder` wrote, or any folder that `CrossEncoder(folder)` loads."""
    from sentence_transformers.cross_encoder import CrossEncoder

    if (Path(folder) / _ENCODER).is_dir():
        return _assemble(Path(folder) / _ENCODER, max_length)
    device = choose_placement("torch").device
    with _quiet():
        return CrossEncoder(str(folder), num_labels=1, max_length=max_length, device=device, local_files_only=True)


def _assemble(folder: Path, max_length: int) -> CrossEncoder:
    from sentence_transformers.cross_encoder import CrossEncoder

    with _quiet():
        encoder = Transformer(str(folder), max_seq_length=max_length, model_kwargs={"dtype": torch.float32})
    for part in encoder.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0  # a few thousand pairs, each seen once, cannot be overfitted
    encoder.auto_model.config.num_labels = 1  # tells the library that there is one score a pair
    return CrossEncoder(modules=[encoder, SegmentCosine()], device=choose_placement("torch").device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the libraries say while they load and save; our own warnings and all errors pass."""
    from transformers.utils import logging as transformers_logging

    logger, before = logging.getLogger("sentence_transformers"), transformers_logging.get_verbosity()
    level = logger.level
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
