"""The step that mines with the trained towers, and the table and picture of what it finds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from chapter02_two_tower import mine_hard_negatives
from chapter02_two_tower.mine_hard_negatives import MineConfig, draw_scores, hard_negatives_of
from chapter02_two_tower.mining import RULES, Mined, mine
from chapter02_two_tower.model import TwoTowerModel
from chapter02_two_tower.train_config import TrainConfig
from chapter02_two_tower.training_data import HARD_DTYPES, TrainingData, as_rows
from common.artifacts import Artifacts
from common.catalogue import Catalogue, product_text
from common.errors import MissingArtifact
from tests.chapter02_two_tower.test_mining import some_vectors


def test_the_margin_is_measured_as_in_training_unless_told_otherwise():
    queries, products, product_ids, query_ids, positives = some_vectors()
    arguments = [queries, products, product_ids, query_ids, {}, positives]
    plain = mine(*arguments).negatives
    pd.testing.assert_frame_equal(plain, mine(*arguments, margin_from=TrainConfig.margin_from).negatives)
    assert len(plain) > len(mine(*arguments, margin_from="lowest").negatives)
    assert MineConfig.margin_from == TrainConfig.margin_from == "highest"


@pytest.fixture
def data():
    """Two training queries over six products: q0 has a positive, a complement and a product judged irrelevant."""
    rows = [("q0", "mug", "p0", 1, 3, 1), ("q0", "mug", "p1", 1, 1, 3), ("q0", "mug", "p2", 0, 0, 2)]
    rows += [("q1", "lamp", "p3", 1, 2, 1)]
    frame = pd.DataFrame(rows, columns=["query_id", "query", "product_id", "label", "grade", "stage"])
    frame = frame.assign(weight=1.0, split="train", product_text="text")
    relevant = frame[frame["label"] == 1][["query_id", "product_id"]].astype("str")
    pairs = as_rows(frame[frame["stage"] != 3])  # complements are not used here, and are no negatives for that
    nothing = pairs.iloc[:0]
    hard = as_rows(frame.iloc[:0], HARD_DTYPES)
    return TrainingData(None, pairs, nothing, nothing, hard, pd.DataFrame(), relevant)


def test_mined_rows_are_rows_of_the_table(data):
    texts = {f"p{at}": f"text of p{at}" for at in range(6)}
    vectors = np.eye(6, 4, dtype=np.float32)
    table, mined = hard_negatives_of(
        data, vectors[[0, 3]], ["q0", "q1"], vectors, [*texts], texts, relative_margin=None, top=6, keep=20
    )
    assert table.dtypes.astype(str).to_dict() == HARD_DTYPES
    assert set(table[table["query_id"] == "q0"]["product_id"]) == {"p2", "p3", "p4", "p5"}
    assert set(table[table["query_id"] == "q1"]["product_id"]) == {"p0", "p1", "p2", "p4", "p5"}
    assert (table["neg_type"] == "hard").all() and (table["label"] == 0).all() and (table["stage"] == 2).all()
    assert table["product_text"].tolist() == [texts[product_id] for product_id in table["product_id"]]
    assert set(table[table["query_id"] == "q1"]["query"]) == {"lamp"}
    known = table[table["grade"].notna()]
    assert known[["query_id", "product_id", "grade"]].values.tolist() == [["q0", "p2", 0]]
    assert len(mined.negatives) == len(table)


def test_the_histograms_show_every_score_once():
    mined = mine(*some_vectors()[:4], {}, some_vectors()[4], relative_margin=0.3)
    axes = draw_scores(mined, Figure().subplots())
    shown = {text.get_text() for text in axes.get_legend().get_texts()}
    assert shown == {f"{name.replace('_', ' ')} ({len(s):,})" for name, s in mined.scores.items() if len(s)}
    nothing = {name: scores[:0] for name, scores in mined.scores.items()}
    assert draw_scores(Mined(mined.negatives, mined.skipped, nothing), Figure().subplots()).get_legend() is None


def test_mining_is_cached_by_towers_and_data(artifacts_root, data, monkeypatch):
    products = [{"product_id": f"p{at}", "title": f"thing {at}"} for at in range(6)]
    shop = Catalogue.from_tables("test", products=pd.DataFrame(products)).save(artifacts_root / "shop")
    artifacts, config = Artifacts.for_catalogue(shop), MineConfig(catalogue=str(shop.folder), relative_margin=None)
    with pytest.raises(MissingArtifact, match=r"python -m chapter02_two_tower\.prepare_data"):
        mine_hard_negatives.main(config)
    with artifacts.new_run("chapter02_two_tower", "prepare_data", config={}) as folder:
        for name in ("training_pairs", "val_pairs", "test_pairs", "hard_negatives", "notes", "relevant"):
            getattr(data, name).to_parquet(folder / f"{name}.parquet", index=False)
    with pytest.raises(MissingArtifact, match=r"python -m chapter02_two_tower\.train"):
        mine_hard_negatives.main(config)
    asked = []

    class Tower:
        def embed(self, texts, *, desc=None):
            asked.append(list(texts))
            return np.eye(len(texts), 6, dtype=np.float32)

    class Towers:
        query = product = Tower()

    monkeypatch.setattr(TwoTowerModel, "load", lambda folder: Towers() if folder.name == "best" else None)
    for trainings in (1, 2):
        with artifacts.new_run("chapter02_two_tower", "train", config={"training": trainings}) as folder:
            (folder / "best").mkdir()
        first, again = mine_hard_negatives.main(config), mine_hard_negatives.main(config)
        assert first.run.name == again.run.name and len(asked) == 2 * trainings
        pd.testing.assert_frame_equal(first.hard_negatives, again.hard_negatives)
    assert asked[0] == ["mug", "lamp"] and asked[1] == product_text(shop.products)
    assert first.hard_negatives.dtypes.astype(str).to_dict() == HARD_DTYPES and len(first.hard_negatives) > 0
    assert first.mined.skipped["count"].sum() + len(first.mined.negatives) == 2 * 6
    assert set(first.mined.scores) == {"positives", "kept", *RULES}
