"""The loss that brings pictures and their texts together: CLIP's, for a shop where a text fits several pictures.

CLIP takes every other text of a batch for wrong. Among photos from the whole web that is nearly true; in a shop,
variants share a text, products share a photo, and a title fits its neighbours. Such pairs are left out of the sums,
neither pushed apart nor pulled together (`clip_loss`). To pull them, as with several labelled positives in Khosla et
al. 2020 ("Supervised Contrastive Learning", arXiv:2004.11362) or Yang et al. 2022 ("UniCL", arXiv:2204.03610), one
would have to be sure of them; here a text that was cut short is merely not wrong for another picture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chapter02_two_tower.losses import in_batch_negatives_loss


def clip_loss(texts: Tensor, images: Tensor, known: Tensor, *, pairs: int, logit_scale: Tensor | float) -> Tensor:
    """Each text picks its picture out of all pictures, and each picture its text out of all texts.

    With s_tp = exp(logit_scale) * cos(text t, picture p), a pair i costs the mean of

        -log( exp(s_ii) / sum_p exp(s_ip) )     p: all pictures but the other ones that text i is right for
        -log( exp(s_ii) / sum_t exp(s_ti) )     t: all texts but the other ones that are right for picture i

    and the loss is the mean over the pairs. A lone pair, or one for which nothing is wrong, costs 0.

    texts: [T, D], images: [P, D], of length 1; text i belongs to picture i for i < `pairs`, and what comes after are
    hard negatives without a partner. known: bool [T, P], True where the text is known to be right for the picture (its
    own may be marked or not). logit_scale: the logarithm of the scale, a scalar to be trained.

    Source: Radford et al. 2021 (arXiv:2103.00020); the mask as in `chapter02_two_tower.losses`, which computes each
    direction.
    """
    own = torch.arange(pairs, device=texts.device)
    scale = torch.as_tensor(logit_scale, device=texts.device).exp()
    one_way = {"temperature": 1 / scale, "both_directions": False}
    to_image = in_batch_negatives_loss(texts[:pairs], images, own, known=known[:pairs], **one_way)
    to_text = in_batch_negatives_loss(images[:pairs], texts, own, known=known.T[:pairs], **one_way)
    return (to_image + to_text) / 2
