"""Embed products, by text and picture, and category paths in one space: the catalogue reranker.

    model = CatalogueReranker.build(Architecture(), seed=0)
    tokens = model.text_tower.tokenise(["Title: oak chair"], model.architecture.product_length)
    pixels = model.vision_tower.preprocess(picture)[None]
    both = torch.ones(1, dtype=torch.bool)
    product = model.embed_products(model.text_features(tokens), model.image_features(pixels), both, both).fused
    paths = model.text_tower.tokenise(["Living room > Chairs"], model.architecture.category_length)
    model.scale * product @ model.embed_categories(model.text_features(paths)).T       # scores of candidates

    title, description ── text tower ── projection ─┐
                                                    ├─ gate ── e ──┐
    picture ──────────── vision tower ─ projection ─┘              ├── cosine
    category path ────── text tower ─── projection ────────────────┘

Products and categories share one text projection: both are texts of one shop, and the words of a path that training
never saw still place it. The outputs of a frozen tower (`text_features`, `image_features`) can be computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import log
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from chapter03_multimodal.clip import POCKET_CLIP
from chapter04_catalogue_reranker.architecture import Architecture
from chapter04_catalogue_reranker.model_files import read_model, write_model
from chapter04_catalogue_reranker.towers import TextTower, VisionTower
from common.encoders import MINILM
from common.errors import CourseError
from common.progress import tell

MIN_SCALE, MAX_SCALE = 1.0, 100.0
INITIAL_SCALE = 1 / 0.07  # of CLIP (Radford et al. 2021, arXiv:2103.00020), as is the upper bound
STAGES = (0, 1, 2)


@dataclass(frozen=True)
class ProductVectors:
    """Hold the vectors of N products in the space of the categories, float32 [N, D], rows of length 1.

    fused: of both modalities, for ranking. text, image: of one modality; zeros where a product lacks it.
    """

    fused: Tensor
    text: Tensor
    image: Tensor


class Projection(nn.Sequential):
    """Project features [N, H] of a tower to vectors [N, D] of length 1: LayerNorm, Linear, GELU, Linear, L2.

    Computes in float32, under autocast too.
    """

    def __init__(self, width: int, hidden: int, dimension: int) -> None:
        super().__init__(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, dimension))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return normalize(super().forward(features.float()), dim=-1)


class CatalogueReranker(nn.Module):
    """Score category paths for products, with two towers, two projections, a gate and a scale.

    Make one with `build` or `load`.
    """

    def __init__(self, text_tower: TextTower, vision_tower: VisionTower, architecture: Architecture) -> None:
        super().__init__()
        self.text_tower, self.vision_tower, self.architecture = text_tower, vision_tower, architecture
        hidden, dimension = architecture.hidden, architecture.dimension
        self.text_projection = Projection(text_tower.width, hidden, dimension)
        self.image_projection = Projection(vision_tower.width, hidden, dimension)
        self.gate = nn.Linear(2 * dimension, dimension)
        for weight in self.gate.parameters():
            nn.init.zeros_(weight)  # training starts from the mean of text and image
        self.logit_scale = nn.Parameter(torch.tensor(log(INITIAL_SCALE)))

    @classmethod
    def build(cls, architecture: Architecture, seed: int) -> CatalogueReranker:
        """Build a model of pretrained towers and of new projections, drawn with `seed`.

        Returns it in float32, on the CPU, in training mode, ready for stage 0. Raises `CourseError` if a tower does not
        load or cannot read such long texts.
        """
        model = cls._assemble(architecture, seed)
        for tower in (model.text_tower, model.vision_tower):
            if tower.new:
                lacking = f"its files lack {len(tower.new)} weights ({tower.new[0]}, …); they begin at random."
                tell(f"{tower.name}: {lacking}")
        model.train_parts(0)
        return model.train()

    @classmethod
    def _assemble(cls, architecture: Architecture, seed: int) -> CatalogueReranker:
        architecture = replace(architecture, text=_absolute(architecture.text), vision=_absolute(architecture.vision))
        shared = {"lora_dropout": architecture.lora_dropout, "seed": seed}
        pooling, rank = architecture.text_pooling, architecture.text_lora_rank
        text_tower = TextTower.load(architecture.text, pooling=pooling, lora_rank=rank, **shared)
        wanted = max(architecture.product_length, architecture.category_length)
        if text_tower.longest is not None and text_tower.longest < wanted:
            raise CourseError(f"{architecture.text}: reads at most {text_tower.longest} tokens, not {wanted}.")
        vision_tower = VisionTower.load(architecture.vision, lora_rank=architecture.vision_lora_rank, **shared)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(text_tower, vision_tower, architecture)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.logit_scale.device

    @property
    def scale(self) -> Tensor:
        """Return the factor of the cosines, a scalar clamped to [1, 100].

        The gradient ignores the clamp, so that the scale can leave a bound again.
        """
        bounded = self.logit_scale.clamp(log(MIN_SCALE), log(MAX_SCALE))
        return (self.logit_scale + (bounded - self.logit_scale).detach()).exp()

    def text_features(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Return the text tower's pooled output [N, Ht], rows of length 1, for N tokenised texts or paths."""
        return self.text_tower(tokens)

    def image_features(self, pixels: Tensor) -> Tensor:
        """Return the vision tower's pooled output [N, Hv], rows of length 1, for pixels [N, 3, S, S]."""
        return self.vision_tower(pixels)

    def embed_categories(self, features: Tensor) -> Tensor:
        """Return vectors [C, D] of length 1 for the text features [C, Ht] of category paths."""
        return self.text_projection(features)

    def embed_products(self, text: Tensor, image: Tensor, has_text: Tensor, has_image: Tensor) -> ProductVectors:
        """Return the vectors of N products; training mode hides the text or the picture of some.

        text: [N, Ht]; where has_text (bool [N]) is False, the features of the empty text. image: [N, Hv]; where
        has_image is False, anything finite. Random numbers come from torch's CPU generator.
        """
        if self.training and self.architecture.inputs == "both":
            has_text, has_image = self._with_modalities_dropped(has_text, has_image)
        return self.fuse(text, image, has_text, has_image)

    def fuse(self, text: Tensor, image: Tensor, has_text: Tensor, has_image: Tensor) -> ProductVectors:
        """Return the vectors of N products, nothing hidden. Arguments as in `embed_products`.

            g = sigmoid(W [z_text; z_image] + b)        e = normalise(g * z_text + (1 - g) * z_image)

        A product without a picture is exactly z_text, one without a text exactly z_image, and one without both the
        vector of the empty text. A model of one modality ignores the other; one of pictures has a single vector for all
        products that have none.
        """
        if self.architecture.inputs == "text":
            has_image = torch.zeros_like(has_image)
        if self.architecture.inputs == "image":
            has_text, text = torch.zeros_like(has_text), torch.zeros_like(text)
        z_text, z_image = self.text_projection(text), self.image_projection(image)
        with torch.autocast(text.device.type, enabled=False):
            g = 0.5
            if self.architecture.fusion == "gate":
                g = torch.sigmoid(self.gate(torch.cat([z_text, z_image], dim=-1)))
            mixed = normalize(g * z_text + (1 - g) * z_image, dim=-1)
        with_text, with_image = has_text.unsqueeze(-1), has_image.unsqueeze(-1)
        fused = torch.where(with_text & with_image, mixed, torch.where(with_image, z_image, z_text))
        return ProductVectors(fused, z_text * with_text, z_image * with_image)

    def _with_modalities_dropped(self, has_text: Tensor, has_image: Tensor) -> tuple[Tensor, Tensor]:
        """Hide a modality of random products. One number per product decides, so none loses both; one that has a single
        modality keeps it."""
        drawn = torch.rand(len(has_text)).to(has_text.device)
        both, text_dropout = has_text & has_image, self.architecture.text_dropout
        lost_text = drawn < text_dropout
        lost_image = ~lost_text & (drawn < text_dropout + self.architecture.image_dropout)
        return has_text & ~(both & lost_text), has_image & ~(both & lost_image)

    def train_parts(self, stage: int) -> None:
        """Choose which weights get a gradient.

        Stage 0 trains the projections, the gate and the scale; stage 1 also the LoRA of the text tower; stage 2 that of
        the vision tower instead, so that the text features can be kept. A tower's new weights are trained with its
        LoRA. Weights without influence (the gate of a mean, the part of a modality that is not read) are not trained.
        Raises `CourseError` for another stage.
        """
        if stage not in STAGES:
            raise CourseError(f"stage must be one of {', '.join(map(str, STAGES))}, not {stage!r}.")
        inputs = self.architecture.inputs
        self.requires_grad_(False)
        self.logit_scale.requires_grad_(True)
        self.text_projection.requires_grad_(True)
        self.image_projection.requires_grad_(inputs != "text")
        self.gate.requires_grad_(inputs == "both" and self.architecture.fusion == "gate")
        if stage == 1:
            _train_own(self.text_tower)
        if stage == 2 and inputs != "text":
            _train_own(self.vision_tower)
        self.train(self.training)

    def train(self, mode: bool = True) -> CatalogueReranker:
        """Set training or evaluation mode; a frozen tower stays in evaluation mode, without dropout."""
        super().train(mode)
        for tower in (self.text_tower, self.vision_tower):
            if not any(weight.requires_grad for weight in tower.parameters()):
                tower.eval()
        return self

    def own_state(self) -> dict[str, Tensor]:
        """Return every weight that is not the pretrained towers': projections, gate, scale, LoRA and the towers' new
        weights, by name, on the CPU."""
        weights = self.state_dict()
        return {name: weights[name].cpu().contiguous() for name in self.own_names()}

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """Take the weights that `own_state` returned. Raises `CourseError` if they are of another architecture."""
        mine = self.own_state()
        wrong = sorted(mine.keys() ^ state.keys()) or [name for name in mine if mine[name].shape != state[name].shape]
        if wrong:
            raise CourseError(f"the weights are those of another architecture (first difference: {wrong[0]}).")
        self.load_state_dict(state, strict=False)

    def own_names(self) -> Iterator[str]:
        """Yield the names of the weights in `own_state`."""
        new = {f"text_tower.{name}" for name in self.text_tower.new}
        new |= {f"vision_tower.{name}" for name in self.vision_tower.new}
        for name, _ in self.named_parameters():
            if not name.startswith(("text_tower.", "vision_tower.")) or "lora_" in name or name in new:
                yield name

    def load_weights(self, folder: Path) -> None:
        """Take the weights that a model of the same architecture and towers saved. Raises `CourseError` as `load`."""
        self.load_own_state(read_model(folder, set(asdict(self.architecture)))[1])

    def save(self, folder: Path) -> None:
        """Write a folder that `load` reads: the weights of `own_state`, and names and digests of the towers.

        The folder appears whole or not at all. Raises `CourseError` if it is not empty.
        """
        write_model(folder, asdict(self.architecture), self._tower_digests(), self.own_state())

    @classmethod
    def load(cls, folder: Path) -> CatalogueReranker:
        """Read the model that `save` wrote: on the CPU, in evaluation mode.

        Raises `CourseError` if files are missing or damaged, and if a tower is missing or another than the model was
        trained with.
        """
        described, state = read_model(Path(folder), set(asdict(Architecture())))
        model = cls._assemble(Architecture(**described["architecture"]), seed=0)
        for which, digest in model._tower_digests().items():
            if described["towers"].get(which) != digest:
                name = described["architecture"][which]
                raise CourseError(
                    f"{folder}: was trained with another {name!r} as its {which} tower; restore that one."
                )
        try:
            model.load_own_state(state)
        except CourseError as error:
            raise CourseError(f"{folder}: {error}") from None
        model.train_parts(0)
        return model.eval()

    def _tower_digests(self) -> dict[str, str]:
        return {"text": self.text_tower.digest, "vision": self.vision_tower.digest}


def _train_own(tower: TextTower | VisionTower) -> None:
    for name, weight in tower.named_parameters():
        weight.requires_grad_("lora_" in name or name in tower.new)


def _absolute(name: str) -> str:
    """Return a tower's name; a folder as an absolute path, to be found from wherever the model is loaded."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if name not in (MINILM, POCKET_CLIP) and folder.is_dir() else name
