"""Measure the memory of a training step: the cached loss on 2,048 pairs beside the plain loss on a quarter of them.

Each step runs on the CPU in a process of its own. Its largest resident memory counts: interpreter, libraries, model,
optimizer and activations.
"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from typing import Any

from common.catalogue import Catalogue, load_catalogue
from common.devices import native_bfloat16
from common.encoders import MINILM
from common.memory import peak_memory
from common.progress import tell
from course.benchmarks.pairs import Pairs, judged_pairs

CACHED = 2048
PLAIN = (256, 512)
GIGABYTE = 1e9


def main(
    catalogue: Catalogue | None = None,
    *,
    encoder: str = MINILM,
    cached: int = CACHED,
    plain: tuple[int, int] = PLAIN,
) -> list[dict[str, Any]]:
    """Measure on judged training queries of `catalogue`, by default the pocket shop; about three minutes on two cores.

    Returns one row: name, ours, peer, unit (GB, 10^9 bytes, at the peak: less is better), our_value (cached, `cached`
    pairs), peer_value (plain, the larger of the `plain` batches), ratio (ours divided by the peer's), gb_before (of
    our process, when the model is loaded), mb_a_pair (growth of the plain step from one plain batch to the other),
    our_seconds and peer_seconds of the step, note.
    """
    catalogue = catalogue if catalogue is not None else load_catalogue("pocket_shop")
    pairs = judged_pairs(catalogue, cached, batch_size=cached)
    measured = {}
    for size in (*plain, cached):
        batch = Pairs(pairs.queries[:size], pairs.products[:size])
        measured[size] = step_in_a_process(batch, encoder, size == cached)
        tell(f"{size:,} pairs: {measured[size]['peak'] / GIGABYTE:.2f} GB, {measured[size]['seconds']:.0f} s")
    ours, peer = measured[cached], measured[plain[1]]
    growth = (peer["peak"] - measured[plain[0]]["peak"]) / (plain[1] - plain[0])
    return [
        {
            "name": "cached-loss",
            "ours": f"cached loss, {cached:,} pairs",
            "peer": f"plain loss, {plain[1]:,} pairs",
            "unit": "GB peak",
            "our_value": round(ours["peak"] / GIGABYTE, 2),
            "peer_value": round(peer["peak"] / GIGABYTE, 2),
            "ratio": round(ours["peak"] / peer["peak"], 2),
            "gb_before": round(ours["before"] / GIGABYTE, 2),
            "mb_a_pair": round(growth / 1e6, 2),
            "our_seconds": round(ours["seconds"], 1),
            "peer_seconds": round(peer["seconds"], 1),
            "note": f"less is better; {'bfloat16 autocast' if native_bfloat16() else 'float32'} on the CPU",
        }
    ]


def step_in_a_process(batch: Pairs, encoder: str, cached: bool) -> dict[str, float]:
    """Take one step on all of `batch` in a fresh process: before and peak (bytes resident), seconds, loss."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(take_step, batch, encoder, cached).result()


def take_step(batch: Pairs, encoder: str, cached: bool) -> dict[str, float]:
    """Take one step in this process: both towers, the in-batch loss, its gradient, and AdamW's step."""
    import torch

    from chapter02_two_tower.cached_loss import cached_backward
    from chapter02_two_tower.losses import in_batch_negatives_loss
    from chapter02_two_tower.model import Architecture, TwoTowerModel

    model = TwoTowerModel.build(Architecture(encoder=encoder, train_token_embeddings=True), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)
    before, started = peak_memory(), time.perf_counter()
    parts = [
        (model.query, model.query.tokenise(batch.queries)),
        (model.product, model.product.tokenise(batch.products)),
    ]
    own = torch.arange(len(batch.queries))

    def loss_of(vectors: list[torch.Tensor]) -> torch.Tensor:
        return in_batch_negatives_loss(*vectors, own, temperature=model.temperature)

    with torch.autocast("cpu", torch.bfloat16) if native_bfloat16() else nullcontext():
        loss = cached_backward(parts, loss_of) if cached else loss_of([tower(tokens) for tower, tokens in parts])
    if not cached:
        loss.backward()
    optimizer.step()
    seconds = time.perf_counter() - started
    return {"before": float(before), "peak": float(peak_memory()), "seconds": seconds, "loss": float(loss.detach())}
