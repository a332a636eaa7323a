"""Training in three stages on a small shop: it learns, goes on after a kill to the same bits, and says what is wrong.

Run as a script (`python test_reranker_train.py SHOP WORK TEXT VISION`) it is the training that a test kills.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from chapter04_catalogue_reranker import category_ranking, train
from chapter04_catalogue_reranker.category_ranking import RERANKER, ZERO_SHOT, CategoryRankingConfig
from chapter04_catalogue_reranker.encode import encode_categories, encode_products
from chapter04_catalogue_reranker.examples import choose_products
from chapter04_catalogue_reranker.losses import CategoryQueue, listwise_loss, multi_positive_info_nce
from chapter04_catalogue_reranker.model import CatalogueReranker
from chapter04_catalogue_reranker.prepare_data import load_reranker_data
from chapter04_catalogue_reranker.studies import ablations
from chapter04_catalogue_reranker.studies.ablations import VARIANTS, AblationsConfig
from chapter04_catalogue_reranker.train import HEADLINE, load_training, model_folders, train_stages
from chapter04_catalogue_reranker.train_config import PROFILE_DEFAULTS, TrainConfig, resolved
from chapter04_catalogue_reranker.training_setup import TrainingSetup
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.errors import CourseError
from common.profiles import with_profile_defaults
from common.scoreboard import read_scoreboard
from common.settings import repository_root
from common.training_log import TrainingLog, read_log
from tests.chapter04_catalogue_reranker.towers_fixtures import tiny_text, tiny_vision

pytestmark = pytest.mark.slow

SMALL = {"products": 90, "epochs": (8, 1, 1), "batch_size": 32, "checkpoint_every": 2, "queue": 50}


def config_of(towers: tuple[str, str], **changes) -> TrainConfig:
    sizes = {"product_length": 24, "category_length": 16, "learning_rate": (5e-3, 2e-3, 2e-3)}
    return resolved(TrainConfig(profile="pocket", text=towers[0], vision=towers[1], **(SMALL | sizes | changes)))


if __name__ == "__main__":
    shop = Catalogue.load(Path(sys.argv[1]))
    prepared = load_reranker_data(Artifacts.for_catalogue(shop), shop)
    train_stages(config_of((sys.argv[3], sys.argv[4])), prepared, Path(sys.argv[2]))


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    return tiny_text(folder), tiny_vision("vit", folder)


@pytest.fixture(scope="module")
def whole(towers, reranker_data, tmp_path_factory):
    """The work folder of an uninterrupted training."""
    work = tmp_path_factory.mktemp("whole")
    train_stages(config_of(towers), reranker_data, work)
    return work


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "reranker.safetensors")


def lines(work: Path) -> list[dict]:
    rows = [json.loads(line) for line in (work / train.LOG).read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def written(work: Path) -> int:
    """Whole lines of the log; one that a kill cut off does not count."""
    log = work / train.LOG
    return log.read_bytes().count(b"\n") if log.exists() else 0


def assert_same(one: Path, other: Path) -> None:
    for name in ("checkpoint_0", "checkpoint_1", "checkpoint_2", "best"):
        mine, theirs = weights(one / name), weights(other / name)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine), name
    assert lines(one) == lines(other)
    assert json.loads((one / train.METRICS).read_text()) == json.loads((other / train.METRICS).read_text())


def test_three_stages_leave_their_models_and_lines(whole):
    log = read_log(whole / train.LOG)
    batches = log[log["listwise"].notna()]
    assert batches.groupby(["stage", "epoch"])["products"].sum().to_dict() == dict.fromkeys(
        [*((0, epoch) for epoch in range(1, 9)), (1, 1), (2, 1)], 90
    )
    assert (batches["contrastive"] > 0).all() and (batches["scale"] > 1).all()
    metrics = json.loads((whole / train.METRICS).read_text())
    assert list(metrics) == ["untrained", "stage 0", "stage 1", "stage 2"]
    headline = [metrics[f"stage {stage}"][HEADLINE] for stage in range(3)]
    assert headline == sorted(headline)  # a stage that gains nothing leaves the model as it was
    cost = batches.groupby(["stage", "epoch"])["listwise"].mean()
    assert cost[0, 8] < cost[0, 1] - 0.05
    last = weights(whole / "checkpoint_2")
    assert all(torch.equal(value, last[name]) for name, value in weights(whole / "best").items())


def test_a_stage_trains_its_part_and_nothing_else(towers, reranker_data, tmp_path):
    setup, log = TrainingSetup.of(config_of(towers, epochs=(1, 1, 1)), reranker_data), TrainingLog(tmp_path / "log")
    before = {name: value.clone() for name, value in setup.model.own_state().items()}
    for stage, tower in ((0, None), (1, "text_tower"), (2, "vision_tower")):
        setup.start_stage(stage)
        train.train_stage(stage, setup, tmp_path / str(stage), log)
        after = {name: value.clone() for name, value in setup.model.own_state().items()}
        changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
        own = {"text_projection", "image_projection", "gate", "logit_scale"}
        assert changed == own | ({tower} if tower else set())
        before = after
    log.close()


def test_the_losses_are_those_of_the_batch_computed_one_by_one(towers, reranker_data):
    setup = TrainingSetup.of(config_of(towers, batch_size=16), reranker_data)
    setup = replace(setup, placement=replace(setup.placement, precision="float32"))
    setup.start_stage(0)
    model, lists = setup.model.eval(), setup.examples.lists
    batches = setup.batches(0, 0)
    with torch.no_grad():
        before, second = (setup.losses(batch, None) for batch in batches[:2])
        vectors, paths = (torch.from_numpy(array) for array in setup.inputs.vectors(batches[1].rows))
        costs = []
        for at, row in enumerate(batches[1].rows):
            own = paths[lists.paths[row][lists.listed[row]]]
            scores = (model.scale * own @ vectors[at])[None]
            listed = torch.ones(scores.shape, dtype=torch.bool)
            costs.append(listwise_loss(scores, listed, torch.tensor([int(lists.truth[row])])))
        labels = torch.from_numpy(lists.labels()[batches[1].rows])
        first = torch.from_numpy(setup.inputs.vectors(batches[0].rows)[0])
        earlier = torch.from_numpy(lists.labels()[batches[0].rows])
        keys = CategoryQueue(50)
        keys.push(first, paths[earlier], earlier)
        contrastive = multi_positive_info_nce(vectors, paths[labels], labels, keys.keys(), scale=model.scale)
    assert float(before["listwise"]) != float(second["listwise"])
    assert float(second["listwise"]) == pytest.approx(float(torch.stack(costs).mean()), abs=1e-4)
    assert float(second["contrastive"]) == pytest.approx(0.1 * float(contrastive), abs=1e-3)
    assert len(setup.queue) == 32


@pytest.mark.parametrize("after", [1, 12, 25, 28])
def test_an_interrupted_training_goes_on_to_the_same_bits(whole, towers, reranker_data, tmp_path, monkeypatch, after):
    steps, losses = [0], TrainingSetup.losses

    def until(self, *arguments):
        if steps[0] == after:
            raise KeyboardInterrupt
        steps[0] += 1
        return losses(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingSetup, "losses", until)
        with pytest.raises(KeyboardInterrupt):
            train_stages(config_of(towers), reranker_data, tmp_path)
    assert not (tmp_path / "best").exists()
    train_stages(config_of(towers), reranker_data, tmp_path)
    assert_same(whole, tmp_path)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_bits(whole, towers, reranker_shop, reranker_data, tmp_path):
    command = [sys.executable, __file__, str(reranker_shop.folder), str(tmp_path), *towers]
    environment = os.environ | {"COURSE_QUIET": "1", "PYTHONPATH": str(repository_root())}
    seed = int(time.time())
    print("seed", seed)
    random = np.random.default_rng(seed)
    for _ in range(3):
        process = subprocess.Popen(command, env=environment)
        wanted = written(tmp_path) + int(random.integers(1, 5))
        while process.poll() is None and written(tmp_path) < wanted:
            time.sleep(0.01)
        assert process.poll() is None, "the training ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, env=environment)
    assert_same(whole, tmp_path)


def test_a_stage_that_gains_nothing_leaves_the_model_of_the_one_before(towers, reranker_data, tmp_path):
    train_stages(config_of(towers, learning_rate=(5e-3, 1e-12, 1e-12)), reranker_data, tmp_path)
    metrics = json.loads((tmp_path / train.METRICS).read_text())
    assert metrics["stage 2"]["epoch"] == metrics["stage 1"]["epoch"] == 0
    kept = weights(tmp_path / "checkpoint_0")
    assert all(torch.equal(value, kept[name]) for name, value in weights(tmp_path / "best").items())


def test_validation_leaves_the_model_in_training_mode(towers, reranker_data, tmp_path, monkeypatch):
    modes, losses = [], TrainingSetup.losses
    monkeypatch.setattr(
        TrainingSetup, "losses", lambda self, *rest: modes.append(self.model.training) or losses(self, *rest)
    )
    train_stages(config_of(towers, epochs=(2, 0, 0), contrastive=0.0), reranker_data, tmp_path)
    assert len(modes) == 6 and all(modes)
    assert "contrastive" not in read_log(tmp_path / train.LOG)


def test_figures_count_ranks_on_validation_products(towers, reranker_data):
    setup = TrainingSetup.of(config_of(towers), reranker_data)
    setup.start_stage(0)
    setup.model.eval()
    val = setup.examples.products.iloc[setup.examples.val]
    home = Path(reranker_data.catalogue.folder)
    images = [None if pd.isna(image) else home / image for image in val["image"]]
    cosines = encode_products(setup.model, val["text"].tolist(), images).fused
    cosines = cosines @ encode_categories(setup.model, reranker_data.paths).T
    first = [reranker_data.paths[at] for at in cosines.argmax(axis=1)]
    right = np.mean(np.array(first) == val["true_path"].to_numpy())
    assert setup.validation_figures()["taxonomy Acc@1"] == pytest.approx(right, abs=0.03)


def test_confusions_are_wrong_first_paths_of_training_products(whole, reranker_data):
    found = pd.read_parquet(whole / train.CONFUSIONS)
    true = reranker_data.products.set_index("product_id").loc[found["product_id"]]
    assert len(found) and (true["split"] == "train").all()
    assert (true["true_path"].to_numpy() != found["category_path"].to_numpy()).all()


def test_products_without_a_true_path_or_anything_to_see_are_no_examples(towers, reranker_data):
    products = reranker_data.products.copy()
    train_ids = products.index[products["split"] == "train"][:3]
    products.loc[train_ids[0], "true_path"] = None
    products.loc[train_ids[1], ["text", "image"]] = ["", None]
    products.loc[train_ids[2], "image"] = None
    lost = products.loc[train_ids, "product_id"].tolist()
    config = config_of(towers, products=10_000)
    assert [name in set(choose_products(products, config)["product_id"]) for name in lost] == [False, False, True]
    assert lost[2] not in set(choose_products(products, replace(config, inputs="image"))["product_id"])
    with pytest.raises(CourseError, match="there are 0 and"):
        choose_products(products[products["split"] != "train"], config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 1}, "batch_size is 1"),
        ({"warmup": 1.5}, "at most 1"),
        ({"epochs": (0, 0, 0)}, "not all of them 0"),
        ({"epochs": (1, 2)}, "three numbers"),
        ({"learning_rate": (1e-3, 0.0, 1e-3)}, "above 0"),
        ({"queue": -1}, "queue is -1"),
    ],
)
def test_a_config_that_trains_nothing_is_refused(change, message):
    with pytest.raises(CourseError, match=message):
        resolved(TrainConfig(**change))


@pytest.mark.parametrize("profile", PROFILE_DEFAULTS)
def test_profiles_fill_in_what_is_not_given(profile):
    config = resolved(TrainConfig(profile=profile, epochs=(1, 0, 0)))
    assert config.epochs == (1, 0, 0) and config.text == PROFILE_DEFAULTS[profile]["text"]
    assert config.architecture().text_pooling == ("cls" if profile == "full" else "mean")


@pytest.mark.parametrize("profile", PROFILE_DEFAULTS)
def test_every_profile_trains_the_variants_of_one_modality(profile):
    """Notebook 3 compares the model with both; smoke leaves the others out."""
    variants = with_profile_defaults(AblationsConfig(profile=profile), ablations.PROFILE_DEFAULTS).variants
    assert {"text only", "image only"} <= set(variants)
    assert set(variants) == ({"text only", "image only"} if profile == "smoke" else set(VARIANTS))


@pytest.fixture(scope="module")
def measured(towers, reranker_shop, reranker_data):
    """The steps `train`, `ablations` and `category_ranking` of the small shop."""
    source = str(reranker_shop.folder)
    train.main(replace(config_of(towers), catalogue=source))
    ablations.main(AblationsConfig(catalogue=source, variants=("text only", "image only", "no queue")))
    return category_ranking.main(CategoryRankingConfig(catalogue=source, split="test", accuracy=0.05))


def test_the_step_keeps_what_the_training_made(measured, reranker_shop, whole):
    artifacts = Artifacts.for_catalogue(reranker_shop)
    result, folders = load_training(artifacts), model_folders(artifacts)
    assert list(folders) == ["best", "stage_0", "stage_1", "stage_2"]
    assert all(CatalogueReranker.load(folder) for folder in folders.values())
    assert result.metrics.keys() == {"untrained", "stage 0", "stage 1", "stage 2"}
    assert not (artifacts.folder / train.CHAPTER / "unfinished").exists() or not any(
        (artifacts.folder / train.CHAPTER / "unfinished").iterdir()
    )


def test_the_loop_of_notebook_2_takes_the_modules_steps(measured, reranker_shop, reranker_data, capsys):
    notebook = json.loads((repository_root() / train.CHAPTER / "02_three_stages.ipynb").read_text())
    [cell] = [cell for cell in notebook["cells"] if "training-loop" in cell["metadata"].get("tags", [])]
    trained = load_training(Artifacts.for_catalogue(reranker_shop))
    variables = {"torch": torch, "trained": trained, "data": reranker_data, "config_of": train.config_of}
    with torch.random.fork_rng(devices=[]):
        exec("".join(cell["source"]), variables)
    assert len(cell["source"]) <= 20 and len(variables["losses"]) == 3
    assert variables["losses"] == trained.log["listwise"].tolist()[:3] and len(set(variables["losses"])) == 3
    assert capsys.readouterr().out == "the same 3 losses as the module's\n"


def test_the_step_saves_its_board_for_the_roof(measured, reranker_shop):
    saved, board = read_scoreboard(measured.run.path), measured.board
    assert saved["metric"].tolist() == [f"category, {metric}" for metric in board["metric"]]
    pd.testing.assert_frame_equal(saved[["system", "value", "ci_low"]], board[["system", "value", "ci_low"]])
    assert set(map(tuple, saved[["chapter", "source", "split"]].to_numpy())) == {
        (train.CHAPTER, reranker_shop.source, "test")
    }
    assert saved["seconds"].isna().all()


def test_ablations_change_one_thing_of_the_training_in_force(measured, reranker_shop, towers):
    found = ablations.load_ablations(Artifacts.for_catalogue(reranker_shop))
    assert list(found.folders) == ["text only", "image only", "no queue"]
    inputs = {name: CatalogueReranker.load(folder).architecture.inputs for name, folder in found.folders.items()}
    assert inputs == {"text only": "text", "image only": "image", "no queue": "both"}
    base = config_of(towers)
    assert all(replace(base, **change) != base for change in VARIANTS.values())
    with pytest.raises(CourseError, match="'no gate' is no variant"):
        ablations.main(AblationsConfig(catalogue=str(reranker_shop.folder), variants=("no gate",)))


def test_the_board_is_the_mean_over_products_of_each_system(measured, reranker_data):
    test = reranker_data.products[reranker_data.products["split"] == "test"]
    systems = {ZERO_SHOT, "stage 0", "stage 1", RERANKER, "text only", "image only", "no queue"}
    assert set(measured.board["system"]) == systems
    for system in systems:
        table = measured.per_product.xs(system, level="system")
        assert table.index.tolist() == test["product_id"].tolist()
        board = measured.board[measured.board["system"] == system].set_index("metric")["value"]
        assert board["listed Acc@1"] == pytest.approx(table["listed Acc@1"].mean())
        assert board["taxonomy macro R@1"] == pytest.approx(table["taxonomy macro R@1"].mean())
        macro = table["taxonomy Acc@1"].groupby(test["true_path"].to_numpy()).mean().mean()
        assert board["taxonomy macro R@1"] == pytest.approx(macro)
    assert {tuple(row) for row in measured.comparisons[["system", "against"]].to_numpy()} >= {
        (RERANKER, ZERO_SHOT), (RERANKER, "text only"), (RERANKER, "image only"),
    }  # fmt: skip
    assert (measured.comparisons["p_holm"] >= measured.comparisons["p"]).all()


def test_the_threshold_is_chosen_on_validation_and_stated_on_test(measured):
    assert set(measured.calibration) == {"listed", "taxonomy"}
    for among, facts in measured.calibration.items():
        curve = measured.coverage[measured.coverage["among"] == among]
        assert curve["coverage"].iloc[0] == 1 and facts["temperature"] > 0
        board = measured.board.set_index(["system", "metric"])["value"]
        assert curve["accuracy"].iloc[0] == pytest.approx(board[RERANKER, f"{among} Acc@1"], abs=0.02)  # but for ties
        if facts["threshold"] is None:
            assert facts["coverage"] == 0 and facts["accuracy"] is None
        else:
            answered = curve[curve["threshold"] >= facts["threshold"]].iloc[0]
            assert facts["coverage"] == pytest.approx(answered["coverage"])
            assert facts["accuracy"] == pytest.approx(answered["accuracy"])
    assert measured.calibration["listed"]["threshold"] is not None
    assert (measured.hierarchy.groupby("system")["F1 macro"].diff().dropna() >= 0).all()  # lenient after strict


def test_frequency_counts_the_products_that_were_trained_with(measured, reranker_data, towers):
    artifacts = Artifacts.for_catalogue(reranker_data.catalogue)
    seen = train.trained_products(artifacts, reranker_data)
    assert len(seen) == 90 < (reranker_data.products["split"] == "train").sum()
    counts = seen["true_path"].value_counts()
    test = reranker_data.products[reranker_data.products["split"] == "test"]
    unseen = ~test["true_path"].isin(counts.index)
    assert measured.by_frequency.loc["unseen", "n"] == unseen.sum() > 0


def test_what_another_training_made_is_refused(measured, reranker_shop, towers):
    artifacts = Artifacts.for_catalogue(reranker_shop)
    in_force = artifacts.current(train.CHAPTER, train.STEP)
    other = replace(config_of(towers, epochs=(1, 0, 0), seed=1), catalogue=str(reranker_shop.folder))
    train.main(other)
    with pytest.raises(CourseError, match=r"trained again since studies\.ablations"):
        ablations.load_ablations(artifacts)
    with pytest.raises(CourseError, match="trained again since category_ranking"):
        category_ranking.load_category_ranking(artifacts)
    train.main(train.config_of(in_force))  # made before, or again
    with pytest.raises(CourseError, match="trained again"):  # another run all the same
        category_ranking.load_category_ranking(artifacts)


def test_a_variant_of_a_training_without_stage_0_is_refused(reranker_data, towers, tmp_path):
    with pytest.raises(CourseError, match="not all of them 0"):
        ablations.train_variants(("no queue",), config_of(towers, epochs=(0, 1, 0)), reranker_data, tmp_path)
