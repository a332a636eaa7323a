"""Measure how well pictures and texts find each other before and after training, for products never trained on.

`python -m chapter03_multimodal.retrieval --catalogue pocket_shop --split test`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from chapter03_multimodal.align import starting_point
from chapter03_multimodal.clip import POCKET_CLIP
from chapter03_multimodal.encoder import load_clip_encoder
from chapter03_multimodal.prepare_data import MultimodalData, load_multimodal_data
from chapter03_multimodal.retrieval_metrics import retrieval_metrics
from chapter03_multimodal.train import check_start, clip_folders, load_training
from common.artifacts import Artifacts, RunFolder
from common.catalogue import load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.scoreboard import save_scoreboard
from common.settings import artifacts_root
from common.statistics import compare, holm, summarise

CHAPTER, STEP = "chapter03_multimodal", "retrieval"
ZERO_SHOT, FINE_TUNED = "CLIP, zero-shot", "CLIP, fine-tuned"


@dataclass(frozen=True)
class RetrievalConfig:
    """Measure text to image and image to text on one split of a catalogue's products."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    split: str = "test"
    """val or test; test is looked at once, at the end."""
    seed: int = 0
    """Of the bootstrap and the paired tests."""


@dataclass(frozen=True)
class RetrievalResult:
    """Figures of both models.

    per_pair: by system, a row a picture with its text and a column a metric (`retrieval_metrics`). board: system,
    metric, value, ci_low, ci_high, n_queries. comparisons: of fine-tuned with zero-shot, a row a metric; p_holm is
    corrected for their number.
    """

    run: RunFolder
    per_pair: dict[str, pd.DataFrame]
    board: pd.DataFrame
    comparisons: pd.DataFrame


def main(config: RetrievalConfig) -> RetrievalResult:
    """Encode, measure, compare and save, or read what was measured before. Its run holds scoreboard rows."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data, training = load_multimodal_data(artifacts, catalogue), load_training(artifacts)
    check_start(artifacts, training)
    inputs = {"prepare_data": data.run, "train": training.run}
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        base = starting_point(artifacts, training.run.manifest["config"]["encoder"])
        models = {ZERO_SHOT: base, FINE_TUNED: str(clip_folders(artifacts)["best"])}
        per_pair = {name: measure(data, model, config.split) for name, model in models.items()}
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            board = save(folder, per_pair, config.seed)
            save_scoreboard(folder, scoreboard_rows(board, catalogue.source, config.split))
    return load_retrieval(artifacts)


def load_retrieval(artifacts: Artifacts) -> RetrievalResult:
    """Read the current measurement; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    stacked = pd.read_parquet(run.path / "per_pair.parquet")
    per_pair = {name: stacked.xs(name, level="system") for name in stacked.index.unique("system")}
    return RetrievalResult(
        run, per_pair, *(pd.read_parquet(run.path / f"{name}.parquet") for name in ("board", "comparisons"))
    )


def measure(data: MultimodalData, model: str = POCKET_CLIP, split: str = "test") -> pd.DataFrame:
    """Search the text of every picture of a split, and the picture of every text, with the CLIP of that name.

    Returns a row a pair, indexed by product_id, and a column a metric. Raises CourseError for a split of fewer than two
    pictures that have a text.
    """
    pairs = data.with_text(split)
    if len(pairs) < 2:
        raise CourseError(f"{data.catalogue.source}: the {split} split has {len(pairs)} pictures with a text; too few.")
    encoder = load_clip_encoder(model, cache=artifacts_root() / "embeddings")
    folder = data.catalogue.folder or "."
    images = encoder.encode_images([Path(folder, path) for path in pairs["path"]], desc="embedding pictures")
    pairs = pairs.iloc[images.rows]
    texts = encoder.encode(pairs["text"].tolist(), desc="embedding texts")
    return retrieval_metrics(images.vectors, texts.vectors, pairs["text"].tolist()).set_index(pairs["product_id"])


def save(folder: Path, per_pair: Mapping[str, pd.DataFrame], seed: int) -> pd.DataFrame:
    """Write what `load_retrieval` reads into the folder of a run, and return the board."""
    board = pd.concat([summarise(table, seed=seed).assign(system=name) for name, table in per_pair.items()])
    # The same pictures in the same order; a product may have several.
    before, after = (per_pair[name].reset_index(drop=True) for name in (ZERO_SHOT, FINE_TUNED))
    rows = pd.DataFrame([asdict(compare(after, before, metric, seed=seed)) for metric in after])
    corrected = holm(dict(zip(rows["metric"], rows["p"], strict=True)))
    pd.concat(per_pair, names=["system"]).to_parquet(folder / "per_pair.parquet")
    board.to_parquet(folder / "board.parquet", index=False)
    rows.assign(p_holm=rows["metric"].map(corrected)).to_parquet(folder / "comparisons.parquet", index=False)
    return board


def scoreboard_rows(board: pd.DataFrame, source: str, split: str) -> pd.DataFrame:
    """Return the board in the form of the course's scoreboard: "text_to_image_R@1" becomes "text to image R@1"."""
    metrics = board["metric"].str.replace("_", " ")
    return board.assign(metric=metrics, chapter=CHAPTER, source=source, split=split, seconds=float("nan"))


if __name__ == "__main__":
    run_step(main)
