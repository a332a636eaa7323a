"""Two processes against one: each encodes half of a batch, and both take the step of the whole batch.

Run as a script it is what the tests launch: `python test_processes.py gradients FOLDER SHOP TEXT VISION`, or with
`training STEPS` for `gradients FOLDER`.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from chapter03_multimodal import training_pictures
from chapter03_multimodal.training_pictures import Pictures
from chapter04_catalogue_reranker import train
from chapter04_catalogue_reranker.batches import Batch, epoch_batches
from chapter04_catalogue_reranker.encode import FrozenTowers
from chapter04_catalogue_reranker.losses import multi_positive_info_nce
from chapter04_catalogue_reranker.model import STAGES, CatalogueReranker
from chapter04_catalogue_reranker.prepare_data import RerankerData, load_reranker_data
from chapter04_catalogue_reranker.train_config import TrainConfig, resolved
from chapter04_catalogue_reranker.training_setup import TrainingSetup
from common import devices
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.processes import Processes
from tests.chapter04_catalogue_reranker.towers_fixtures import shake, tiny_vision

PRODUCTS = 13
Losses = Callable[[TrainingSetup, Batch], dict[str, Tensor]]


def config_of(shop: str, text: str, vision: str, **changes) -> TrainConfig:
    sizes = {"batch_size": 6, "queue": 20, "product_length": 24, "category_length": 16, "checkpoint_every": 3}
    sizes |= {"epochs": (2, 1, 1), "learning_rate": (5e-3, 2e-3, 2e-3)}
    return resolved(TrainConfig(catalogue=shop, profile="pocket", text=text, vision=vision, **(sizes | changes)))


def only_rounding_differs() -> None:
    """No half precision, no dropout; and pictures are read when they are needed."""
    architecture = TrainConfig.architecture
    none = {"lora_dropout": 0.0, "text_dropout": 0.0, "image_dropout": 0.0}
    TrainConfig.architecture = lambda config: replace(architecture(config), hidden=24, dimension=16, **none)
    devices.native_bfloat16 = lambda: None
    training_pictures.IN_MEMORY = 0


def few(shop: str, folder: Path) -> RerankerData:
    """Thirteen products to train with: one has no text, one no picture, and the picture of one is not there; the first
    process looks for it where its tower is frozen, and the second one trains with it."""
    catalogue = Catalogue.load(Path(shop))
    data = load_reranker_data(Artifacts.for_catalogue(catalogue, "pocket"), catalogue)
    found = data.products[data.products["true_path"].notna() & data.products["image"].notna()]
    parts = [found[found["split"] == split].head(count) for split, count in (("train", PRODUCTS), ("val", 6))]
    products = pd.concat(parts, ignore_index=True)
    products.loc[0, "text"], products.loc[1, "image"], products.loc[3, "image"] = "", None, str(folder / "none.jpg")
    return replace(data, products=products)


def gradients(setup: TrainingSetup, losses: Losses) -> dict[str, Tensor]:
    """In every stage a step with twelve products and one with a single one, of which one process has no share."""
    model, result = setup.model, {}
    # LoRA's B begins as 0, with which A has no gradient.
    shake(weight for name, weight in model.named_parameters() if name in model.own_state())
    for stage in STAGES:
        model.train_parts(stage)
        setup.inputs.keep(stage)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for rows in (np.arange(PRODUCTS - 1), np.array([PRODUCTS - 1])):
            [batch] = epoch_batches(setup.examples.lists, rows, PRODUCTS, np.random.default_rng(0))
            model.zero_grad()
            parts = losses(setup, batch)
            sum(parts.values()).backward()
            setup.processes.average_gradients(model.parameters())
            name = f"stage {stage}, {len(rows)} products:"
            result |= {f"{name} {part}": value.detach().clone() for part, value in parts.items()}
            found = {weight: value.grad for weight, value in model.named_parameters() if value.grad is not None}
            result |= {f"{name} gradient of {weight}": gradient.clone() for weight, gradient in found.items()}
            optimizer.step()
    return result | {f"weight {name}": weight.clone() for name, weight in model.own_state().items()}


def shared_losses(setup: TrainingSetup, batch: Batch) -> dict[str, Tensor]:
    return setup.losses(batch, setup.pixels(batch))


def naive_losses(setup: TrainingSetup, batch: Batch) -> dict[str, Tensor]:
    """All texts, pictures and paths through the towers, nothing kept, the products' own lists one by one."""
    model, inputs, tower = setup.model, setup.inputs, setup.model.text_tower
    texts = [inputs.texts[row] for row in batch.rows]
    preprocessing = model.vision_tower.preprocessing
    files = [file or Path() for file in inputs.files]
    pixels, usable = Pictures(files, preprocessing, preprocessing.side).take(batch.rows)
    products = model.embed_products(
        model.text_features(tower.tokenise(texts, model.architecture.product_length)),
        model.image_features(preprocessing.as_input(pixels)),
        torch.tensor([bool(text) for text in texts]),
        torch.from_numpy(usable),
    ).fused
    paths = tower.tokenise(setup.examples.paths, model.architecture.category_length)
    categories = model.embed_categories(model.text_features(paths))
    costs = []
    for at, row in enumerate(batch.rows):
        listed = setup.examples.lists.paths[row][setup.examples.lists.listed[row]]
        costs.append(cross_entropy(model.scale * categories[listed] @ products[at], torch.tensor(batch.truth[at])))
    labels = torch.from_numpy(batch.labels)
    keys = setup.queue.keys()
    contrastive = multi_positive_info_nce(products, categories[labels], labels, keys, scale=model.scale)
    setup.queue.push(products, categories[labels], labels)
    return {"listwise": torch.stack(costs).mean(), "contrastive": 0.1 * contrastive}


def count_rows() -> dict[str, int]:
    """How much goes through the towers, kept or in training, and how many pictures are read, from now on."""
    counts: dict[str, int] = {}

    def count(kind: type, name: str) -> None:
        key, function = f"{kind.__name__}.{name}", getattr(kind, name)
        counts[key] = 0

        def counted(self, rows, *rest):
            counts[key] += len(rows) if hasattr(rows, "__len__") else 1
            return function(self, rows, *rest)

        setattr(kind, name, counted)

    for towers in (CatalogueReranker, FrozenTowers):
        count(towers, "text_features"), count(towers, "image_features")
    count(Pictures, "_square")
    return counts


def save_gradients(folder: Path, shop: str, text: str, vision: str) -> None:
    data, config, processes = few(shop, folder), config_of(shop, text, vision), Processes.launched()
    if processes.count == 1:
        save_file(gradients(TrainingSetup.of(config, data), naive_losses), folder / "naive.safetensors")
    counts, setup = count_rows(), TrainingSetup.of(config, data, processes)
    result = gradients(setup, shared_losses)
    result |= {f"count {name}": torch.tensor(count) for name, count in counts.items()}
    save_file(result, folder / f"{processes.rank}-of-{processes.count}.safetensors")


def train_at_most(steps: int, config: TrainConfig) -> None:
    """Interrupted before it takes more; a process that makes or removes a folder, and is not the main one, fails."""
    losses, taken = TrainingSetup.losses, []

    def until(self, *arguments):
        if len(taken) == steps:
            raise KeyboardInterrupt
        taken.append(arguments)
        return losses(self, *arguments)

    TrainingSetup.losses = until
    if Processes.launched().rank:
        Path.mkdir = shutil.rmtree = None
    try:
        train.main(config)
    except KeyboardInterrupt:
        print("interrupted")


if __name__ == "__main__":
    only_rounding_differs()
    if sys.argv[1] == "gradients":
        save_gradients(Path(sys.argv[2]), *sys.argv[3:])
    else:
        train_at_most(int(sys.argv[2]), config_of(*sys.argv[3:], products=20))


@pytest.fixture(scope="module")
def arguments(reranker_shop, reranker_data, tiny_text_encoder, tmp_path_factory) -> list[str]:
    """The shop and the towers."""
    vision = tiny_vision("vit", tmp_path_factory.mktemp("vision"))
    return [str(reranker_shop.folder), str(tiny_text_encoder), vision]


@pytest.mark.slow
@pytest.mark.parametrize("by", ["mpi", "torch"])
def test_two_processes_have_the_gradient_of_one(arguments, launch, tmp_path, by):
    for way in ("alone", by):
        launch(way, tmp_path, __file__, "gradients", str(tmp_path), *arguments)
    names = ("naive", "0-of-1", "0-of-2", "1-of-2")
    naive, one, first, second = (load_file(tmp_path / f"{name}.safetensors") for name in names)
    for key in [key for key in one if key.startswith("count")]:
        counts = [int(part.pop(key)) for part in (one, first, second)]
        assert counts[0] == counts[1] + counts[2] > 0, key
        assert max(counts[1:]) <= 0.6 * counts[0], (key, counts)
    assert naive.keys() == one.keys() == first.keys() == second.keys()  # the same weights have no gradient
    trained = {"stage 0": "text_projection", "stage 1": "text_tower", "stage 2": "vision_tower"}
    assert all(any(key.startswith(stage) and part in key for key in first) for stage, part in trained.items())
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
        scale = float(naive[key].abs().max())
        assert scale == 0 or scale > 1e-5, (key, scale)  # less would pass the comparison with half of it missing
        for mine in (value, one[key]):
            torch.testing.assert_close(mine, naive[key], rtol=1e-4, atol=1e-4 * max(scale, 0.01), msg=key)


@pytest.mark.slow
def test_a_whole_training_of_two_processes_is_that_of_one(
    arguments, launch, reranker_root, reranker_shop, tmp_path, monkeypatch
):
    """Through every stage, checkpoint and log; and it goes on after an interruption, to the same bits."""

    def trained(name: str, by: str, *steps: int) -> train.TrainResult:
        root = tmp_path / name
        shutil.copytree(reranker_root, root, ignore=shutil.ignore_patterns("train", "unfinished"))
        monkeypatch.setenv("COURSE_ARTIFACTS", str(root))
        for at_most in steps:
            launch(by, tmp_path, __file__, "training", str(at_most), *arguments)
        return train.load_training(Artifacts.for_catalogue(reranker_shop, "pocket", root))

    one, two = trained("one", "alone", 16), trained("two", "torch", 16)
    assert one.log[["step", "stage", "epoch", "products"]].equals(two.log[["step", "stage", "epoch", "products"]])
    for name in ("listwise", "contrastive", "gradient_norm"):
        np.testing.assert_allclose(two.log[name], one.log[name], rtol=1e-4, err_msg=name)
    # The checkpoint before the seventh step is of the sixth: ten are left, and more it may not take.
    again = trained("again", "torch", 7, 10)
    assert again.metrics == two.metrics
    pd.testing.assert_frame_equal(again.log.drop(columns="seconds"), two.log.drop(columns="seconds"), check_exact=True)
    pd.testing.assert_frame_equal(again.confusions, two.confusions)
    for model in ("checkpoint_0", "checkpoint_1", "checkpoint_2", "best"):
        mine, theirs = (load_file(run.run.path / model / "reranker.safetensors") for run in (again, two))
        assert all(torch.equal(mine[name], value) for name, value in theirs.items()), model
