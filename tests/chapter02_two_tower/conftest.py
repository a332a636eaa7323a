"""Make a small text-only shop with chapter 1 done and three tiny random models in the place of a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chapter01_baseline import choose, evaluate, reindex
from common.artifacts import Artifacts
from common.catalogue import Catalogue, load_catalogue
from tests.chapter02_two_tower import toy


@pytest.fixture(scope="package")
def tiny_encoder(tmp_path_factory) -> Path:
    """A folder that SentenceTransformer loads: two random layers, 32 wide, mean pooling, MiniLM's tokeniser."""
    return Path(toy.tiny_encoder(tmp_path_factory.mktemp("tiny_encoder")))


@pytest.fixture(scope="package")
def save_towers(tiny_encoder) -> Callable[..., None]:
    """`save_towers(folder, seed)`: a tiny TwoTowerModel of 12 dimensions whose projection is drawn with the seed."""
    from chapter02_two_tower.model import Architecture, TwoTowerModel

    def save(folder: Path, seed: int, **architecture) -> None:
        small = {"encoder": str(tiny_encoder), "projection": 12, "query_length": 8, "product_length": 24}
        TwoTowerModel.build(Architecture(**small | architecture), seed).save(folder)

    return save


@pytest.fixture(scope="package")
def pretend_training(save_towers) -> Callable[..., None]:
    """`pretend_training(artifacts, names, seed)`: a run of the training step with untrained models of these names."""

    def train(artifacts: Artifacts, names=("best", "stage1", "control"), seed: int = 0) -> None:
        with artifacts.new_run("chapter02_two_tower", "train", config={"seed": seed}) as folder:
            for number, name in enumerate(names):
                save_towers(folder / name if name == "best" else folder / name / "best", 10 * seed + number)

    return train


@pytest.fixture(scope="package")
def run_chapter01(tiny_encoder) -> Callable[..., None]:
    """`run_chapter01(catalogue, split)`: reindex, choose and evaluate what is judged, with the tiny encoder."""

    def run(catalogue: Catalogue, split: str = "test") -> None:
        source = str(catalogue.folder)
        reindex.main(reindex.ReindexConfig(catalogue=source, model=str(tiny_encoder), max_length=32))
        choose.main(choose.ChooseConfig(catalogue=source))
        if len(catalogue.judgements):
            evaluate.main(evaluate.EvaluateConfig(catalogue=source, split=split))

    return run


@pytest.fixture(scope="package")
def shop(tmp_path_factory, run_chapter01, pretend_training) -> tuple[Catalogue, Artifacts]:
    """(catalogue, artifacts) after chapter 1 and a pretended training, in an artifacts folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_ARTIFACTS", str(tmp_path_factory.mktemp("chapter02")))
        catalogue = load_catalogue("pocket_shop", size=450, queries_per_kind=5, photos=False)
        artifacts = Artifacts.for_catalogue(catalogue)
        run_chapter01(catalogue)
        pretend_training(artifacts)
        yield catalogue, artifacts
