"""Train on large batches in little memory: the loss of the whole batch, the towers a chunk at a time (GradCache).

In-batch negatives get better with larger batches, but a backward pass through 2,048 texts at once needs the activations
of all of them. The loss depends on the vectors alone, so its gradient has two factors:

    dL/dweights = sum over chunks of  (dvectors/dweights)^T dL/dvectors

The second factor needs all vectors but no activations; the first needs the activations of one chunk at a time. The
price is one more forward pass. Source: Gao et al. 2021 (Scaling deep contrastive learning batch size under memory
limited setup, arXiv:2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from chapter02_two_tower.model import ROWS_A_CHUNK, Tower, chunks_by_length
from common.processes import ALONE, Processes

Tokens = Sequence[Sequence[int]]


def cached_backward(
    parts: Sequence[tuple[Tower, Tokens]],
    loss_of: Callable[[list[Tensor]], Tensor],
    *,
    rows_a_chunk: int = ROWS_A_CHUNK,
    processes: Processes = ALONE,
) -> Tensor:
    """Add the gradient of `loss_of([tower(tokens) for tower, tokens in parts])` to the weights; return the loss.

    Value and gradient equal the plain ones, dropout included, to float precision. Memory grows with `rows_a_chunk`, not
    with the batch.

    parts: towers, each with its N tokenised texts. loss_of: makes the scalar loss from their vectors, [N, D] each;
    other weights that it depends on, such as a temperature, get their gradient too. Under autocast the towers run in
    it, and the backward passes in float32. Returns the loss, detached.

    processes: all must have the same weights and call this with the same parts. Each embeds its share of the chunks,
    all see all vectors, and each ends with the gradient of the whole batch, as one process alone would (except for
    dropout, which each draws for itself). A weight of the loss alone, such as a temperature, is not averaged.
    """
    chunks = [
        (part, positions)
        for part, (_, tokens) in enumerate(parts)
        for positions in chunks_by_length(tokens, rows_a_chunk)[1]
    ]
    # The longest first and in turn, so that all processes have about as much to do.
    chunks = chunks[processes.rank :: processes.count]
    vectors, random_states = _embed_without_graph(parts, chunks)
    leaves = [processes.sum(part).requires_grad_() for part in vectors]  # zero where another embedded
    loss = loss_of(leaves)
    _backward(loss, None)
    for leaf in leaves:
        if leaf.grad is not None:
            leaf.grad *= processes.count  # for the average, as with `Processes.gather`
    _embed_with_graph(parts, chunks, leaves, random_states)
    processes.average_gradients(_trained_weights(parts))
    return loss.detach()


def _embed_without_graph(
    parts: Sequence[tuple[Tower, Tokens]], chunks: Sequence[tuple[int, list[int]]]
) -> tuple[list[Tensor], list[Any]]:
    """Return the vectors [N, D] of each part, zeros where no chunk is, and the random state before each chunk."""
    vectors = [torch.zeros(len(tokens), tower.dimension, device=tower.device) for tower, tokens in parts]
    random_states = []
    with torch.no_grad():
        for part, positions in chunks:
            tower, tokens = parts[part]
            random_states.append(_random_state(tower.device))
            vectors[part][positions] = tower.embed_chunk([tokens[at] for at in positions])
    return vectors, random_states


def _embed_with_graph(
    parts: Sequence[tuple[Tower, Tokens]],
    chunks: Sequence[tuple[int, list[int]]],
    leaves: Sequence[Tensor],
    random_states: Sequence[Any],
) -> None:
    """Embed every chunk again, with the same dropout, and send the gradient of its vectors back into the weights."""
    with torch.random.fork_rng(devices=_cuda_devices(parts)):
        for (part, positions), random_state in zip(chunks, random_states, strict=True):
            gradient = leaves[part].grad
            if gradient is None:
                continue  # the loss does not depend on this part
            tower, tokens = parts[part]
            _set_random_state(tower.device, random_state)
            _backward(tower.embed_chunk([tokens[at] for at in positions]), gradient[positions])


def _backward(output: Tensor, gradient: Tensor | None) -> None:
    if output.requires_grad:  # a tower may be frozen
        # Left on, autocast would compute a CPU's backward pass in half precision too.
        with torch.autocast(output.device.type, enabled=False):
            output.backward(gradient)


def _trained_weights(parts: Sequence[tuple[Tower, Tokens]]) -> list[torch.nn.Parameter]:
    """Return each trained weight once, though towers may share it, in the same order in every process."""
    weights = {id(weight): weight for tower, _ in parts for weight in tower.parameters() if weight.requires_grad}
    return list(weights.values())


def _cuda_devices(parts: Sequence[tuple[Tower, Tokens]]) -> list[torch.device]:
    return list({tower.device for tower, _ in parts if tower.device.type == "cuda"})


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
