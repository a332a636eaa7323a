"""Sweep the settings of the towers on the validation queries, by a grid or by a search that learns from its trials.

    python -m chapter02_two_tower.pooled_towers.sweep --preset quick --count 8
    python -m chapter02_two_tower.pooled_towers.sweep --preset extensive --count 40 --model two_tower --track trackio

quick tries every point of a small grid once. basic and extensive are Bayesian: a tree-structured Parzen estimator
(Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization") prefers settings that were likely among the good
trials and unlikely among the bad ones. The value of a trial is the nDCG@10 of its best epoch. The best value of many
trials is flattered by chance: report its test figure, never this one. A file keeps the trials, so that the same command
continues a killed sweep. If code or inputs changed, trials no longer compare, and a new file begins.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from chapter02_two_tower import train as two_tower
from chapter02_two_tower.architecture import Architecture
from chapter02_two_tower.pooled_towers.data import validation_pool
from chapter02_two_tower.pooled_towers.presets import PRESETS, Space
from chapter02_two_tower.pooled_towers.train import HEADLINE, PooledConfig, train_towers
from chapter02_two_tower.pooled_towers.train import resolved as resolved_pooled
from chapter02_two_tower.train_config import TrainConfig, resolved
from chapter02_two_tower.training_data import TrainingData, load_training_data
from common.artifacts import Artifacts, code_digest, fingerprint
from common.atomic import read_json, write_json
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.progress import progress, tell
from common.training_log import TrainingLog, open_tracker

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHAPTER, STEP = "chapter02_two_tower", "pooled_towers.sweep"
GRID = "quick"

RANDOM_FIRST = 6
"""Trials drawn at random before the estimator has enough to learn from."""

Trial = Callable[[dict[str, Any]], pd.DataFrame]
"""Train with settings and return the history: a row a measurement, `step, nDCG@10` and other numbers to track."""


@dataclass(frozen=True)
class SweepConfig:
    """Try settings of the towers on the validation queries."""

    preset: str = "quick"
    """quick (a grid), basic or extensive (Bayesian)."""
    count: int = 8
    """Trials in all, those of an earlier call of the same sweep included."""
    model: str = "pooled"
    """pooled (seconds a trial) or two_tower (minutes a trial)."""
    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    track: str | None = None
    """tensorboard, wandb or trackio, to show each trial there too."""
    seed: int = 0
    """Seed of the search and of every training."""


@dataclass(frozen=True)
class SweepResult:
    """Hold the trials of a sweep.

    study: optuna's. trials: a row a finished trial, best first: `number, nDCG@10, seconds` and its settings; nDCG@10 is
    missing where the training failed. file: holds the trials; remove it to begin anew.
    """

    study: optuna.Study
    trials: pd.DataFrame
    file: Path


def main(config: SweepConfig) -> SweepResult:
    """Run the trials that are missing, and print the best settings.

    Raises `MissingArtifact`, with the command to run, if there is no training data, and `CourseError` for wrong
    settings and if every training fails.
    """
    if config.model not in PRESETS:
        raise CourseError(f"no model {config.model!r} to sweep; choose one of {', '.join(PRESETS)}")
    if config.preset not in PRESETS[config.model]:
        raise CourseError(f"no preset {config.preset!r}; choose one of {', '.join(PRESETS[config.model])}")
    if config.count < 1:
        raise CourseError(f"count must be at least 1, not {config.count}")
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data = load_training_data(artifacts)
    space = PRESETS[config.model][config.preset]
    base, train = MODELS[config.model](config, catalogue, data)
    inputs = [data.run.name, *(artifacts.current(*step).name for step in OTHER_INPUTS[config.model])]
    tried = {name: str(values) for name, values in space.items()}
    key = fingerprint([base, inputs, code_digest(CHAPTER), tried, config.seed])
    file = artifacts.folder / CHAPTER / "sweeps" / f"{config.model}-{config.preset}-{key}.db"
    study = open_study(file)
    run_trials(study, space, config, train)
    trials = trial_table(study)
    if trials[HEADLINE].isna().all():
        raise CourseError(f"every training of the sweep failed: {finished_trials(study)[-1].user_attrs['fault']}")
    tell(f"best of {len(trials)}: {HEADLINE} {study.best_value:.3f} with {study.best_params}")
    return SweepResult(study, trials, file)


def open_study(file: Path) -> optuna.Study:
    """Open the study of a file with its trials; the file is SQLite, so a killed writer leaves no half trial."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file.parent.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{file.resolve().as_posix()}"
    return optuna.create_study(storage=storage, study_name=STEP, direction="maximize", load_if_exists=True)


def run_trials(study: optuna.Study, space: Space, config: SweepConfig, train: Trial) -> None:
    """Train until `config.count` trials are finished, or every point of a grid was tried.

    The seed of each trial depends on the number of finished ones: an interrupted sweep draws the same settings as an
    uninterrupted one. A training that raises `CourseError` (a loss that is no number) is a finished trial without a
    value.
    """
    wanted = config.count
    if config.preset == GRID and wanted > (points := len(_grid(space))):
        tell(f"{config.preset}: the grid has {points} points, all of them are tried")
        wanted = points

    def objective(trial: optuna.Trial) -> float:
        settings = {name: _suggest(trial, name, values) for name, values in space.items()}
        log = TrainingLog(None, tracker=open_tracker(config.track, run=f"trial-{trial.number}", config=settings))
        started = time.perf_counter()
        try:
            history = train(settings)
            for row in history.to_dict("records"):
                log.write(int(row.pop("step")), **row)
        except CourseError as error:
            trial.set_user_attr("fault", str(error))
            raise optuna.TrialPruned from error
        finally:
            trial.set_user_attr("seconds", round(time.perf_counter() - started, 3))
            log.close()
        return float(history[HEADLINE].max())

    finished = len(finished_trials(study))
    with progress(total=wanted, initial=min(wanted, finished), desc="sweep", unit="trial") as bar:
        for _ in range(finished, wanted):
            study.sampler = _sampler(config, space, study)
            study.optimize(objective, n_trials=1)
            bar.update()


def finished_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that ended, with a value or (pruned) without; a killed one stays "running" and is left out."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def trial_table(study: optuna.Study) -> pd.DataFrame:
    """Return the table `SweepResult.trials` of a study."""
    rows = [
        {"number": trial.number, HEADLINE: trial.value, "seconds": trial.user_attrs["seconds"], **trial.params}
        for trial in finished_trials(study)
    ]
    return pd.DataFrame(rows).sort_values(HEADLINE, ascending=False, kind="stable", ignore_index=True)


def draw_history(study: optuna.Study, axes: Axes) -> Axes:
    """Draw the value of each trial, and the best so far as a line."""
    trials = [trial for trial in finished_trials(study) if trial.value is not None]
    numbers, values = [trial.number for trial in trials], [trial.value for trial in trials]
    axes.scatter(numbers, values, color="#8fbf9f", label="trial", zorder=3)
    axes.step(numbers, np.maximum.accumulate(values), where="post", color="#2f6f4f", label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(f"validation {HEADLINE}")
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def draw_importance(study: optuna.Study, axes: Axes) -> Axes:
    """Draw the share of the differences between trials that each setting explains.

    By functional ANOVA over a random forest (Hutter et al. 2014, "An Efficient Approach for Assessing Hyperparameter
    Importance"). Few trials say little: a setting with two values is important or not *between those two*. Raises
    `CourseError` for fewer than four trials with a value.
    """
    valued = [trial for trial in finished_trials(study) if trial.value is not None]
    if len(valued) < 4:
        raise CourseError(f"importance needs four trials with a value, there are {len(valued)}; raise --count")
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    names = sorted(found, key=found.__getitem__)
    axes.barh(names, [found[name] for name in names], color="#2f6f4f")
    axes.set_xlabel("share of the differences explained")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _sampler(config: SweepConfig, space: Space, study: optuna.Study) -> optuna.samplers.BaseSampler:
    """Return the sampler of the next trial.

    optuna's grid sampler counts an interrupted trial as tried. So it gets the first unfinished point, a grid of one.
    """
    if config.preset == GRID:
        tried = [trial.params for trial in finished_trials(study)]
        point = next(point for point in _grid(space) if point not in tried)
        return optuna.samplers.GridSampler({name: [value] for name, value in point.items()}, seed=config.seed)
    seed = int(np.random.SeedSequence([config.seed, len(finished_trials(study))]).generate_state(1)[0])
    return optuna.samplers.TPESampler(n_startup_trials=RANDOM_FIRST, seed=seed)


def _grid(space: Space) -> list[dict[str, Any]]:
    return [dict(zip(space, values, strict=True)) for values in product(*(names.choices for names in space.values()))]


def _suggest(trial: optuna.Trial, name: str, values: BaseDistribution) -> Any:
    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(name, values.choices)
    if isinstance(values, IntDistribution):
        return trial.suggest_int(name, values.low, values.high)
    return trial.suggest_float(name, values.low, values.high, log=values.log)


def _pooled(config: SweepConfig, catalogue: Catalogue, data: TrainingData) -> tuple[Any, Trial]:
    base = resolved_pooled(PooledConfig(catalogue=config.catalogue, profile=config.profile, seed=config.seed))
    pool = validation_pool(catalogue, data, size=base.pool, queries=base.pool_queries, seed=base.seed)

    def train(settings: dict[str, Any]) -> pd.DataFrame:
        others = {name: value for name, value in settings.items() if name != "kind"}
        history = train_towers(settings.get("kind", "mean"), replace(base, **others), data, pool)[1]
        return history.drop(columns="kind")

    return base, train


def _two_tower(config: SweepConfig, catalogue: Catalogue, data: TrainingData) -> tuple[Any, Trial]:
    base = TrainConfig(catalogue=config.catalogue, profile=config.profile, control=False, seed=config.seed)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)

    def train(settings: dict[str, Any]) -> pd.DataFrame:
        shape = {name: value for name, value in settings.items() if name in Architecture.__dataclass_fields__}
        others = {name: value for name, value in settings.items() if name not in shape}
        tried = replace(base, architecture=replace(base.architecture, **shape), **others)
        with _current_kept(artifacts.folder / two_tower.CHAPTER / two_tower.STEP):
            log = two_tower.main(tried).log
        return log[log[HEADLINE].notna()].select_dtypes("number")

    return resolved(base), train


@contextmanager
def _current_kept(step: Path) -> Iterator[None]:
    """Keep the run in force of a step in force, and remove the runs made meanwhile: their weights are large."""
    pointer = step / "current.json"
    before = read_json(pointer) if pointer.is_file() else None
    known = {path.name for path in step.iterdir()} if step.is_dir() else set()
    try:
        yield
    finally:
        if before is not None:
            write_json(pointer, before)
        else:
            pointer.unlink(missing_ok=True)
        for path in step.iterdir() if step.is_dir() else ():
            if path.is_dir() and path.name not in known:
                shutil.rmtree(path)


MODELS: dict[str, Callable[[SweepConfig, Catalogue, TrainingData], tuple[Any, Trial]]] = {
    "pooled": _pooled,
    "two_tower": _two_tower,
}

OTHER_INPUTS: dict[str, tuple[tuple[str, str], ...]] = {
    "pooled": (),
    "two_tower": (("chapter01_baseline", "reindex"),),
}
"""By model, the (chapter, step) of the runs that its training reads besides `prepare_data`'s. The guide of the towers
is chapter 1's encoder."""


if __name__ == "__main__":
    run_step(main)
