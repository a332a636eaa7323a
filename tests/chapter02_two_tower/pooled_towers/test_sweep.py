"""Sweeps: the file goes on where it was killed, draws what it would have drawn, and leaves other runs alone."""

from __future__ import annotations

import math
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution

from chapter02_two_tower import train
from chapter02_two_tower.architecture import Architecture
from chapter02_two_tower.pooled_towers import sweep
from chapter02_two_tower.pooled_towers.presets import PRESETS
from chapter02_two_tower.pooled_towers.sweep import SweepConfig
from chapter02_two_tower.pooled_towers.train import PooledConfig
from chapter02_two_tower.train_config import TrainConfig
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.errors import CourseError, MissingArtifact

pytestmark = pytest.mark.slow


def value_of(settings):
    """A landscape with one top: a rate of 0.003, a margin of 0.5, the more dimensions the better."""
    away = 2 * abs(math.log10(settings["learning_rate"] / 3e-3)) + abs(settings["margin"] - 0.5)
    return max(0.0, 0.4 - 0.1 * away + 0.02 * math.log2(settings["dimension"] / 64))


@pytest.fixture
def swept(tmp_path, monkeypatch, artifacts_root):
    """`swept(**config)` runs a sweep whose trainings are `value_of`; `swept.seen` are the settings of the trainings,
    `swept.catalogue` is theirs."""
    products = pd.DataFrame({"product_id": ["p"], "title": ["lamp"]})
    catalogue = Catalogue.from_tables("one", products=products).save(tmp_path / "one")
    monkeypatch.setattr(sweep, "load_training_data", lambda _: SimpleNamespace(run=SimpleNamespace(name="data/1")))
    seen = []

    def train(settings):
        seen.append(settings)
        if settings["learning_rate"] == run.diverges_at:
            raise CourseError("the loss is nan")
        if len(seen) == run.killed_at:
            raise KeyboardInterrupt
        best = value_of(settings)
        return pd.DataFrame({"step": [10, 20], "nDCG@10": [best, best / 2]})

    def run(**config):
        return sweep.main(SweepConfig(catalogue=str(catalogue.folder), **config))

    run.seen, run.diverges_at, run.killed_at, run.catalogue = seen, None, None, catalogue
    monkeypatch.setitem(sweep.MODELS, "pooled", lambda config, *_: (PooledConfig(seed=config.seed), train))
    return run


def test_a_grid_tries_every_point_once_and_no_more(swept):
    result = swept(preset="quick", count=50)
    space = PRESETS["pooled"]["quick"]
    points = math.prod(len(values.choices) for values in space.values())
    assert len(result.trials) == points == len({tuple(settings.items()) for settings in swept.seen})
    best = max(swept.seen, key=value_of)
    assert result.study.best_params == best and result.trials["nDCG@10"].iloc[0] == pytest.approx(value_of(best))
    assert result.trials["nDCG@10"].is_monotonic_decreasing
    swept(preset="quick", count=50)
    assert len(swept.seen) == points


@pytest.mark.parametrize("preset", ["quick", "basic"])
def test_a_sweep_goes_on_and_draws_what_one_in_one_go_draws(swept, preset):
    swept(preset=preset, count=2)
    assert len(swept.seen) == 2
    result = swept(preset=preset, count=8)
    assert len(swept.seen) == len(result.trials) == 8
    whole = [*swept.seen]
    result.file.unlink()
    swept(preset=preset, count=8)
    assert swept.seen[8:] == whole
    assert len({tuple(settings.items()) for settings in whole}) == 8


def test_an_interrupted_trial_counts_as_none_and_its_grid_point_is_tried_after_all(swept):
    swept.killed_at = 2
    with pytest.raises(KeyboardInterrupt):
        swept(preset="quick", count=8)
    swept.killed_at = None
    result = swept(preset="quick", count=8)
    assert len(result.trials) == 8 and len(swept.seen) == 9
    space = PRESETS["pooled"]["quick"]
    assert len(result.trials.drop_duplicates(list(space))) == 8


def test_a_killed_process_leaves_its_finished_trials(kill_at_pause, tmp_path):
    script = """
        from chapter02_two_tower.pooled_towers.sweep import open_study
        study = open_study(folder / "sweep.db")
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
        study.optimize(lambda trial: pause() or trial.suggest_float("x", 0, 1), n_trials=1)
    """
    kill_at_pause(script, tmp_path)
    study = sweep.open_study(tmp_path / "sweep.db")
    assert len(sweep.finished_trials(study)) == 2 and len(study.trials) == 3


def test_the_bayesian_search_learns_from_its_trials(swept):
    swept(preset="basic", count=40)
    values = [value_of(settings) for settings in swept.seen]
    drawn = values[: sweep.RANDOM_FIRST]
    assert sum(values[-10:]) / 10 > sum(drawn) / len(drawn) + 0.02


def test_another_preset_or_seed_is_another_sweep(swept):
    files = {swept(preset=preset, seed=seed, count=1).file for preset in ("quick", "basic") for seed in (0, 1)}
    assert len(files) == 4 == len(swept.seen)


def test_other_code_or_other_data_is_another_sweep(swept, monkeypatch):
    files = [swept(count=1).file]
    monkeypatch.setattr(sweep, "code_digest", lambda chapter: f"{chapter}, edited since")
    files.append(swept(count=1).file)
    monkeypatch.setattr(sweep, "load_training_data", lambda _: SimpleNamespace(run=SimpleNamespace(name="data/2")))
    files.append(swept(count=1).file)
    assert len({*files}) == 3 == len(swept.seen)
    assert swept(count=1).file == files[-1] and len(swept.seen) == 3


def test_a_training_that_fails_is_a_trial_without_a_value(swept):
    swept.diverges_at = 3e-3
    result = swept(preset="quick", count=8)
    failed = result.trials["learning_rate"] == 3e-3
    assert failed.sum() == 4 and (result.trials["nDCG@10"].isna() == failed).all()
    assert swept(preset="quick", count=8).study.best_params["learning_rate"] == 1e-3 and len(swept.seen) == 8


def test_a_sweep_of_failures_says_so(swept, monkeypatch):
    monkeypatch.setitem(PRESETS["pooled"], "quick", {"learning_rate": CategoricalDistribution((1e-3,))})
    swept.diverges_at = 1e-3
    with pytest.raises(CourseError, match=r"every training .* the loss is nan"):
        swept(preset="quick", count=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preset": "huge"}, "choose one of quick, basic, extensive"),
        ({"count": 0}, "at least 1"),
        ({"model": "tree"}, "choose one of pooled, two_tower"),
        ({"track": "paper"}, "wandb, trackio"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_trained(swept, wrong, message):
    with pytest.raises(CourseError, match=message):
        swept(**wrong)
    assert swept.seen == []


def test_a_tracker_sees_every_row_of_every_trial(swept, monkeypatch):
    told = []

    def open_tracker(name, *, run, config):
        told.append((name, run, config))
        return SimpleNamespace(
            begin=lambda lines: None, log=lambda row, line: told.append(row), close=lambda: told.append("closed")
        )

    monkeypatch.setattr(sweep, "open_tracker", open_tracker)
    swept(preset="quick", count=2, track="trackio")
    best = [value_of(settings) for settings in swept.seen]
    assert told == [
        entry
        for trial in range(2)
        for entry in (
            ("trackio", f"trial-{trial}", swept.seen[trial]),
            {"step": 10, "nDCG@10": best[trial]},
            {"step": 20, "nDCG@10": best[trial] / 2},
            "closed",
        )
    ]


def test_history_and_importance_are_drawn(swept):
    study = swept(preset="basic", count=3).study
    figure, (left, right) = plt.subplots(1, 2)
    with pytest.raises(CourseError, match="four trials"):
        sweep.draw_importance(study, right)
    study = swept(preset="basic", count=30).study
    sweep.draw_history(study, left)
    sweep.draw_importance(study, right)
    values = [value_of(settings) for settings in swept.seen]
    assert left.collections[0].get_offsets()[:, 1].tolist() == pytest.approx(values)
    assert left.lines[0].get_ydata()[-1] == pytest.approx(max(values))
    shares = {
        label.get_text(): bar.get_width() for label, bar in zip(right.get_yticklabels(), right.patches, strict=True)
    }
    assert sum(shares.values()) == pytest.approx(1)
    # value_of looks at the rate most, and not at all at the rate of the token weights.
    assert shares["token_weight_rate"] < shares["learning_rate"]
    plt.close(figure)


def test_every_setting_of_a_sweep_is_a_field_of_its_config():
    for preset in PRESETS["pooled"].values():
        assert set(preset) - {"kind"} <= set(PooledConfig.__dataclass_fields__)
    for preset in PRESETS["two_tower"].values():
        assert set(preset) <= {*TrainConfig.__dataclass_fields__, *Architecture.__dataclass_fields__}


def test_trainings_of_a_sweep_leave_the_run_in_force(tmp_path):
    artifacts = Artifacts("shop", "0", root=tmp_path)

    def make(step="train"):
        with artifacts.new_run("chapter02_two_tower", step, config={}) as folder:
            (folder / "weights").write_text("x")

    folder = artifacts.folder / "chapter02_two_tower" / "train"
    with sweep._current_kept(folder):
        make()
    assert [*folder.iterdir()] == []
    make()
    before = artifacts.current("chapter02_two_tower", "train").name
    with sweep._current_kept(folder):
        make()
        assert artifacts.current("chapter02_two_tower", "train").name != before
    assert artifacts.current("chapter02_two_tower", "train").name == before
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 1


def test_the_real_towers_are_trained_with_the_settings_of_the_trial(swept, monkeypatch):
    with pytest.raises(MissingArtifact, match=r"python -m chapter01_baseline\.reindex"):
        swept(model="two_tower")
    make_indices(swept.catalogue)
    seen = []

    def stand_in(config):
        seen.append(config)
        epochs = [{"step": 5, "stage": "stage1", "nDCG@10": 0.3}, {"step": 9, "stage": "stage2", "nDCG@10": 0.4}]
        return SimpleNamespace(log=pd.DataFrame([{"step": 1, "stage": "stage1", "loss": 2.0}, *epochs]))

    monkeypatch.setattr(train, "main", stand_in)
    result = swept(preset="quick", model="two_tower", count=2, seed=4)
    assert [config.seed for config in seen] == [4, 4] and not any(config.control for config in seen)
    tried = {(config.learning_rate, config.architecture.temperature) for config in seen}
    assert (
        tried == set(zip(result.trials["learning_rate"], result.trials["temperature"], strict=True)) and len(tried) == 2
    )
    assert (result.trials["nDCG@10"] == 0.4).all()
    # The guide of the towers reads chapter 1's index: another one, another sweep.
    make_indices(swept.catalogue)
    assert swept(preset="quick", model="two_tower", count=2, seed=4).file != result.file and len(seen) == 4


def make_indices(catalogue):
    with Artifacts.for_catalogue(catalogue).new_run("chapter01_baseline", "reindex", config={}) as folder:
        (folder / "flat").mkdir()
