"""Measure products a second in stage 2, which trains the vision tower's LoRA: our step against a plain loop.

Ours keeps the features of the frozen text tower, reads the next batch of pictures while it computes one, takes 64
products a step and computes in half precision where the hardware does. The plain loop takes 16, reads their pictures
one by one, runs the text tower in every step, and computes in float32, on a GPU in float16.

Both start from the same weights and take turns on the same products, so that other load on the machine hits both. Both
read every picture anew, since each product is seen once. Loading does not count, nor does our single pass over all
texts, which a training makes once for all its epochs; the note says how long it took.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chapter03_multimodal import training_pictures
from chapter03_multimodal.clip import POCKET_CLIP
from chapter04_catalogue_reranker.batches import Batch, epoch_batches
from chapter04_catalogue_reranker.losses import listwise_loss
from chapter04_catalogue_reranker.model import CatalogueReranker
from chapter04_catalogue_reranker.prepare_data import PrepareDataConfig, RerankerData, make_tables
from chapter04_catalogue_reranker.train_config import TrainConfig, resolved
from chapter04_catalogue_reranker.training_setup import TrainingSetup
from common.artifacts import RunFolder
from common.catalogue import Catalogue, load_catalogue
from common.catalogue.images import open_image
from common.encoders import MINILM, packaged_minilm
from common.engines import no_progress_bar
from common.errors import CourseError
from common.prefetch import prefetch
from common.progress import tell
from common.training import clip_gradients, parameter_groups

BATCH, PLAIN_BATCH = 64, 16
ROUNDS = 3
STEPS = 5  # of ours in a round; the first of either loop is not timed
RATE = 2e-4
STAGE = 2
MATRIX_SIDE, MATRIX_TIMES = 8192, 30


def main(
    catalogue: Catalogue | None = None,
    *,
    towers: tuple[str, str] | None = None,
    batch: int = BATCH,
    plain_batch: int = PLAIN_BATCH,
    steps: int = STEPS,
) -> list[dict[str, Any]]:
    """Measure on training products of `catalogue`, by default the pocket shop, that have a text and a picture.

    towers: of texts and of pictures, as `TrainConfig` names them; None: the packaged ones, and on a GPU, real sizes
    with random weights, BERT base (the build of BGE base) and SigLIP ViT-B/16 at 256 pixels.

    Returns one row: name, ours, peer, unit, our_value and peer_value (products a second, medians over the rounds),
    ratio (median of the rounds' ratios), note; on a GPU also matrix_tflops (measured in bfloat16), gflop (of our step,
    a product), and our_share and peer_share (of that rate, counting in both what our step computes). Raises
    CourseError if there are too few products.
    """
    catalogue = catalogue if catalogue is not None else load_catalogue("pocket_shop")
    with tempfile.TemporaryDirectory() as folder:
        text, vision = towers or (
            full_size_towers(Path(folder)) if torch.cuda.is_available() else (MINILM, POCKET_CLIP)
        )
        wanted = ROUNDS * steps * batch
        config = resolved(TrainConfig(text=text, vision=vision, products=wanted, contrastive=0.0, queue=0))
        data = complete_products(catalogue, wanted)
        with pictures_not_kept():
            ours = OurStep(config, data)
        plain = PlainStep(config, ours)
    slices = [ours.rows[at::ROUNDS] for at in range(ROUNDS)]
    rates = in_turn({"ours": (ours, batch), "plain": (plain, plain_batch)}, slices)
    row = {
        "name": "reranker-training",
        "ours": f"stage-2 step, batch {batch}, {ours.precision} on {ours.device}",
        "peer": f"plain loop, batch {plain_batch}, {plain.precision}",
        "unit": "products/s",
        "our_value": round(float(np.median(rates["ours"])), 1),
        "peer_value": round(float(np.median(rates["plain"])), 1),
        "ratio": round(float(np.median(np.divide(rates["ours"], rates["plain"]))), 2),
        "note": f"{wanted:,} products of {catalogue.source}; {ours.parameters:,} parameters; the kept text features "
        f"took {ours.seconds_to_keep:.1f} s once",
    }
    return [row | (_shares(ours, slices[0][:batch], row) if ours.device == "cuda" else {})]


class OurStep:
    """Take the steps of `chapter04_catalogue_reranker.train`, with its own functions."""

    def __init__(self, config: TrainConfig, data: RerankerData) -> None:
        self.setup = TrainingSetup.of(config, data)
        self.device, self.precision = self.setup.placement.device, self.setup.placement.precision
        self.parameters = sum(weight.numel() for weight in self.setup.model.parameters())
        started = _now(self.device)
        self.setup.start_stage(STAGE)
        self.seconds_to_keep = _now(self.device) - started
        self.rows = self.setup.examples.train
        self.optimizer = _optimizer(self.setup.model)

    def train(self, rows: np.ndarray, size: int) -> list[tuple[int, float]]:
        """Take a step for every `size` of the products `rows`; return each step's number of products and end time."""
        ends = []
        self.setup.model.train()
        batches = epoch_batches(self.setup.examples.lists, rows, size, np.random.default_rng(0))
        for batch, pixels in prefetch(batches, self.setup.pixels):
            self.optimizer.zero_grad()
            self.loss(batch, pixels).backward()
            _finish(self.setup.model, self.optimizer)
            ends.append((len(batch.rows), _now(self.device)))
        return ends

    def loss(self, batch: Batch, pixels: Tensor) -> Tensor:
        """Return the loss of a batch and its pictures."""
        return sum(self.setup.losses(batch, pixels).values())


class PlainStep:
    """Take the same steps in a plain loop."""

    def __init__(self, config: TrainConfig, ours: OurStep) -> None:
        """Take the products of `ours`, and build a model like the one that it started with."""
        self.model = CatalogueReranker.build(config.architecture(), config.seed).to(ours.device)
        self.model.train_parts(STAGE)
        self.products, self.paths = ours.setup.examples.products, ours.setup.examples.paths
        self.lists, self.files, self.device = ours.setup.examples.lists, ours.setup.inputs.files, ours.device
        self.half = ours.device == "cuda"
        self.precision = "float16" if self.half else "float32"
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.half)
        self.optimizer = _optimizer(self.model)

    def train(self, rows: np.ndarray, size: int) -> list[tuple[int, float]]:
        """Train like `OurStep.train`."""
        ends = []
        self.model.train()
        for batch in epoch_batches(self.lists, rows, size, np.random.default_rng(0)):
            self.optimizer.zero_grad()
            self.scaler.scale(self.loss(batch)).backward()
            self.scaler.unscale_(self.optimizer)
            _finish(self.model, self.optimizer, self.scaler)
            ends.append((len(batch.rows), _now(self.device)))
        return ends

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch, with all features computed from texts and files."""
        model, shape = self.model, self.model.architecture
        pixels = torch.stack([model.vision_tower.preprocess(open_image(self.files[row])) for row in batch.rows])
        texts = model.text_tower.tokenise([self.products["text"][row] for row in batch.rows], shape.product_length)
        paths = model.text_tower.tokenise([self.paths[at] for at in batch.columns], shape.category_length)
        with torch.autocast(self.device, torch.float16, enabled=self.half):
            image = model.image_features(pixels.to(self.device))
            text, path = model.text_features(texts), model.text_features(paths)
        there = torch.ones(len(batch.rows), dtype=torch.bool, device=self.device)
        candidates, listed, truth = (
            torch.from_numpy(array).to(self.device) for array in (batch.candidates, batch.listed, batch.truth)
        )
        products = model.embed_products(text, image, there, there).fused
        scores = model.scale * (products @ model.embed_categories(path).T).gather(1, candidates)
        return listwise_loss(scores, listed, truth)


def in_turn(loops: dict[str, tuple[Any, int]], slices: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """Return each loop's products a second in each round; the loops take turns to go first.

    loops: by name, an object with `train(rows, size)`, and the size of its batches. slices: the products of each round.
    Raises `CourseError` for a slice of one step.
    """
    rates: dict[str, list[float]] = {name: [] for name in loops}
    order = list(loops)
    for number, rows in enumerate(slices):
        for name in order if number % 2 == 0 else order[::-1]:
            loop, size = loops[name]
            ends = loop.train(rows, size)
            if len(ends) < 2:
                raise CourseError(f"bench reranker-training: {len(rows)} products make one step of {size}; give more.")
            rates[name].append(sum(count for count, _ in ends[1:]) / (ends[-1][1] - ends[0][1]))
            tell(f"round {number + 1}, {name}: {rates[name][-1]:.1f} products/s")
    return rates


def complete_products(catalogue: Catalogue, wanted: int) -> RerankerData:
    """Return `wanted` training products, and one to validate with, that have a text, a picture and a true path."""
    products, candidates, paths, _ = make_tables(catalogue, PrepareDataConfig(widen=0), {})
    complete = products[(products["text"] != "") & products["image"].notna() & products["true_path"].notna()]
    train, val = complete[complete["split"] == "train"], complete[complete["split"] == "val"]
    if len(train) < wanted or val.empty:
        raise CourseError(
            f"bench reranker-training: needs {wanted:,} training products with a text, a picture and a true path, and "
            f"one to validate with; {catalogue.source} has {len(train):,} and {len(val):,}."
        )
    chosen = [*train["product_id"].sample(wanted, random_state=0), val["product_id"].iloc[0]]
    products = products[products["product_id"].isin(chosen)].reset_index(drop=True)
    return RerankerData(RunFolder(Path(), {"run": "benchmark"}), catalogue, products, candidates, paths)


@contextmanager
def pictures_not_kept() -> Iterator[None]:
    """Make pictures be read when their batch comes, as if they did not fit into memory."""
    before = training_pictures.IN_MEMORY
    training_pictures.IN_MEMORY = 0
    try:
        yield
    finally:
        training_pictures.IN_MEMORY = before


def full_size_towers(folder: Path) -> tuple[str, str]:
    """Write towers of texts and pictures, of real sizes with random weights; return their folders."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import (
        AutoTokenizer,
        BertConfig,
        BertModel,
        SiglipImageProcessor,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    with no_progress_bar():
        BertModel(BertConfig()).save_pretrained(folder / "bert")
        AutoTokenizer.from_pretrained(packaged_minilm()).save_pretrained(folder / "bert")  # BERT's words, as BGE's
        text = SentenceTransformer(modules=[Transformer(str(folder / "bert")), Pooling(768)], device="cpu")
        text.save_pretrained(str(folder / "text"))
        sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
        SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=256, patch_size=16)).save_pretrained(folder / "vision")
        SiglipImageProcessor(size={"height": 256, "width": 256}).save_pretrained(folder / "vision")
    return str(folder / "text"), str(folder / "vision")


def matrix_rate(device: str, side: int = MATRIX_SIDE, times: int = MATRIX_TIMES) -> float:
    """Return the floating-point operations a second of products of two bfloat16 matrices [side, side]: roughly the
    peak of the chip."""
    one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        one @ other
    started = _now(device)
    for _ in range(times):
        one @ other
    return 2 * side**3 * times / (_now(device) - started)


def flops_of_step(ours: OurStep, rows: np.ndarray) -> int:
    """Count the floating-point operations of the matrix products in one step of ours, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    [batch] = epoch_batches(ours.setup.examples.lists, rows, len(rows), np.random.default_rng(0))
    pixels = ours.setup.pixels(batch)
    with FlopCounterMode(display=False) as counter:
        ours.loss(batch, pixels).backward()
    ours.optimizer.zero_grad()
    return counter.get_total_flops()


def _shares(ours: OurStep, rows: np.ndarray, row: dict[str, Any]) -> dict[str, float]:
    flops, rate = flops_of_step(ours, rows) / len(rows), matrix_rate(ours.device)
    return {
        "matrix_tflops": round(rate / 1e12, 1),
        "gflop": round(flops / 1e9, 2),
        "our_share": round(row["our_value"] * flops / rate, 4),
        "peer_share": round(row["peer_value"] * flops / rate, 4),
    }


def _optimizer(model: CatalogueReranker) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameter_groups(model, 0.01, no_decay="lora_"), lr=RATE, fused=True)


def _finish(model: CatalogueReranker, optimizer: torch.optim.Optimizer, scaler: Any = None) -> None:
    clip_gradients(model.parameters())
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
