"""Select which weights of a CLIP to train: few, which forget little, or all, which learn most.

    projections   the two matrices at the ends of the towers, which map into the shared space
    last_blocks   also the last blocks of both towers (transformer blocks, or stages of a convolutional network) and
                  what follows
    lora          in every block, low-rank matrices added to those of attention and MLP, or to the convolutions (Hu
                  et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685), by peft
    everything    all weights

The towers are open_clip's own, EfficientNets of timm and BERTs of transformers.

The temperature (`logit_scale`) is always trained. The running statistics of batch norms never are
(`training_mode`): batches of similar pictures are not a fair sample of a shop. `merged` makes an ordinary open_clip
model of the result, which loads without knowing how it was trained.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Literal

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils import skip_init
from transformers import BertModel

from common.errors import CourseError

Trained = Literal["projections", "last_blocks", "lora", "everything"]
MAX_LOGIT_SCALE = 100.0
"""Upper bound of exp(logit_scale), as for CLIP itself: above it, training is unstable (Radford et al. 2021)."""

ADAPTED = (
    r"(.*\.)?(transformer\.resblocks\.\d+\.(attn\.(in_proj|out_proj)|mlp\.(c_fc|c_proj))"
    r"|visual\.layer\d+\.\d+\.conv\d"
    r"|visual\.trunk\.blocks\..*conv_pwl?"  # the 1 x 1 convolutions, which hold nearly all weights
    r"|text\.transformer\.encoder\.layer\.\d+\..*\.(query|key|value|dense))"
)


def prepare(
    clip_model: nn.Module, trained: Trained, *, last_blocks: int = 2, lora_rank: int = 8, seed: int = 0
) -> nn.Module:
    """Return a copy of an open_clip model in which only the chosen weights need a gradient.

    The copy computes the same as the original (low-rank matrices start at 0). last_blocks: how many of each tower, for
    that choice. lora_rank: rank of the added matrices, with alpha = 2 * rank; `seed` draws them. Raises `CourseError`
    for a tower without such parts (a transformer of timm, say): train everything there.
    """
    model = copy.deepcopy(clip_model).requires_grad_(False)
    if trained == "everything":
        model.requires_grad_(True)
    elif trained == "projections":
        _train(_ends(model, norms=False))
    elif trained == "last_blocks":
        chosen = [block for blocks in _blocks(model) for block in blocks[-last_blocks:]]
        if not 1 <= last_blocks <= min(map(len, _blocks(model))):
            raise CourseError(
                f"last_blocks is {last_blocks}; the towers have {' and '.join(str(len(b)) for b in _blocks(model))}, "
                "choose from 1 to the smaller of them"
            )
        _train([*chosen, *_ends(model, norms=True)])
    elif trained == "lora":
        model = _with_lora(model, lora_rank, seed)
    else:
        raise CourseError(f"trained is {trained!r}; choose projections, last_blocks, lora or everything")
    model.logit_scale.requires_grad_(True)
    return model


def training_mode(model: nn.Module) -> nn.Module:
    """Put a prepared model into training mode, except its batch norms, which keep their running statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def merged(model: nn.Module) -> nn.Module:
    """Return an ordinary open_clip model that computes what a prepared one does.

    It is a copy on the CPU, in evaluation mode, with the low-rank matrices added to those that they adapt.
    """
    plain = copy.deepcopy(model)
    if hasattr(plain, "merge_and_unload"):
        plain = plain.merge_and_unload()
        for block in _all_blocks(plain):
            if isinstance(getattr(block, "attn", None), LinearAttention):
                block.attn = block.attn.as_multihead()
    plain.zero_grad(set_to_none=True)
    return plain.requires_grad_(False).cpu().eval()


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count the numbers that are `trained`, and `all`."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {"trained": sum(size for size, needed in sizes if needed), "all": sum(size for size, _ in sizes)}


@torch.no_grad()
def clamp_logit_scale(model: nn.Module) -> None:
    """Keep exp(logit_scale) between 1 and `MAX_LOGIT_SCALE`; call it after every step."""
    model.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))


class LinearAttention(nn.Module):
    """Self-attention with the weights of an `nn.MultiheadAttention`, in two linear layers that peft can adapt.

    peft's own wrapper of `nn.MultiheadAttention` has two faults. It adds the matrices to the weights in every pass and
    subtracts them again, so the frozen weights drift; and (in 0.21.2) it adds those of `out_proj` twice, but computes
    the gradient as if once.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        width = attention.embed_dim
        self.heads = attention.num_heads
        # skip_init: initial weights, which are replaced at once, would draw from the training's random numbers.
        self.in_proj, self.out_proj = skip_init(nn.Linear, width, 3 * width), skip_init(nn.Linear, width, width)
        self.in_proj.weight, self.in_proj.bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj.weight, self.out_proj.bias = attention.out_proj.weight, attention.out_proj.bias

    def forward(
        self, x: Tensor, _key: Tensor, _value: Tensor, *, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Attend to x [N, L, D], which is query, key and value. attn_mask: float [L, L], added to the scores."""
        n, length, width = x.shape
        query, key, value = self.in_proj(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mask = None if attn_mask is None else attn_mask.to(query.dtype)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).reshape(n, length, width)), None

    def as_multihead(self) -> nn.MultiheadAttention:
        """Return an `nn.MultiheadAttention` with the same weights."""
        attention = skip_init(nn.MultiheadAttention, self.out_proj.in_features, self.heads, batch_first=True)
        attention.in_proj_weight, attention.in_proj_bias = self.in_proj.weight, self.in_proj.bias
        attention.out_proj.weight, attention.out_proj.bias = self.out_proj.weight, self.out_proj.bias
        return attention


def _with_lora(model: nn.Module, rank: int, seed: int) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    if rank < 1:
        raise CourseError(f"lora_rank is {rank}; it must be at least 1")
    for block in _all_blocks(model):
        if type(getattr(block, "attn", None)) is nn.MultiheadAttention and block.attn.batch_first:
            block.attn = LinearAttention(block.attn)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=ADAPTED))


def _towers(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return image and text tower; in open_clip's older class the model itself holds the parts of the text tower."""
    return model.visual, getattr(model, "text", model)


def _blocks(model: nn.Module) -> list[list[nn.Module]]:
    """Return the blocks of both towers, from input to output: transformer blocks or convolutional stages."""
    found = []
    for tower, name in zip(_towers(model), ("image", "text"), strict=True):
        match tower:
            case ModifiedResNet():
                blocks = [tower.layer1, tower.layer2, tower.layer3, tower.layer4]
            case TimmModel(trunk=EfficientNet()):
                blocks = tower.trunk.blocks
            case HFTextEncoder(transformer=BertModel()):
                blocks = tower.transformer.encoder.layer
            case _:
                blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
        if blocks is None:
            raise CourseError(f"the {name} tower ({type(tower).__name__}) has no blocks known here; train everything")
        found.append(list(blocks))
    return found


def _all_blocks(model: nn.Module) -> Iterator[nn.Module]:
    for blocks in _blocks(model):
        yield from blocks


def _ends(model: nn.Module, *, norms: bool) -> list[nn.Module | nn.Parameter]:
    """Return the projections into the shared space, and, if asked, what stands between the blocks and them."""
    _blocks(model)  # raises for a tower of another architecture
    image, text = _towers(model)
    ends: list[nn.Module | nn.Parameter | None]
    match image:
        case ModifiedResNet():
            ends, before = [image.attnpool.c_proj], [image.attnpool]
        case TimmModel():
            ends, before = [image.head], [image.trunk.conv_head, image.trunk.bn2]
        case _:
            ends, before = [image.proj], [image.ln_post]
    if isinstance(text, HFTextEncoder):
        ends.append(text.proj)
    else:
        ends.append(text.text_projection)
        before.append(text.ln_final)
    if any(end is None for end in ends):
        raise CourseError("a tower of this CLIP has no projection to train; choose last_blocks, lora or everything")
    return ends + before if norms else ends


def _train(parts: list[nn.Module | nn.Parameter]) -> None:
    for part in parts:
        part.requires_grad_(True)
