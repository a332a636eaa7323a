"""A small shop with photos, a tiny CLIP of random weights, and a shop that chapters 1 and 2 are done with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from chapter03_multimodal import choose, prepare_data, reindex, train
from common import encoders
from common.artifacts import Artifacts
from common.catalogue import Catalogue, load_catalogue
from common.devices import choose_placement
from tests.chapter03_multimodal.toy import tiny_folder

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="package")
def tiny_clip(tmp_path_factory) -> Path:
    """A folder that `open_clip.create_model_and_transforms("local-dir:...")` loads: random weights, 32 pixels."""
    return tiny_folder(tmp_path_factory.mktemp("tiny_clip"), TINY)


@pytest.fixture(scope="package")
def photo_shop(tmp_path_factory) -> Iterator[Catalogue]:
    """A pocket shop of 450 products with photos, in an artifacts folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_ARTIFACTS", str(tmp_path_factory.mktemp("chapter03")))
        yield load_catalogue("pocket_shop", size=450, queries_per_kind=5)


@pytest.fixture(scope="package")
def photo_shop_artifacts(photo_shop) -> Artifacts:
    """Where the steps write what they make of it."""
    return Artifacts.for_catalogue(photo_shop)


@pytest.fixture(scope="package")
def until_training(tiny_clip, tmp_path_factory) -> Callable[[Catalogue], Artifacts]:
    """`until_training(catalogue)`: chapters 1 and 2 with a tiny encoder and untrained towers, and of chapter 3
    prepare_data and a training of one step."""
    towers = _tiny_towers(tmp_path_factory.mktemp("towers"))

    def run(catalogue: Catalogue) -> Artifacts:
        source = str(catalogue.folder)
        with _in_torch():
            _chapters_1_and_2(catalogue, towers)
            prepare_data.main(prepare_data.PrepareDataConfig(catalogue=source))
            small = {"pictures": 40, "epochs": 1, "batch_size": 40, "neighbours": 0, "learning_rate": 1e-2}
            train.main(train.TrainConfig(catalogue=source, encoder=str(tiny_clip), **small))
        return Artifacts.for_catalogue(catalogue)

    return run


@pytest.fixture(scope="package")
def until_choice(until_training) -> Callable[[Catalogue], Artifacts]:
    """`until_choice(catalogue)`: the same, the pictures' index and the choice of their share."""

    def run(catalogue: Catalogue) -> Artifacts:
        artifacts = until_training(catalogue)
        with _in_torch():
            reindex.main(reindex.ReindexConfig(catalogue=str(catalogue.folder), encoder=reindex.FINE_TUNED))
            choose.main(choose.ChooseConfig(catalogue=str(catalogue.folder)))
        return artifacts

    return run


@contextmanager
def _in_torch() -> Iterator[None]:
    """To convert the tiny encoders for OpenVINO would take longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "choose_placement", lambda engine="auto": choose_placement("torch"))
        yield


@pytest.fixture(scope="module", autouse=True)
def _tiny_encoders_in_torch() -> Iterator[None]:
    """By module: without an __init__.py, what has the scope of a package stays in force for the tests of all others."""
    with _in_torch():
        yield


@pytest.fixture(scope="package")
def thread(photo_shop, until_choice, tmp_path_factory) -> tuple[Catalogue, Artifacts]:
    """(catalogue, artifacts) of the small shop, all done but the chapter's evaluations; apart from `photo_shop`'s.

    Two products of the test split have a second picture, and the picture of the last product was destroyed after it
    was catalogued.
    """
    folder = tmp_path_factory.mktemp("thread")
    images = photo_shop.images.assign(path=[str(photo_shop.folder / path) for path in photo_shop.images["path"]])
    split = images["product_id"].map(photo_shop.products.set_index("product_id")["split"])
    held_out = images[split == "test"]
    more = held_out.iloc[:2].assign(path=held_out["path"].iloc[2:4].tolist(), position=1)
    broken = folder / "broken.jpg"
    shutil.copy(images["path"].iloc[-1], broken)
    images.loc[images.index[-1], "path"] = str(broken)
    tables = photo_shop.tables | {"images": pd.concat([images, more], ignore_index=True)}
    catalogue = Catalogue.from_tables("thread", **tables, verify_images=False).save(folder / "catalogue")
    broken.write_bytes(b"no picture")
    return catalogue, until_choice(catalogue)


@pytest.fixture(scope="package")
def unasked(photo_shop, until_choice, tmp_path_factory) -> tuple[Catalogue, Artifacts]:
    """The same of a shop of 60 products without a query."""
    products = photo_shop.products.head(60)
    images = photo_shop.images[photo_shop.images["product_id"].isin(products["product_id"])]
    images = images.assign(path=[str(photo_shop.folder / path) for path in images["path"]])
    bare = Catalogue.from_tables("unasked", products=products, images=images, verify_images=False)
    catalogue = bare.save(tmp_path_factory.mktemp("unasked") / "catalogue")
    return catalogue, until_choice(catalogue)


def _tiny_towers(folder: Path) -> Path:
    """A folder with a tiny sentence encoder ("encoder") and untrained towers of 12 dimensions made of it ("best")."""
    from chapter02_two_tower.model import Architecture, TwoTowerModel
    from tests.chapter02_two_tower.toy import tiny_encoder

    encoder = tiny_encoder(folder)
    small = Architecture(encoder=encoder, projection=12, query_length=8, product_length=24)
    TwoTowerModel.build(small, seed=0).save(folder / "best")
    return folder


def _chapters_1_and_2(catalogue: Catalogue, towers: Path) -> None:
    from chapter01_baseline import choose as choose_1
    from chapter01_baseline import evaluate as evaluate_1
    from chapter01_baseline import reindex as reindex_1
    from chapter02_two_tower import choose as choose_2
    from chapter02_two_tower import evaluate as evaluate_2
    from chapter02_two_tower import reindex as reindex_2

    source, encoder = str(catalogue.folder), str(towers / "encoder")
    reindex_1.main(reindex_1.ReindexConfig(catalogue=source, model=encoder, max_length=32))
    choose_1.main(choose_1.ChooseConfig(catalogue=source))
    if len(catalogue.queries):
        evaluate_1.main(evaluate_1.EvaluateConfig(catalogue=source))
    with Artifacts.for_catalogue(catalogue).new_run("chapter02_two_tower", "train", config={}) as run:
        shutil.copytree(towers / "best", run / "best")
    reindex_2.main(reindex_2.ReindexConfig(catalogue=source))
    choose_2.main(choose_2.ChooseConfig(catalogue=source))
    if len(catalogue.queries):
        evaluate_2.main(evaluate_2.EvaluateConfig(catalogue=source))
