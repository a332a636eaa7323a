"""Run a cross-encoder over many pairs: by OpenVINO on x86 CPUs, by torch elsewhere, in bf16 where it is native.

Measured on two busy cores with AVX512-BF16 (MiniLM, 61 tokens a pair, side by side in three rounds): bf16 weights in
torch score 1.8 to 4.4 times as many pairs a second as fp32, OpenVINO in bf16 4 to 17 times as many; the logits differ
by 0.001.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from common.devices import choose_placement
from common.progress import progress

if TYPE_CHECKING:
    from sentence_transformers.cross_encoder import CrossEncoder

Pair = tuple[str, str]
REMEMBERED = 1_000_000  # pairs: the memory of a service that runs for weeks must stay bounded
BATCH_SIZE = {"cpu": 32, "cuda": 256, "mps": 64}


class PairScorer:
    """Score (query, product text) pairs by a sentence-transformers CrossEncoder with one output.

    engine: "auto", "openvino" or "torch". `reason` says which engine runs and why. The model itself is not changed.
    """

    def __init__(self, model: CrossEncoder, engine: str = "auto") -> None:
        placement = choose_placement(engine)
        self.reason = f"{placement.engine}, {placement.precision}: {placement.reason}"
        self._batch_size = BATCH_SIZE[placement.device]
        self._known: dict[Pair, float] = {}
        if placement.engine == "openvino":
            self._logits = _openvino_logits(model, placement.precision)
        else:
            self._logits = _torch_logits(model, placement.device, placement.precision)

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        """Return the logits [N] float32 of N pairs, without a sigmoid. A pair seen before is not scored again."""
        known = self._known
        # Sorted by length over everything: a batch is as slow as its longest pair.
        unique = sorted(set(pairs) - known.keys(), key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
        if len(known) + len(unique) > REMEMBERED:
            known.clear()
            unique = sorted(set(pairs), key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
        with progress(total=len(unique), desc="reranking", unit="pair", leave=False) as bar:
            for start in range(0, len(unique), self._batch_size):
                batch = unique[start : start + self._batch_size]
                known.update(zip(batch, self._logits(batch), strict=True))
                bar.update(len(batch))
        return np.array([known[pair] for pair in pairs], dtype=np.float32)


def _torch_logits(model: CrossEncoder, device: str, precision: str) -> Callable[[list[Pair]], np.ndarray]:
    import torch

    model = copy.deepcopy(model).to(device, getattr(torch, precision)).eval()

    def logits(pairs: list[Pair]) -> np.ndarray:
        return model.predict(
            pairs, batch_size=len(pairs), activation_fn=torch.nn.Identity(), show_progress_bar=False
        ).reshape(-1)

    return logits


def _openvino_logits(model: CrossEncoder, precision: str) -> Callable[[list[Pair]], np.ndarray]:
    """Convert the model from torch, in memory (about 5 s for MiniLM)."""
    import openvino
    import torch

    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    features = model.preprocess([("query", "product")])
    names = [name for name in model.tokenizer.model_input_names if name in features]

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return self.model(dict(zip(names, inputs, strict=True)))["scores"]

    example = tuple(torch.ones(2, 16, dtype=torch.long) for _ in names)
    free = {axis: torch.export.Dim.AUTO for axis in (0, 1)}
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # about the exporter's own internals
        program = torch.export.export(Logits(), example, dynamic_shapes={"inputs": (free,) * len(names)})
        converted = openvino.convert_model(program)
    kind = {"float32": openvino.Type.f32, "bfloat16": openvino.Type.bf16}[precision]
    settings = {"INFERENCE_PRECISION_HINT": kind, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(converted, "CPU", settings).create_infer_request()

    def logits(pairs: list[Pair]) -> np.ndarray:
        features = model.preprocess(pairs)
        return np.array(request.infer([features[name].numpy() for name in names])[0]).reshape(-1)

    return logits
