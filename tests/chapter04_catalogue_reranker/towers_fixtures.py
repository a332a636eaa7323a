"""Tiny towers of random weights, one of every kind, in local folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file, save_file

from chapter04_catalogue_reranker.architecture import Architecture
from common.atomic import write_json
from tests.chapter02_two_tower.toy import tiny_encoder

SEEN = {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.25, 0.2)}
TEXT_CFG = {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 4, "head_width": 8}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
SIGLIP = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "patch_size": 8}
VISION = ("resnet", "vit", "siglip", "siglip_whole", "naflex")


def tiny_text(folder: Path) -> str:
    """A sentence encoder of 32 dimensions and two layers."""
    return tiny_encoder(folder)


def tiny_vision(kind: str, folder: Path) -> str:
    """A vision tower of one of the kinds of `VISION`; "siglip_whole" is a checkpoint with both towers."""
    torch.manual_seed(1)
    folder = folder / kind
    folder.mkdir(parents=True)
    (_clip if kind in ("resnet", "vit") else _siglip)(kind, folder)
    return str(folder)


def bge_base(folder: Path) -> str:
    """BGE base (a BERT of 12 layers and 768 dimensions, CLS pooling) with random weights and MiniLM's word pieces."""
    import transformers as hf
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    from common.encoders import packaged_minilm

    torch.manual_seed(0)
    body, folder = folder / "bert", folder / "bge_base"
    hf.BertModel(hf.BertConfig()).save_pretrained(body)
    hf.AutoTokenizer.from_pretrained(packaged_minilm()).save_pretrained(body)
    modules = [Transformer(str(body), max_seq_length=512), Pooling(768, pooling_mode="cls"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))
    shutil.rmtree(body)
    return str(folder)


def siglip2_base(folder: Path) -> str:
    """A checkpoint of both towers whose image tower is SigLIP2's ViT-B/16-256, with random weights; the text tower,
    which nobody asks for, is tiny."""
    import transformers as hf

    torch.manual_seed(1)
    folder = folder / "siglip2_base"
    words = {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 32, "intermediate_size": 48}
    words |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    sight = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    sight |= {"patch_size": 16, "image_size": 256}
    hf.SiglipModel(hf.SiglipConfig(vision_config=sight, text_config=words)).save_pretrained(folder)
    hf.SiglipImageProcessor(size={"height": 256, "width": 256}, resample=2).save_pretrained(folder)
    return str(folder)


def without_weights(folder: str, ending: str, target: Path) -> str:
    """A copy of a model's folder whose safetensors file lacks the weights of such names."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.endswith(ending)}
    assert len(kept) < len(weights)
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


def small(text: str, vision: str, **changes) -> Architecture:
    """An architecture of 16 dimensions on these towers."""
    sizes = {"hidden": 24, "dimension": 16, "product_length": 24, "category_length": 12}
    return Architecture(text=text, vision=vision, **(sizes | {"text_lora_rank": 2, "vision_lora_rank": 2} | changes))


def shake(weights, seed: int = 0) -> None:
    """Change all of them at random: what training would do."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in weights:
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1)


def _clip(kind: str, folder: Path) -> None:
    config = {"embed_dim": 16, "vision_cfg": RESNET if kind == "resnet" else VIT, "text_cfg": TEXT_CFG}
    write_json(
        folder / "open_clip_config.json",
        {"model_cfg": config, "preprocess_cfg": SEEN | {"interpolation": "bicubic", "resize_mode": "squash"}},
    )
    weights = {name: value.contiguous() for name, value in open_clip.model.CLIP(**config).state_dict().items()}
    for name, value in weights.items():
        if "bn" in name and name.endswith("weight"):
            value.fill_(2.0)  # or what goes through so many small layers fades away
    save_file(weights, folder / "open_clip_model.safetensors")


def _siglip(kind: str, folder: Path) -> None:
    import transformers as hf

    if kind == "naflex":
        model = hf.Siglip2VisionModel(hf.Siglip2VisionConfig(**SIGLIP, num_patches=16))
        processor = hf.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    else:
        sight = SIGLIP | {"image_size": 32}
        model = hf.SiglipVisionModel(hf.SiglipVisionConfig(**sight))
        processor = hf.SiglipImageProcessor(size={"height": 32, "width": 32}, resample=2)
    if kind == "siglip_whole":
        words = {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2, "projection_size": 32}
        words |= {name: value for name, value in SIGLIP.items() if name != "patch_size"}
        model = hf.SiglipModel(hf.SiglipConfig(vision_config=sight, text_config=words))
    processor.image_mean, processor.image_std = list(SEEN["mean"]), list(SEEN["std"])
    hf.utils.logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
    finally:
        hf.utils.logging.enable_progress_bar()
    processor.save_pretrained(folder)
