"""Train one model in several processes: each encodes its share of a batch, and all take the same step.

    accelerate launch --multi_gpu --num_processes 2 -m chapter03_multimodal.train

All processes hold the same weights and draw the same batches, so only vectors and gradients are exchanged:

1. each process encodes its `share` of the rows;
2. `gather` gives all vectors to all of them: each computes the loss of the whole batch, with all of its negatives;
3. after the backward pass each has a part of the encoders' gradient, and `average_gradients` makes it whole.

A weight that the loss uses directly, such as a temperature, has its whole gradient in every process from the start.
Both come out right because `gather` sends back each gradient times the number of processes, and the average divides by
it again. torch's DistributedDataParallel averages as well, but expects one call of one module a step; here are two
towers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from common.progress import tell

if TYPE_CHECKING:
    from accelerate import Accelerator

Result = TypeVar("Result")

SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Environment variables with the number of processes, as torch's launcher and three kinds of MPI set them."""
MAX_WAIT = timedelta(hours=3)
"""How long the others wait while the main process mines or validates; torch's own limit is 10 minutes on a GPU."""


@dataclass(frozen=True)
class Processes:
    """Represent the processes of one training, seen from one of them: number `rank` of `count`. Without an accelerator
    there is one only, and every method leaves its input as it is."""

    rank: int = 0
    count: int = 1
    accelerator: Accelerator | None = None

    @classmethod
    def launched(cls) -> Processes:
        """Return the processes that `accelerate launch` started, or this one alone. Call it before anything is put on a
        GPU: each process gets its own."""
        if max(int(os.environ.get(name, "1")) for name in SIZES) < 2:
            if os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_PORT" in os.environ:
                tell("train: accelerate --cpu started one process for lack of MPI; --multi_gpu starts several")
            return ALONE
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        patience = InitProcessGroupKwargs(timeout=MAX_WAIT)
        accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[patience])
        return cls(accelerator.process_index, accelerator.num_processes, accelerator)

    @property
    def is_main(self) -> bool:
        """Return whether this process is the one that writes."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """Return the rows of a batch that this process encodes; shares differ by one row at most."""
        return slice(rows * self.rank // self.count, rows * (self.rank + 1) // self.count)

    def gather(self, own: Tensor, rows: int) -> Tensor:
        """Return all vectors [rows, D], of which `own` are this process's `share`.

        Gradients flow back through float32 vectors; what needs none, such as pixels, may be of another type. Every
        process must compute the same loss from them, and then call `average_gradients` for all weights.
        """
        return own if self.count == 1 else _Gathered.apply(own, self, rows)

    def average_gradients(self, weights: Iterable[torch.nn.Parameter]) -> None:
        """Replace the gradient of each weight by the mean over the processes, which must all pass the same weights. A
        weight that no process has a gradient for keeps none, so that no weight decay applies to it."""
        if self.count == 1:
            return
        weights = list(weights)
        here = torch.tensor([float(weight.grad is not None) for weight in weights], device=self.accelerator.device)
        anywhere = self.sum(here).tolist()
        weights = [weight for weight, processes in zip(weights, anywhere, strict=True) if processes]
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        if not weights:
            return
        # In one message: hundreds of small ones would cost more time than their bytes.
        mean = self.sum(torch.cat([gradient.flatten() for gradient in gradients])) / self.count
        for weight, part in zip(weights, mean.split([weight.numel() for weight in weights]), strict=True):
            weight.grad = part.view_as(weight)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over the processes, to the same bits in all of them."""
        return tensor if self.count == 1 else self.accelerator.reduce(tensor, reduction="sum")

    def from_main(self, make: Callable[[], Result]) -> Result:
        """Call `make` on the main process and return its result in all of them. A validation figure that differed in
        its last bit could make one process stop early while the others wait for it."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([make() if self.is_main else None])[0]

    def wait(self) -> None:
        """Wait until all processes have come to this point."""
        if self.count > 1:
            self.accelerator.wait_for_everyone()


ALONE = Processes()


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own: Tensor, processes: Processes, rows: int) -> Tensor:
        ctx.share, ctx.count = processes.share(rows), processes.count
        vectors = own.new_zeros(rows, *own.shape[1:])
        vectors[ctx.share] = own
        return processes.sum(vectors)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.share] * ctx.count, None, None
