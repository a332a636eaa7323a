"""Choose, on validation queries, the weights of fusing the towers with BM25, and of feedback.

The same choices as chapter 1's, made for the towers' vectors. `python -m chapter02_two_tower.choose`
"""

from __future__ import annotations

from dataclasses import dataclass

from chapter01_baseline.choose import Choices, load_choices, save_choices
from chapter02_two_tower.reindex import load_both
from common.artifacts import Artifacts
from common.catalogue import load_catalogue
from common.cli import run_step

CHAPTER, STEP = "chapter02_two_tower", "choose"


@dataclass(frozen=True)
class ChooseConfig:
    """Choose fusion weight and feedback for the towers on the validation queries of a catalogue."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    gains: str = "linear"
    """Gains of the nDCG@10 that decides: linear or esci."""


def main(config: ChooseConfig) -> Choices:
    """Try every setting on the validation queries, and save the best ones with their curves.

    The weights are the towers' shares. A catalogue without judged validation queries gets chapter 1's defaults.
    """
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    indices, towers = load_both(artifacts, catalogue)
    inputs = {"baseline": indices.run, "reindex": towers.run}
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            save_choices(folder, towers.as_indices(indices), config.gains)
    return load_choices(artifacts, CHAPTER)


if __name__ == "__main__":
    run_step(main)
