"""Trains the catalogue reranker in three stages, with a loop that reads from top to bottom.

    python -m chapter04_catalogue_reranker.train

Stage 0 trains projections and fusion on what the frozen towers say, stage 1 the text tower's LoRA with them, stage 2
the vision tower's. Each stage begins with the best model of the one before. Nothing is lost when a run is killed: the
same command goes on from the last checkpoint, to the same bits.

`accelerate launch --multi_gpu --num_processes 2 -m chapter04_catalogue_reranker.train` shares each batch among two
processes, on CPUs as well; through MPI it is `--cpu --mpirun_hostfile hosts` for `--multi_gpu`. Each then draws its
own dropout, and draws anew after an interruption.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from chapter02_two_tower.train import link_or_copy
from chapter03_multimodal.train import schedule
from chapter03_multimodal.training_pictures import prefetch
from chapter04_catalogue_reranker.batches import Batch, Candidates, epoch_batches
from chapter04_catalogue_reranker.inputs import Inputs
from chapter04_catalogue_reranker.losses import CategoryQueue, listwise_loss, multi_positive_info_nce
from chapter04_catalogue_reranker.model import STAGES, CatalogueReranker
from chapter04_catalogue_reranker.model_files import read_model
from chapter04_catalogue_reranker.prepare_data import RerankerData, load_reranker_data
from chapter04_catalogue_reranker.ranking_metrics import rank_of_truth, ranking_figures
from chapter04_catalogue_reranker.train_config import TrainConfig, resolved
from common.artifacts import Artifacts, RunFolder, code_digest, fingerprint, jsonable
from common.atomic import atomic_folder, atomic_write, read_json, write_json
from common.catalogue import load_catalogue
from common.checkpoints import read_state, restore_checkpoint, save_checkpoint
from common.cli import run_step
from common.devices import choose_placement
from common.errors import CourseError
from common.processes import Processes
from common.progress import progress, tell
from common.training_log import TrainingLog, open_tracker, read_log

CHAPTER, STEP = "chapter04_catalogue_reranker", "train"
HEADLINE = "taxonomy MRR"
LOG, METRICS, CONFUSIONS = "training_log.jsonl", "final_metrics.json", "confusions.parquet"
LONGEST_GRADIENT = 1.0
NEW = {"stage": 0, "epoch": 0, "step": 0, "lines": 0, "queued": 0, "figures": {}, "best": None}


@dataclass(frozen=True)
class TrainResult:
    """run: its folder holds `checkpoint_0` to `checkpoint_2` (the best model of each stage, for
    `CatalogueReranker.load`), `best`, the log, the metrics and `confusions.parquet`. log: a row a batch and a row an
    epoch. metrics: validation figures by "untrained", "stage 0" and so on. confusions: `product_id`, `category_path`,
    the wrong paths that the best model puts first for training products."""

    run: RunFolder
    log: pd.DataFrame
    metrics: dict[str, dict[str, Any]]
    confusions: pd.DataFrame


def main(config: TrainConfig) -> TrainResult:
    """Train, or go on where the same training was interrupted, or return what it made before."""
    config = resolved(config)
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data = load_reranker_data(artifacts, catalogue)
    inputs = {"prepare_data": data.run}
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        work = artifacts.folder / CHAPTER / "unfinished" / work_name(config, data)
        training = Training(config, work, data)
        training.run()
        if training.processes.is_main:
            with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
                shut = shutil.ignore_patterns("last", "stage_*", ".staging-*")
                shutil.copytree(work, folder, copy_function=link_or_copy, ignore=shut, dirs_exist_ok=True)
            shutil.rmtree(work)
        training.processes.wait()
    return load_training(artifacts)


def work_name(config: TrainConfig, data: RerankerData) -> str:
    """Stands for a training: what another config, input or state of the code began is not gone on with."""
    return fingerprint([jsonable(asdict(config)), data.run.name, code_digest(CHAPTER)])


def load_training(artifacts: Artifacts) -> TrainResult:
    """Read the training in force; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    metrics, confusions = read_json(run.path / METRICS), pd.read_parquet(run.path / CONFUSIONS)
    return TrainResult(run, read_log(run.path / LOG), metrics, confusions)


def trained_products(artifacts: Artifacts, data: RerankerData) -> pd.DataFrame:
    """The rows of `data.products` that the training in force has seen: a sample, if its config says so."""
    found = examples(data.products, config_of(artifacts.current(CHAPTER, STEP)))
    return found[found["split"] == "train"]


def config_of(trained: RunFolder) -> TrainConfig:
    """The config that a training was made with."""
    recorded = trained.manifest["config"]
    as_tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in recorded.items()}
    return TrainConfig(**{field.name: as_tuples[field.name] for field in fields(TrainConfig)})


def check_training(run: RunFolder, artifacts: Artifacts) -> None:
    """Raise CourseError if what a step made is of another training than the one in force."""
    trained = run.manifest["inputs"].get(STEP)
    if trained is not None and trained != artifacts.current(CHAPTER, STEP).name:
        step = run.name.split("/")[-2]
        raise CourseError(
            f"{CHAPTER}: the model was trained again since {step} was made.\n"
            f"Make it again with: python -m {CHAPTER}.{step}"
        )


def model_folders(artifacts: Artifacts) -> dict[str, Path]:
    """Return the folders of the trained models, which `CatalogueReranker.load` takes: "best", and "stage_0" and so on
    as far as a stage was trained."""
    path = artifacts.current(CHAPTER, STEP).path
    stages = {f"stage_{stage}": path / f"checkpoint_{stage}" for stage in STAGES}
    return {"best": path / "best"} | {name: folder for name, folder in stages.items() if folder.is_dir()}


class Training:
    """One training run in its work folder: `run` trains whatever is not trained yet.

    Of several processes all draw the same batches, fill the same queue and take the same steps; only the main one
    measures and writes.
    """

    def __init__(self, config: TrainConfig, work: Path, data: RerankerData) -> None:
        self.config, self.work, self.processes = config, work, Processes.launched()
        self.placement = choose_placement("torch")
        self.products = examples(data.products, config)
        self.lists = Candidates.of(data.candidates, self.products["product_id"].tolist(), data.paths)
        self.labels = self.lists.labels()
        self.rows = {split: np.flatnonzero(self.products["split"] == split) for split in ("train", "val")}
        self.model = CatalogueReranker.build(config.architecture(), config.seed).to(self.placement.device)
        folder = Path(data.catalogue.folder or ".")
        self.inputs = Inputs(self.model, self.products, data.paths, folder, self.processes)
        self.paths = data.paths
        self.queue = CategoryQueue(config.queue) if config.queue and config.contrastive else None

    def run(self) -> None:
        """Train all stages, and put the model of the last one into `best/`."""
        state = read_state(self.work / "last") or copy.deepcopy(NEW)
        is_main = self.processes.is_main
        track = self.config.track if is_main else None
        tracker = open_tracker(track, project="product-search-course", config=asdict(self.config))
        file = self.work / LOG if is_main else None
        log = TrainingLog(file, keep=state["lines"], tracker=tracker, watched=self.model)
        with closing(log), torch.random.fork_rng(devices=[]):
            for stage in STAGES[state["stage"] :]:
                if self.config.epochs[stage]:
                    self.train_stage(stage, state, log)
                state |= {"stage": stage + 1, "epoch": 0, "step": 0, "best": None}
        if is_main:
            self._finish(state)
        self.processes.wait()

    def train_stage(self, stage: int, state: dict[str, Any], log: TrainingLog) -> None:
        """Train one stage, or the rest of it, and put its best model into `checkpoint_<stage>`."""
        config, model, train, processes = self.config, self.model, self.rows["train"], self.processes
        self._start_from(stage, state)
        steps = max(1, len(epoch_batches(self.lists, train, config.batch_size, np.random.default_rng(0))))
        rates = config.learning_rate[stage] * schedule(config.epochs[stage] * steps, config.warm_up)
        optimizer = torch.optim.AdamW(model.parameter_groups(config.weight_decay), fused=True)
        self._restore(state, optimizer) if state["step"] else torch.manual_seed(config.seed + stage)
        if not processes.is_main:  # or dropout would meet the same places of every share
            rng = np.random.default_rng([config.seed, stage, state["step"], processes.rank])
            torch.manual_seed(int(rng.integers(2**63)))
        shown = processes.is_main
        bar = progress(total=len(rates), initial=state["step"], desc=f"stage {stage}", unit="batch", shown=shown)
        for epoch in range(state["epoch"], config.epochs[stage]):
            model.train()
            rng = np.random.default_rng([config.seed, stage, epoch])
            batches = epoch_batches(self.lists, train, config.batch_size, rng)
            taken = state["step"] - epoch * steps  # before the run was interrupted
            started = time.perf_counter()
            for batch, pixels in prefetch(batches[taken:], lambda batch: self.inputs.pixels(self._own(batch.rows))):
                for group in optimizer.param_groups:
                    group["lr"] = float(rates[state["step"]])
                optimizer.zero_grad()
                parts = self.losses(batch, pixels)
                sum(parts.values()).backward()
                processes.average_gradients(model.parameters())
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), LONGEST_GRADIENT)
                figures = {name: float(part.detach()) for name, part in parts.items()} | {"gradient_norm": float(norm)}
                if not all(map(math.isfinite, figures.values())):
                    raise CourseError(_not_a_number(stage, state["step"], figures))
                optimizer.step()
                state["step"] += 1
                figures |= {"rate": optimizer.param_groups[0]["lr"], "scale": float(model.scale.detach())}
                seconds = round(time.perf_counter() - started, 3)
                log.write(
                    state["step"], stage=stage, epoch=epoch + 1, **figures, products=len(batch.rows), seconds=seconds
                )
                bar.update(1)
                if state["step"] % config.checkpoint_every == 0 and state["step"] % steps:
                    self._save(optimizer, state, log)
                started = time.perf_counter()
            self._validate(stage, state, log)
            self._save(optimizer, state, log)
        bar.close()
        if processes.is_main:
            self._keep_best(stage, state)
        processes.wait()  # the next stage begins with what was kept

    def losses(self, batch: Batch, pixels: Tensor | None) -> dict[str, Tensor]:
        """The weighted losses of a batch by name; towers in half precision where the hardware computes in it.

        Of several processes each encodes its share of the products, of which it brings the `pixels`, and of the paths;
        all compute the losses of the whole batch. A picture that cannot be used changes its product's vector and
        nothing else, so that no other process needs to know.
        """
        model, inputs, device, gather = self.model, self.inputs, self.placement.device, self.processes.gather
        rows, columns = self._own(batch.rows), self._own(batch.columns)
        with torch.autocast(device, torch.bfloat16, enabled=self.placement.precision == "bfloat16"):
            text, image, paths = inputs.text(rows), inputs.image(rows, pixels), inputs.path(columns)
        there = (inputs.has_text[rows].to(device), inputs.has_image[rows].to(device))
        products = gather(model.embed_products(text, image, *there).fused, len(batch.rows))
        categories = gather(model.embed_categories(paths), len(batch.columns))
        candidates, listed, truth, labels = (
            torch.from_numpy(array).to(device) for array in (batch.candidates, batch.listed, batch.truth, batch.labels)
        )
        scores = model.scale * (products @ categories.T).gather(1, candidates)
        parts = {"listwise": listwise_loss(scores, listed, truth)}
        if self.config.contrastive:
            own = categories[candidates.gather(1, truth[:, None])[:, 0]]
            keys = self.queue.keys() if self.queue else None
            contrastive = multi_positive_info_nce(products, own, labels, keys, scale=model.scale)
            parts["contrastive"] = self.config.contrastive * contrastive
            if self.queue is not None:
                self.queue.push(products, own, labels)
        return parts

    def _own(self, rows: np.ndarray) -> np.ndarray:
        """Those that this process encodes."""
        return rows[self.processes.share(len(rows))]

    def figures(self) -> dict[str, float]:
        """How the model ranks the validation products' own candidates, and all paths of the catalogue."""
        rows = self.rows["val"]
        products, paths = self.inputs.vectors(rows)
        lists = Candidates(self.lists.paths[rows], self.lists.listed[rows], self.lists.truth[rows])
        everything = np.ones((len(rows), len(paths)), dtype=bool)
        taxonomy = ranking_figures(rank_of_truth(products @ paths.T, everything, self.labels[rows]))
        listed = ranking_figures(rank_of_truth(lists.scores(products, paths), lists.listed, lists.truth))
        return listed | {f"taxonomy {name}": value for name, value in taxonomy.items()}

    def _start_from(self, stage: int, state: dict[str, Any]) -> None:
        """Make the model what the stage before left, and keep the features of what is frozen now."""
        before = [self.work / f"checkpoint_{earlier}" for earlier in range(stage)]
        before = [folder for folder in before if folder.is_dir()]
        if before:
            self.model.load_own_state(read_model(before[-1], set(asdict(self.model.architecture)))[1])
        self.model.zero_grad()  # or the gradients of what is frozen now would still count in the norm
        self.model.train_parts(stage)
        self.inputs.keep(stage)
        if self.queue is not None:
            self.queue.reset()  # its vectors are of a model that begins to change in another part
        if "untrained" not in state["figures"]:
            state["figures"]["untrained"] = self.processes.from_main(self.figures)

    def _validate(self, stage: int, state: dict[str, Any], log: TrainingLog) -> None:
        """Measure, log, keep the model of the epoch, and note whether it is the stage's best so far."""
        started = time.perf_counter()
        self.model.eval()
        figures = self.processes.from_main(self.figures)
        self.model.train()
        state["epoch"] += 1
        seconds = round(time.perf_counter() - started, 3)
        log.write(state["step"], stage=stage, epoch=state["epoch"], **figures, seconds=seconds)
        if self.processes.is_main:
            folder = self.work / f"stage_{stage}" / f"epoch_{state['epoch']}"
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed just after
            self.model.save(folder)
        if state["best"] is None or figures[HEADLINE] > state["best"][HEADLINE]:
            state["best"] = {"epoch": state["epoch"], **figures}

    def _keep_best(self, stage: int, state: dict[str, Any]) -> None:
        """Link the stage's best model as its checkpoint: the one it began with, if no epoch was better."""
        earlier = [name for name in state["figures"] if name.startswith("stage") and name != f"stage {stage}"]
        source, best = self.work / f"stage_{stage}" / f"epoch_{state['best']['epoch']}", state["best"]
        if earlier and state["figures"][earlier[-1]][HEADLINE] >= best[HEADLINE]:
            tell(f"train: no epoch of stage {stage} was better on validation products than {earlier[-1]}, which stays")
            source = self.work / f"checkpoint_{earlier[-1].removeprefix('stage ')}"
            best = {**state["figures"][earlier[-1]], "epoch": 0}
        state["figures"][f"stage {stage}"] = best
        _link(source, self.work / f"checkpoint_{stage}")

    def _finish(self, state: dict[str, Any]) -> None:
        """Link the last stage's model as `best/`, and write metrics and confusions."""
        last = [stage for stage in STAGES if self.config.epochs[stage]][-1]
        _link(self.work / f"checkpoint_{last}", self.work / "best")
        self.model.load_own_state(read_model(self.work / "best", set(asdict(self.model.architecture)))[1])
        self.model.eval()
        rows = self.rows["train"]
        products, paths = self.inputs.vectors(rows)
        first = (products @ paths.T).argmax(axis=1)
        wrong = first != self.labels[rows]
        ids = self.products["product_id"].to_numpy()[rows[wrong]]
        found = pd.DataFrame({"product_id": ids, "category_path": [self.paths[at] for at in first[wrong]]})
        with atomic_write(self.work / CONFUSIONS) as temporary:
            found.to_parquet(temporary, index=False)
        write_json(self.work / METRICS, state["figures"])

    def _save(self, optimizer: torch.optim.Optimizer, state: dict[str, Any], log: TrainingLog) -> None:
        state |= {"lines": log.lines, "queued": len(self.queue) if self.queue is not None else 0}
        log.flush()
        if self.processes.is_main:
            name = f"stage-{state['stage']}-step-{state['step']:06d}-epoch-{state['epoch']}"
            save_checkpoint(self.work / "last", name, self._snapshot(), optimizer, state)

    def _restore(self, state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
        snapshot = self._snapshot(state["queued"])
        restore_checkpoint(self.work / "last", snapshot, optimizer)
        own = {name: tensor for name, tensor in snapshot.tensors.items() if not name.startswith("queue.")}
        self.model.load_own_state(own)
        if self.queue is not None:
            held = {name: tensor for name, tensor in snapshot.tensors.items() if name.startswith("queue.")}
            self.queue.load_state_dict({name.removeprefix("queue."): tensor for name, tensor in held.items()})

    def _snapshot(self, queued: int | None = None) -> Snapshot:
        """What a checkpoint holds; with room for so many queued products, to be filled, if `queued` is given."""
        tensors = self.model.own_state()
        if self.queue is not None:
            held = self.queue.state_dict()
            if queued is not None:
                vectors = torch.zeros(queued, self.model.architecture.dimension, dtype=torch.float16)
                held = {"products": vectors, "categories": vectors.clone(), "labels": torch.zeros(queued).long()}
            tensors |= {f"queue.{name}": tensor for name, tensor in held.items()}
        return Snapshot(tensors)


@dataclass(frozen=True)
class Snapshot:
    """Tensors by name, in the shape in which checkpoints take a model: the frozen towers need not be in them."""

    tensors: dict[str, Tensor]

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors themselves, not copies."""
        return self.tensors


def examples(products: pd.DataFrame, config: TrainConfig) -> pd.DataFrame:
    """The products to train and validate with: a true path, and something the model is told of. Raises CourseError if
    a split has too few."""
    told = {"both": (products["text"] != "") | products["image"].notna(), "text": products["text"] != "",
            "image": products["image"].notna()}[config.inputs]  # fmt: skip
    usable = products[told & products["true_path"].notna()]
    train, val = usable[usable["split"] == "train"], usable[usable["split"] == "val"]
    if len(train) < 2 or not len(val):
        raise CourseError(
            f"train: needs two products or more to train with and one to validate with; there are {len(train)} and "
            f"{len(val)} that have a true path and {config.inputs.replace('both', 'a text or an image')}. "
            "prepare_data prints how many each split has."
        )
    if len(train) > config.products:
        train = train.sample(config.products, random_state=config.seed).sort_index()
    return pd.concat([train, val], ignore_index=True)


def _link(source: Path, target: Path) -> None:
    """Make `target` the model in `source`, which takes no room."""
    shutil.rmtree(target, ignore_errors=True)
    with atomic_folder(target) as folder:
        shutil.copytree(source, folder, copy_function=link_or_copy, dirs_exist_ok=True)


def _not_a_number(stage: int, step: int, figures: dict[str, float]) -> str:
    return (
        f"train: losses and gradient norm are {figures} at step {step + 1} of stage {stage}; training stopped before "
        "this step.\nEarlier epochs are kept. Try a lower --learning-rate."
    )


if __name__ == "__main__":
    run_step(main)
