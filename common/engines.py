"""Run a text model in torch or in OpenVINO, converted directly from the torch model without an exporter package.

Both take a whole `SentenceTransformer` (transformer, pooling, dense layers, normalisation), so what was trained is what
runs. An engine has `dimension` and `embed(texts, advance) -> float32 [N, D]`, which calls advance(n) after every n
texts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from common.artifacts import fingerprint
from common.atomic import atomic_folder, read_json, write_json
from common.devices import Placement
from common.errors import CourseError

CONVERSION = 1  # raise it when the conversion changes: models converted before are then not used
TOKENS_PER_BATCH = 4096  # measured flat between 2,048 and 8,192 on two cores; more only costs memory
TEXTS_PER_BATCH = {"cpu": 32, "cuda": 256, "mps": 64}
MIN_COSINE = 0.999


class Engine(Protocol):
    dimension: int

    def embed(self, texts: Sequence[str], advance: Callable[[int], None]) -> np.ndarray: ...


class ConversionRefused(Exception):
    """Refuse to convert a model, or a conversion that disagrees with it. The message is the reason."""


class TorchEngine:
    """Run any SentenceTransformer in the precision of its weights."""

    def __init__(self, model: Any, device: str) -> None:
        self.model = model
        self.dimension = int(model.get_embedding_dimension())
        self.batch_size = TEXTS_PER_BATCH.get(device, 32)

    def embed(self, texts: Sequence[str], advance: Callable[[int], None]) -> np.ndarray:
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            vectors[batch] = self.model.encode(
                [texts[at] for at in batch], batch_size=len(batch), normalize_embeddings=True, show_progress_bar=False
            )
            advance(len(batch))
        return vectors


class OpenVinoEngine:
    """Run a converted model on the CPU, in batches of about equally many tokens, sorted by length."""

    def __init__(self, folder: Path, precision: str, max_length: int) -> None:
        """Load what `converted_model` returned. precision: "float32" or "bfloat16"; max_length: in tokens."""
        recipe = read_json(folder / "recipe.json")
        self.dimension = recipe["dimension"]
        self._pad_id, self._prompt = recipe["pad_id"], recipe["prompt"]
        definition = (folder / "tokenizer.json").read_text(encoding="utf-8")
        self._tokenizer = _tokenizer(definition, max_length, recipe)
        self._request = _compile(_core().read_model(folder / "model.xml"), precision).create_infer_request()

    def embed(self, texts: Sequence[str], advance: Callable[[int], None]) -> np.ndarray:
        if self._prompt:
            texts = [self._prompt + text for text in texts]
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        vectors = np.empty((len(tokens), self.dimension), dtype=np.float32)
        for batch in batches_by_length([len(ids) for ids in tokens], TOKENS_PER_BATCH):
            input_ids, attention_mask = pad([tokens[at] for at in batch], self._pad_id)
            vectors[batch] = _infer(self._request, input_ids, attention_mask)
            advance(len(batch))
        return vectors


def batches_by_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield positions in descending order of length, in batches of at most `budget` tokens, padding included. A text
    longer than that is a batch of its own."""
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def pad(tokens: Sequence[Sequence[int]], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Return input_ids and attention_mask, int64 [B, longest], padded on the right."""
    shape = (len(tokens), max(map(len, tokens)))
    input_ids, attention_mask = np.full(shape, pad_id, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, ids in enumerate(tokens):
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
    return input_ids, attention_mask


def load_sentence_transformer(folder: Path, placement: Placement, max_length: int | None = None) -> Any:
    """Load the model of a folder on the device and in the precision of `placement`. Reads safetensors only and runs no
    code of the folder."""
    import torch
    from sentence_transformers import SentenceTransformer

    try:
        with no_progress_bar():
            model = SentenceTransformer(
                str(folder),
                device=placement.device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": torch.float32, "use_safetensors": True},
            ).eval()
    except Exception as error:  # many libraries fail here, each in its own way
        raise CourseError(f"{folder}: SentenceTransformer cannot load this model: {error}") from error
    model = model.to(getattr(torch, placement.precision))  # after loading, so that dense layers are cast as well
    if max_length is not None:
        model.max_seq_length = max_length
    return model


def converted_model(folder: Path, digest: str, placement: Placement, max_length: int, cache: Path) -> Path:
    """Return the folder of a model's OpenVINO form, converted at first use (about 5 s for MiniLM) and kept in `cache`.

    digest: of the content of `folder`. Raises ConversionRefused if the model cannot be converted, or if its vectors in
    this precision do not agree with torch in float32 (cosine at least 0.999) on batches of several shapes.
    """
    from importlib.metadata import version

    key = fingerprint([digest, placement.precision, version("openvino"), version("torch"), CONVERSION])
    target = cache / f"openvino-{key}"
    if target.is_dir():
        return target
    model = load_sentence_transformer(folder, Placement("cpu", "torch", "float32", "conversion"))
    try:
        recipe = _recipe(model)
        converted = _convert(model)
        _check_agreement(model, _compile(converted, placement.precision), max_length)
    except ConversionRefused:
        raise
    except Exception as error:  # converters fail in many ways; torch then runs the model, and the reason is shown
        raise ConversionRefused(f"OpenVINO cannot convert the model ({type(error).__name__})") from error
    import openvino

    with atomic_folder(target) as staging:
        openvino.save_model(converted, staging / "model.xml", compress_to_fp16=False)
        model.tokenizer.backend_tokenizer.save(str(staging / "tokenizer.json"))
        write_json(staging / "recipe.json", recipe)
    return target


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Hide the progress bar of loading: it takes a moment, and the bar only clutters a notebook."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _recipe(model: Any) -> dict[str, Any]:
    """Return what the tokeniser needs beyond its file. Raises ConversionRefused if `OpenVinoEngine` would treat texts
    otherwise than the model does."""
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise ConversionRefused("the model has no fast tokeniser")
    if getattr(tokenizer, "padding_side", "right") != "right":
        raise ConversionRefused("the model pads on the left")
    prompt = model.prompts.get(model.default_prompt_name) if model.default_prompt_name else None
    if prompt and not all(getattr(module, "include_prompt", True) for module in model):
        raise ConversionRefused("the model leaves its prompt out of the pooling")
    recipe = {
        "dimension": int(model.get_embedding_dimension()),
        "pad_id": int(tokenizer.pad_token_id or 0),
        "prompt": prompt or "",
        "truncation_side": tokenizer.truncation_side,
    }
    _check_tokens(model, recipe)
    return recipe


def _check_tokens(model: Any, recipe: dict[str, Any]) -> None:
    """Refuse a model that prepares its texts in a way that no tokeniser file describes."""
    samples = ["A 5 V Adapter, MIXED case", "é ß 電池 🔋", "long words " * 2000]
    features = model.preprocess(samples, prompt=recipe["prompt"] or None)
    wanted = [
        ids[mask.bool()].tolist() for ids, mask in zip(features["input_ids"], features["attention_mask"], strict=True)
    ]
    tokenizer = _tokenizer(model.tokenizer.backend_tokenizer.to_str(), model.max_seq_length, recipe)
    found = [encoding.ids for encoding in tokenizer.encode_batch([recipe["prompt"] + text for text in samples])]
    if found != wanted:
        raise ConversionRefused("the model prepares its texts in its own way")


def _tokenizer(definition: str, max_length: int, recipe: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(definition)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, direction=recipe["truncation_side"])
    return tokenizer


def _convert(model: Any) -> Any:
    import openvino
    import torch

    class Pipeline(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model({"input_ids": input_ids, "attention_mask": attention_mask})["sentence_embedding"]

    example = {name: torch.ones(2, 16, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    free = {axis: torch.export.Dim.AUTO for axis in (0, 1)}
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # about the exporter's internals
        program = torch.export.export(Pipeline(), (), kwargs=example, dynamic_shapes={name: free for name in example})
        return openvino.convert_model(program)


def _check_agreement(model: Any, compiled: Any, max_length: int) -> None:
    import torch

    generator = np.random.default_rng(0)
    request = compiled.create_infer_request()
    for rows, length in ((1, 3), (5, max(4, max_length // 4)), (2, max_length)):
        lengths = generator.integers(2, length + 1, rows)
        lengths[0] = length
        vocabulary = len(model.tokenizer)
        tokens = [generator.integers(vocabulary // 2, vocabulary, size).tolist() for size in lengths]
        input_ids, attention_mask = pad(tokens, int(model.tokenizer.pad_token_id or 0))
        features = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}
        with torch.inference_mode():
            wanted = model(features)["sentence_embedding"].numpy()
        found = _infer(request, input_ids, attention_mask)
        norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
        cosine = float(((wanted * found).sum(1) / norms).min())
        if not cosine >= MIN_COSINE:
            raise ConversionRefused(
                f"the converted model disagrees with torch (cosine {cosine:.4f} at {rows} x {length})"
            )


def _core() -> Any:
    import openvino

    return openvino.Core()


def _compile(model: Any, precision: str) -> Any:
    import openvino

    kind = {"float32": openvino.Type.f32, "bfloat16": openvino.Type.bf16}[precision]
    # One stream with all cores: two streams of one core each were no faster, and one query would wait twice as long.
    return _core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": kind, "PERFORMANCE_HINT": "LATENCY"})


def _infer(request: Any, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    return request.infer(inputs, share_inputs=True, share_outputs=True)[0]
