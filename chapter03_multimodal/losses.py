"""The contrastive loss of CLIP, for a shop where one text can be right for several pictures.

CLIP takes every other text of a batch as a negative. Among photos from the whole web that is nearly true. In a shop,
variants share a text, products share a photo, and a title fits similar products. Such pairs are masked: they are
neither pushed apart nor pulled together. Khosla et al. 2020 ("Supervised Contrastive Learning", arXiv:2004.11362) and
Yang et al. 2022 ("UniCL", arXiv:2204.03610) pull them together as further positives. That needs labels that are
certain; a shortened text is not certain to describe another picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from chapter02_two_tower.losses import in_batch_negatives_loss
from common.processes import ALONE, Processes

if TYPE_CHECKING:
    from chapter03_multimodal.training_inputs import ReadyBatch
    from common.devices import Placement


def clip_loss(texts: Tensor, images: Tensor, known: Tensor, *, logit_scale: Tensor | float) -> Tensor:
    """Compute the loss of a batch: each text picks its picture out of all pictures, each picture its text out of all.

    With s_tp = exp(logit_scale) * cos(text t, picture p), pair i costs the mean of

        -log( exp(s_ii) / sum_p exp(s_ip) )     p: all pictures but the others that text i is right for
        -log( exp(s_ii) / sum_t exp(s_ti) )     t: all texts but the others that are right for picture i

    and the loss is the mean over the pairs. A pair without negatives costs 0.

    texts, images: [B, D], of length 1; text i belongs to picture i. known: bool [B, B], True where a text (row) is
    known to be right for a picture (column); its own may be marked or not. logit_scale: the logarithm of the scale, a
    scalar to be trained.

    Source: Radford et al. 2021 (arXiv:2103.00020); the mask as in `chapter02_two_tower.losses`, which computes each
    direction.
    """
    own = torch.arange(len(texts), device=texts.device)
    scale = torch.as_tensor(logit_scale, device=texts.device).exp()
    one_way = {"temperature": 1 / scale, "both_directions": False}
    to_image = in_batch_negatives_loss(texts, images, own, known=known, **one_way)
    to_text = in_batch_negatives_loss(images, texts, own, known=known.T, **one_way)
    return (to_image + to_text) / 2


def batch_loss(
    model: nn.Module, ready: ReadyBatch, dimension: int, placement: Placement, processes: Processes = ALONE
) -> Tensor:
    """Encode this process's share of a batch and compute `clip_loss` of the whole batch, the same in every process.

    The towers run in half precision where the hardware computes in it, the loss in float32. dimension: D, the length
    of the vectors.
    """

    def encoded(tower: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        if not len(inputs):  # a share without a usable picture; not every tower takes an empty batch
            return torch.zeros(0, dimension, device=placement.device)
        return tower(inputs.to(placement.device))

    with torch.autocast(placement.device, torch.bfloat16, enabled=placement.precision == "bfloat16"):
        images, texts = encoded(model.encode_image, ready.pixels), encoded(model.encode_text, ready.tokens)
    images, texts = normalize(images.float(), dim=-1), normalize(texts.float(), dim=-1)
    images = _gathered_images(images, torch.from_numpy(ready.usable).to(placement.device), processes)
    texts = processes.gather(texts, len(ready.batch))
    return clip_loss(texts, images, ready.batch.known.to(placement.device), logit_scale=model.logit_scale)


def _gathered_images(own: Tensor, usable: Tensor, processes: Processes) -> Tensor:
    """Gather the vectors of all usable pictures, of which each process brings those of its share."""
    if processes.count == 1:
        return own
    # The shares are those of the whole batch, so zeros stand in for pictures that are not usable.
    here = usable[processes.share(len(usable))]
    vectors = own.new_zeros(len(here), own.shape[1])
    vectors[here] = own
    return processes.gather(vectors, len(usable))[usable]
