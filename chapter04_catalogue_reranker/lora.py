"""Add LoRA, low-rank matrices beside frozen ones, to the layers of a tower where it takes effect.

    y = W x + (alpha / r) B A x      A is random, B starts at 0: a new model computes what the pretrained one does

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685); by peft.

peft wraps a layer, which has an effect only where the layer is called. Some attention modules read the weights of their
layers and compute by themselves, so they bypass the wrapper without an error. `with_called_attention` replaces them by
modules that call their layers.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from chapter03_multimodal.model import LinearAttention
from common.errors import CourseError

TEXT = (
    r"(.*\.)?encoder\.layer\.\d+\.(attention\.self\.(query|key|value)|(attention\.output|intermediate|output)\.dense)"
)
"""Query, key, value and every dense layer of a BERT's blocks; not the pooler's, which is not used."""

VISION = (
    r"(.*\.)?(encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj"  # SigLIP
    r"|transformer\.resblocks\.\d+\.attn\.(in|out)_proj"  # a ViT of open_clip: q, k and v in one
    r"|attnpool\.(q|k|v|c)_proj)"  # a ResNet of open_clip: the only attention it has
)
"""The projections of the attention. SigLIP's pooling head stays as it is: it would bypass a wrapper."""

Network = TypeVar("Network", bound=nn.Module)


class LinearAttentionPool(nn.Module):
    """Compute an open_clip ResNet's final `AttentionPool2d`, with the same weights, by calling its layers.

    The original reads `q_proj.weight` and so on. It also computes the attention of every position and returns only that
    of the first.
    """

    def __init__(self, pool: AttentionPool2d) -> None:
        super().__init__()
        self.heads, self.positional_embedding = pool.num_heads, pool.positional_embedding
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj

    def forward(self, x: Tensor) -> Tensor:
        """Pool x [N, C, H, W] to [N, D]: the mean of all positions attends to them."""
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        x = x + self.positional_embedding.to(x.dtype)
        query, key, value = (
            layer(inputs).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, inputs in ((self.q_proj, x[:, :1]), (self.k_proj, x), (self.v_proj, x))
        )
        return self.c_proj(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(1))


def with_called_attention(image_tower: nn.Module) -> nn.Module:
    """Change an open_clip image tower in place, so that its attention calls its layers, and return it.

    Raises `CourseError` for a tower that is neither a ResNet nor a ViT of open_clip's own.
    """
    if isinstance(image_tower, ModifiedResNet):
        image_tower.attnpool = LinearAttentionPool(image_tower.attnpool)
        return image_tower
    blocks = getattr(getattr(image_tower, "transformer", None), "resblocks", ())
    plain = [block for block in blocks if type(getattr(block, "attn", None)) is nn.MultiheadAttention]
    if not plain or len(plain) != len(blocks) or not all(block.attn.batch_first for block in plain):
        raise CourseError(
            f"the image tower ({type(image_tower).__name__}) is neither a ResNet nor a plain ViT of open_clip, so LoRA "
            "would not reach its attention; choose another vision tower."
        )
    for block in plain:
        block.attn = LinearAttention(block.attn)
    return image_tower


def add_lora(network: nn.Module, layers: str, *, rank: int, dropout: float, seed: int) -> None:
    """Add LoRA with alpha = 2 * rank to the layers of `network` whose whole name matches the expression `layers`.

    The network's output does not change. A is drawn with `seed`; the caller's random state stays as it is. Raises
    `CourseError` if no name matches.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules=layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, network)
        except ValueError as error:  # peft found no layer of that name
            kind = type(network).__name__
            raise CourseError(f"{kind} has no layers that LoRA could adapt ({error}); choose another tower.") from error


def merged(network: Network) -> Network:
    """Return a frozen copy in evaluation mode whose weights include LoRA: the same function at the cost of the network
    without it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = copy.deepcopy(network).requires_grad_(False).eval()
    for module in plain.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    return plain
