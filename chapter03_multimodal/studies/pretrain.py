"""Train pocket_clip, the small CLIP that the chapter starts from where there is no network.

    python -m chapter03_multimodal.studies.pretrain

It is trained from random weights on generic drawings and captions (`drawings`), in at most an hour on two cores, and
written as a folder that `open_clip.create_model_and_transforms("local-dir:...")` loads. The weights that come with the
course are what this command makes with its defaults. The same command resumes a killed run.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, pad

from chapter02_two_tower.losses import in_batch_negatives_loss
from chapter03_multimodal.model import clamp_logit_scale
from chapter03_multimodal.studies.drawings import agreement, as_codes, draw_pictures, draw_things, write_captions
from common.artifacts import code_digest, fingerprint
from common.atomic import write_json
from common.checkpoints import restore_checkpoint, save_checkpoint
from common.cli import run_step
from common.devices import native_bfloat16
from common.errors import CourseError
from common.progress import progress, tell
from common.settings import artifacts_root
from common.training import (
    CHECKPOINTS,
    clip_gradients,
    parameter_groups,
    resumed_state,
    set_rate,
    warmup_schedule,
)
from common.training_log import TrainingLog

CHAPTER = "chapter03_multimodal"
MODEL = {
    "embed_dim": 192,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 24, "head_width": 64},
    "text_cfg": {"context_length": 48, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 4},
}
"""A ResNet with attention pooling, as in the smaller of the first CLIPs: on pictures this small it learns several times
as much in an hour as a transformer of the same size."""

SIDE = MODEL["vision_cfg"]["image_size"]
MEAN, STD = 0.5, 0.5
SHIFT = 4
"""Pixels by which augmentation moves a picture at most."""
WARMUP, WEIGHT_DECAY = 0.05, 0.05
LOG_EVERY = 50


@dataclass(frozen=True)
class PretrainConfig:
    """Train pocket_clip on generic drawings, from random weights."""

    output: str | None = None
    """Folder for config, weights and log; None: `pocket_clip` in the artifacts."""
    drawings: int = 48_000
    """Number of different drawings; each is seen once an epoch, with a new caption."""
    held_out: int = 1_000
    """Drawings to measure on after every epoch, beside those trained on."""
    epochs: int = 12
    """Times that every drawing is seen."""
    batch_size: int = 128
    """Drawings a step."""
    learning_rate: float = 2e-3
    """Peak of AdamW's rate, after a warm-up of a twentieth of the steps; then cosine decay to 0."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    seed: int = 0
    """Of drawings, captions, augmentation and weights."""


def main(config: PretrainConfig) -> Path:
    """Draw, train, measure, and return the folder of the model; `CourseError` for less than a batch of drawings."""
    if config.drawings < config.batch_size or config.held_out < 1 or config.epochs < 1:
        raise CourseError("pretrain: give at least a batch of drawings, one held-out drawing and one epoch.")
    output = Path(config.output) if config.output else artifacts_root() / "pocket_clip"
    # Only a run of the same settings and code is resumed.
    key = [{**asdict(config), "output": None}, MODEL, code_digest(CHAPTER)]
    work = artifacts_root() / "pretrain" / fingerprint(key)
    export(train(config, work), output)
    shutil.copyfile(work / "log.jsonl", output / "log.jsonl")
    shutil.rmtree(work)
    return output


def train(config: PretrainConfig, work: Path) -> open_clip.CLIP:
    """Train in the folder `work`, or resume there.

    The contrastive loss matches pictures with captions. It alone would need many more pictures to discover shapes, so
    linear heads, discarded in the end, also predict the facts from the picture's vector.
    """
    things = draw_things(config.drawings + config.held_out, seed=config.seed)
    pictures = torch.from_numpy(draw_pictures(things, SIDE))
    seen, unseen = things.iloc[: config.drawings], things.iloc[config.drawings :]
    torch.manual_seed(config.seed)
    model = open_clip.CLIP(**MODEL)
    heads = nn.ModuleList(nn.Linear(MODEL["embed_dim"], 1 + int(largest)) for largest in as_codes(things).max(axis=0))
    trained = nn.ModuleList([model, heads])
    groups = parameter_groups(trained, WEIGHT_DECAY)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
    state = resumed_state(work)
    if state["step"]:
        restore_checkpoint(work / CHECKPOINTS, trained, optimizer)
    log = TrainingLog(work / "log.jsonl", keep=state["lines"])
    steps = config.drawings // config.batch_size
    total = config.epochs * steps
    with closing(log), progress(total=total, initial=state["step"], desc="pocket_clip", unit="batch") as bar:
        for epoch in range(state["step"] // steps, config.epochs):
            taken = state["step"] - epoch * steps  # before an interruption
            for batch in islice(batches(seen, pictures, config, epoch), taken, None):
                started = time.perf_counter()
                set_rate(optimizer, config.learning_rate * warmup_schedule(state["step"], total, WARMUP, "cosine"))
                loss, facts = losses(model, heads, *batch())
                optimizer.zero_grad()
                (loss + facts).backward()
                clip_gradients(trained.parameters())
                optimizer.step()
                clamp_logit_scale(model)
                state["step"] += 1
                bar.update(1)
                if state["step"] % LOG_EVERY == 0:
                    figures = {"loss": round(float(loss.detach()), 4), "facts": round(float(facts.detach()), 4)}
                    seconds = round(time.perf_counter() - started, 3)
                    log.write(state["step"], epoch=epoch + 1, **figures, seconds=seconds)
                if state["step"] % config.checkpoint_every == 0 and state["step"] % steps:
                    _save(work, trained, optimizer, state, log)
            found = recall_at_1(model, unseen, pictures[config.drawings :])
            log.write(state["step"], epoch=epoch + 1, **found)
            _save(work, trained, optimizer, state, log)
            tell(f"epoch {epoch + 1}: " + ", ".join(f"{name} {value}" for name, value in found.items()))
    return model.eval()


def batches(
    things: pd.DataFrame, pictures: Tensor, config: PretrainConfig, epoch: int
) -> Iterator[Callable[[], tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """Yield for every step of an epoch a function that makes its batch, so that steps already taken need not be made.

    A batch: pictures [B, 3, side, side], tokens [B, L], codes of the facts [B, 5], and which caption is true of which
    picture, bool [B, B].
    """
    rng = np.random.default_rng([config.seed, epoch])
    order = rng.permutation(len(things))
    captions, mentioned = write_captions(things, rng)
    tokens, codes = _tokenise(captions), as_codes(things)
    for at in range(len(things) // config.batch_size):
        rows = order[at * config.batch_size : (at + 1) * config.batch_size]

        def make(rows: np.ndarray = rows, at: int = at) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            augmented = augment(pictures[rows], np.random.default_rng([config.seed, epoch, at]))
            known = torch.from_numpy(agreement(codes[rows], mentioned[rows]))
            return augmented, tokens[rows], torch.from_numpy(codes[rows]), known

        yield make


def losses(
    model: open_clip.CLIP, heads: nn.ModuleList, pictures: Tensor, tokens: Tensor, codes: Tensor, known: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the contrastive loss, where no picture that a caption is true of is a negative, and that of the facts."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bool(native_bfloat16())):
        texts, images = model.encode_text(tokens).float(), model.encode_image(pictures).float()
    facts = [cross_entropy(head(images), true) for head, true in zip(heads, codes.T, strict=True)]
    own, temperature = torch.arange(len(images)), 1 / model.logit_scale.exp()
    texts, images = normalize(texts, dim=-1), normalize(images, dim=-1)
    return in_batch_negatives_loss(texts, images, own, known=known, temperature=temperature), torch.stack(facts).sum()


def augment(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Shift each of N pictures, mirror half of them, make it lighter or darker: float [N, 3, side, side]."""
    pixels = pictures.permute(0, 3, 1, 2).float() / 255
    wide = pad(pixels, (SHIFT,) * 4, mode="replicate")
    down, right = rng.integers(0, 2 * SHIFT + 1, (2, len(pixels)))
    for row, (y, x) in enumerate(zip(down, right, strict=True)):
        pixels[row] = wide[row, :, y : y + SIDE, x : x + SIDE]
    mirrored = torch.from_numpy(rng.random(len(pixels)) < 0.5)
    pixels[mirrored] = pixels[mirrored].flip(3)
    light = torch.from_numpy(rng.uniform(0.9, 1.1, (len(pixels), 1, 1, 1)).astype(np.float32))
    return ((pixels * light).clamp(0, 1) - MEAN) / STD


@torch.no_grad()
def recall_at_1(model: open_clip.CLIP, things: pd.DataFrame, pictures: Tensor) -> dict[str, float]:
    """Return the share of captions whose best picture is one that they are true of, and the reverse; both in [0, 1]."""
    model.eval()
    captions, mentioned = write_captions(things, np.random.default_rng(0))
    pixels = (pictures.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
    texts = normalize(model.encode_text(_tokenise(captions)), dim=-1)
    images = normalize(torch.cat([model.encode_image(part) for part in pixels.split(250)]), dim=-1)
    true = torch.from_numpy(agreement(as_codes(things), mentioned))
    scores, rows = texts @ images.T, torch.arange(len(texts))
    model.train()
    return {
        "text_to_image_R@1": round(float(true[rows, scores.argmax(1)].float().mean()), 4),
        "image_to_text_R@1": round(float(true[scores.argmax(0), rows].float().mean()), 4),
    }


def export(model: open_clip.CLIP, folder: Path) -> None:
    """Write config and weights (float16) in the form that open_clip reads from a local folder."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": [MEAN] * 3, "std": [STD] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    write_json(folder / "open_clip_config.json", {"model_cfg": MODEL, "preprocess_cfg": preprocess})
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    half = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    save_file({name: value.contiguous() for name, value in half.items()}, folder / "open_clip_model.safetensors")


def _save(work: Path, trained: nn.Module, optimizer: torch.optim.Optimizer, state: dict, log: TrainingLog) -> None:
    state["lines"] = log.lines
    log.flush()
    save_checkpoint(work / CHECKPOINTS, f"step-{state['step']:06d}", trained, optimizer, state)


def _tokenise(captions: list[str]) -> Tensor:
    return open_clip.SimpleTokenizer(context_length=MODEL["text_cfg"]["context_length"])(captions)


if __name__ == "__main__":
    run_step(main)
