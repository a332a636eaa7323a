"""A toy shop of 48 products with judged queries, a tiny random encoder, and the training data made of them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from chapter02_two_tower.architecture import Architecture
from chapter02_two_tower.batches import BatchMaker
from chapter02_two_tower.model import TwoTowerModel
from chapter02_two_tower.notes import note_pairs
from chapter02_two_tower.stage_batches import mine_once, stage_batches
from chapter02_two_tower.stages import Stage, plan_stages
from chapter02_two_tower.train import train_stages
from chapter02_two_tower.train_config import TrainConfig, resolved
from chapter02_two_tower.training_data import HARD_DTYPES, TrainingData, as_rows
from chapter02_two_tower.training_texts import TrainingTexts
from chapter02_two_tower.validation import Validation
from common.artifacts import RunFolder
from common.catalogue import Catalogue
from common.processes import Processes

THINGS = ("lamp", "chair", "kettle", "rug", "shelf", "mirror")
COLOURS = ("red", "blue", "green", "white")


def toy_catalogue() -> Catalogue:
    products = pd.DataFrame(
        [
            {"product_id": f"{thing}-{colour}-{number}", "title": f"{colour} {thing} number {number}"}
            for thing in THINGS
            for colour in COLOURS
            for number in (1, 2)
        ]
    )
    wordings = [(thing, colour) for thing in THINGS for colour in COLOURS]
    splits = ["train"] * 18 + ["val"] * 4 + ["test"] * 2
    queries = pd.DataFrame(
        [
            {"query_id": f"q{at:02d}", "query": f"{colour} coloured {thing}", "kind": "attribute", "split": split}
            for at, ((thing, colour), split) in enumerate(zip(wordings, splits, strict=True))
        ]
    )
    grades = []
    for query_id, (thing, colour) in zip(queries["query_id"], wordings, strict=True):
        for product_id in products["product_id"]:
            kind, shade, _ = product_id.split("-")
            grade = 3 * (kind == thing and shade == colour) or 1 * (kind == thing and shade == "white")
            if grade or shade == colour:
                grades.append({"query_id": query_id, "product_id": product_id, "grade": grade})
    return Catalogue.from_tables("toy", products=products, queries=queries, judgements=pd.DataFrame(grades))


def toy_data(catalogue: Catalogue, folder: Path) -> TrainingData:
    """Positives (grade 3, and 1 as weak ones), judged negatives, and two random ones for every query."""
    rows = catalogue.judgements.merge(catalogue.queries, on="query_id").merge(catalogue.products, on="product_id")
    rows = rows.rename(columns={"split_x": "split", "title": "product_text"})
    rows["label"] = (rows["grade"] > 0).astype(int)
    rows["weight"] = rows["grade"].map({3: 1.0, 1: 0.6, 0: 1.0})
    rows["stage"] = rows["grade"].map({3: 1, 1: 3, 0: 2})
    rows["neg_type"] = rows["grade"].map({0: "judged"})
    known = set(map(tuple, rows[["query_id", "product_id"]].to_numpy()))
    random = [
        {"query_id": q.query_id, "query": q.query, "product_id": p.product_id, "product_text": p.title, "label": 0}
        | {"weight": 1.0, "neg_type": "random", "split": "train", "stage": 1}
        for q in catalogue.queries.itertuples()
        for p in catalogue.products.sample(4, random_state=int(q.query_id[1:])).itertuples()
        if q.split == "train" and (q.query_id, p.product_id) not in known
    ]
    return TrainingData(
        run=RunFolder(folder, {"run": "toy"}),
        training_pairs=as_rows(pd.concat([rows[rows["split"] == "train"], pd.DataFrame(random)])),
        val_pairs=as_rows(rows[rows["split"] == "val"]),
        test_pairs=as_rows(rows[rows["split"] == "test"]),
        hard_negatives=as_rows(rows[:0].assign(rank=0, score=0.0), HARD_DTYPES),
        notes=note_pairs(catalogue.products),
        relevant=rows[rows["grade"] > 0][["query_id", "product_id"]],
    )


def tiny_encoder(folder: Path) -> str:
    """A BERT of two layers and 32 dimensions with random weights, and MiniLM's tokeniser."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    from common.encoders import packaged_minilm

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(**sizes)).save_pretrained(folder / "body")
    AutoTokenizer.from_pretrained(packaged_minilm()).save_pretrained(folder / "body")
    body = Transformer(str(folder / "body"), max_seq_length=24)
    model = SentenceTransformer(modules=[body, Pooling(32, pooling_mode="mean")], device="cpu")
    model.save_pretrained(str(folder / "encoder"))
    return str(folder / "encoder")


@dataclass
class ToyTraining:
    """A training of the toy shop in the folder `work`."""

    config: TrainConfig
    data: TrainingData
    validation: Validation
    work: Path

    def run(self) -> None:
        """Train every stage, alone or as one of the processes that were launched."""
        train_stages(self.config, self.data, self.validation, self.work, processes=Processes.launched())

    def start(self, number: int = 0) -> tuple[Stage, TwoTowerModel, BatchMaker, TrainingTexts]:
        """Return what the stage of this number would start with if the untrained model were the best so far."""
        stage = plan_stages(self.config, self.data)[number]
        model = TwoTowerModel.build(self.config.architecture, seed=self.config.seed)
        texts, folder = TrainingTexts(self.data, self.validation.product_texts), self.work / f"start-{number}"
        mine_once(stage, model, folder, texts, self.data, self.config)
        return stage, model, stage_batches(stage, folder, self.data, self.config), texts


def toy_training(folder: Path, **changes) -> ToyTraining:
    """Return a training in `folder`/work with the tiny encoder; the same in every process."""
    if not (folder / "encoder").is_dir():
        tiny_encoder(folder)
    catalogue = toy_catalogue()
    settings = {"pairs": (24, 24, 24), "epochs": (2, 2, 1), "negatives": (1, 2, 0), "batch_size": 8}
    settings |= {"learning_rate": 1e-3, "checkpoint_every": 2, **changes}
    shape = {name: settings.pop(name) for name in set(settings) & set(Architecture.__dataclass_fields__)}
    architecture = Architecture(encoder=str(folder / "encoder"), **shape)
    config = resolved(TrainConfig(profile="smoke", architecture=architecture, **settings))
    data = toy_data(catalogue, folder)
    return ToyTraining(config, data, Validation(catalogue, data), folder / "work")


if __name__ == "__main__":
    toy_training(Path(sys.argv[1]), **json.loads(sys.argv[2])).run()
