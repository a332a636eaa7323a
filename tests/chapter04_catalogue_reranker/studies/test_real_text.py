"""Check the step on toy tables in the layout of the real ones: training, held-out and test rows, and the figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chapter04_catalogue_reranker.encode import encode_categories, encode_products
from chapter04_catalogue_reranker.model import CatalogueReranker
from chapter04_catalogue_reranker.ranking_metrics import MACRO_RECALL, macro_recall_at_1
from chapter04_catalogue_reranker.studies.real_text import (
    BOTH,
    FRESH,
    NAME,
    NEAREST,
    PARENT,
    RANKER,
    SELECTION,
    ZERO_SHOT,
    RealTextConfig,
    comparisons,
    load_real_text,
    main,
    per_text,
)
from chapter04_catalogue_reranker.studies.text_tasks import (
    TextTask,
    abo_task,
    ancestors,
    carve,
    name_rule,
    parent_rule,
    parents_mapping,
    shopify_task,
)
from common.artifacts import Artifacts
from common.catalogue import load_catalogue
from common.catalogue.shopify_taxonomy import split_of_parent
from common.errors import CourseError, MissingArtifact
from common.scoreboard import COLUMNS

pytestmark = pytest.mark.slow

KINDS = {
    "Lamps": "Home/Lamps",
    "Bowls": "Home/Bowls",
    "Boots": "Shoes/Boots",
    "Belts": "Men/Belts",
    "Kites": "Toys/Kites",
}


def listing(number: int, kind: str, *, root: str = "Categories", **given: str) -> dict[str, str]:
    facts = {"item_id": f"I{number}", "main_image_id": f"M{number}", "title": f"{kind} number {number} of oak"}
    facts |= {"image_path": "", "brand": "Ours", "product_type": kind.upper(), "category_l1": "", "text": ""}
    return facts | {"node_path": f"/{root}/{KINDS.get(kind, kind)}"} | given


def write_abo(home) -> None:
    kinds = list(KINDS)[:4]
    train = [listing(n, kinds[n % 4]) for n in range(60)]
    train += [listing(100, "Lampen", root="Kategorien")]  # not English, for all that its title could say
    val = [listing(200 + n, kinds[n % 4]) for n in range(8)]
    val += [listing(300, "Kites"), listing(301, "Boots", title=train[2]["title"]), listing(302, "Boots", item_id="I6")]
    val += [listing(303, "Bowls", main_image_id="M1"), listing(304, "Lampen", root="Kategorien")]
    (home / "abo-mini").mkdir(parents=True)
    for name, rows in (("train", train), ("val", val)):
        pd.DataFrame(rows).to_parquet(home / "abo-mini" / f"{name}.parquet", index=False)


def write_taxonomy(home) -> None:
    """Write paths that map to their namesakes, except "Odd" ones, which map where their parents do."""
    folder = home / "shopify-taxonomy"
    folder.mkdir(parents=True)
    paths = [f"Root{a}" for a in range(12)]
    paths += [f"Root{a} > Mid{b}" for a in range(12) for b in range(4)]
    paths += [f"{path} > Odd{c}" for path in paths[12:] for c in range(2)]
    target = {path: path.partition(" > Odd")[0].replace("Root", "Place") for path in paths}
    lines = [line for path in paths for line in (f"→ {path}", f"⇒ {target[path]}", "")]
    (folder / "shopify_2025-08_to_google_2021-09-21.txt").write_text("\n".join(lines), encoding="utf-8")
    named = [f"gid://shopify/TaxonomyCategory/c{number} : {path}" for number, path in enumerate(paths)]
    (folder / "categories.txt").write_text("\n".join(named), encoding="utf-8")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    write_abo(folder)
    write_taxonomy(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_DATA_HOME", str(folder))
        patch.setenv("COURSE_ARTIFACTS", str(tmp_path_factory.mktemp("artifacts")))
        yield folder


@pytest.fixture(scope="module")
def abo(home):
    return load_catalogue("abo", **SELECTION["abo"])


@pytest.fixture(scope="module")
def taxonomy(home):
    return load_catalogue("shopify_taxonomy")


@pytest.fixture(scope="module")
def config(tiny_text_encoder):
    return RealTextConfig(text=str(tiny_text_encoder), epochs=2, batch_size=16, held_out=0.3, seed=3)


@pytest.fixture(scope="module", params=list(SELECTION))
def measured(request, home, config):
    config = replace(config, catalogue=request.param)
    result = main(config)
    catalogue = load_catalogue(request.param, **SELECTION[request.param])
    return result, config, catalogue


# what is asked, and on which rows


def test_only_english_titles_are_asked_about_and_the_sources_split_is_kept(abo):
    task = abo_task(abo, 0.3, seed=1)
    assert task.paths == sorted(path.replace("/", " > ") for path in KINDS.values())
    assert len(task.texts) == 60 + 12 and not any("Lampen" in text for text in task.texts)
    assert [task.texts[row] for row in task.test[:2]] == ["Lamps number 200 of oak", "Bowls number 201 of oak"]
    assert sorted([*task.fit, *task.held]) == task.known.tolist() == [*range(60)]
    assert task.fresh[task.test].tolist() == [True] * 9 + [False] * 3  # the same title, item, main photo
    assert [task.paths[label] for label in task.labels[:3]] == ["Home > Lamps", "Home > Bowls", "Shoes > Boots"]


def test_no_family_is_cut():
    rows = [listing(n, "Lamps") for n in range(200)]
    for n in range(0, 200, 4):
        rows[n + 1]["item_id"] = rows[n]["item_id"]
        rows[n + 2]["main_image_id"] = rows[n + 1]["main_image_id"]
        rows[n + 3]["title"] = rows[n + 2]["title"].upper() + "  "
    table = pd.DataFrame(rows)
    held = carve(table, 0.4, seed=2)
    assert (held.reshape(-1, 4).all(axis=1) | ~held.reshape(-1, 4).any(axis=1)).all()
    assert 0.2 < held.mean() < 0.6
    np.testing.assert_array_equal(carve(table[::-1], 0.4, seed=2)[::-1], held)
    assert (carve(table, 0.4, seed=3) != held).any()


def test_missing_cells_relate_no_rows():
    """Of every four rows, one each has no item, no photo and no title, and one has all."""
    rows = [listing(n, "Lamps") for n in range(400)]
    for n in range(0, 400, 4):
        rows[n]["item_id"] = rows[n + 1]["main_image_id"] = None
        rows[n + 2]["title"] = (None, "", "  ")[n % 3]
    table = pd.DataFrame(rows)
    held = carve(table, 0.5, seed=2)
    for first in range(4):
        assert 0.3 < held[first::4].mean() < 0.7, "rows that miss the same are as far from each other as others"
    whole = pd.DataFrame([listing(n, "Lamps") for n in range(400)])
    titled = np.arange(400) % 4 != 2
    np.testing.assert_array_equal(carve(whole, 0.5, seed=2)[titled], held[titled])
    assert len(carve(table.assign(item_id=None, main_image_id="", title=None), 0.5)) == 400


def test_titles_are_the_same_but_for_capitals_and_spaces_and_missing_cells_are_not(abo, home, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA_HOME", str(tmp_path))
    (tmp_path / "abo-mini").mkdir()
    train, val = (pd.read_parquet(home / "abo-mini" / f"{name}.parquet") for name in ("train", "val"))
    train.loc[train.index[:8], ["item_id", "main_image_id"]] = None, ""
    train.loc[train.index[8], "title"] = None
    blank = pd.DataFrame(
        [
            listing(400, "Boots", item_id=None, main_image_id=None),
            listing(401, "Boots", item_id="", main_image_id=""),
            listing(402, "Boots", title=f" {train['title'][9].upper()} "),
            listing(403, "Boots", title=None),
        ]
    )
    for name, table in (("train", train), ("val", pd.concat([val, blank], ignore_index=True))):
        table.to_parquet(tmp_path / "abo-mini" / f"{name}.parquet", index=False)
    task = abo_task(abo, 0.3, seed=1)
    assert all(isinstance(text, str) for text in task.texts)
    assert len(task.known) == 59 and len(task.test) == 12 + 3, "without a title there is nothing to ask about"
    assert task.fresh[task.test[-3:]].tolist() == [True, True, False]


def test_whole_parents_are_held_out_and_only_differing_names_are_asked_about(taxonomy):
    task = shopify_task(taxonomy)
    held = {"fit": "train", "held": "val", "test": "test"}
    for name, split in held.items():
        for row in getattr(task, name):
            parent = task.texts[row].rpartition(" > ")[0] or task.texts[row]
            assert split_of_parent(parent) == split
    for row in [*task.held, *task.test]:
        name, place = (text.rpartition(" > ")[2] for text in (task.texts[row], task.paths[task.labels[row]]))
        assert name.casefold() != place.casefold()
    np.testing.assert_array_equal(task.fit, task.known)
    families = [{task.texts[row].rpartition(" > ")[0] for row in part} - {""} for part in (task.fit, task.test)]
    assert not families[0] & families[1]


def test_what_is_missing_is_an_error(abo, taxonomy, home, tmp_path, monkeypatch):
    with pytest.raises(CourseError, match="of abo is needed"):
        abo_task(taxonomy)
    with pytest.raises(CourseError, match="of shopify_taxonomy is needed"):
        shopify_task(abo)
    with pytest.raises(CourseError, match="none of abo, shopify_taxonomy"):
        main(RealTextConfig(catalogue="pocket_shop"))
    with pytest.raises(CourseError, match="no text to held on"):
        abo_task(abo, 0.0)
    monkeypatch.setenv("COURSE_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))
    with pytest.raises(CourseError, match="abo-mini"):
        main(RealTextConfig())
    (tmp_path / "abo-mini").mkdir()
    for name in ("train", "val"):
        table = pd.read_parquet(home / "abo-mini" / f"{name}.parquet").drop(columns="node_path")
        table.to_parquet(tmp_path / "abo-mini" / f"{name}.parquet")
    with pytest.raises(CourseError, match="node_path"):
        abo_task(abo)
    with pytest.raises(MissingArtifact, match=r"chapter04_catalogue_reranker\.studies\.real_text"):
        load_real_text(Artifacts("abo", "0" * 16))


# the rules


def naive_parent_rule(path: str, mapping: dict[str, str]) -> str | None:
    while " > " in path:
        path = path[: path.rindex(" > ")]
        if path in mapping:
            return mapping[path]
    return None


PATHS = st.lists(st.sampled_from("ABC"), min_size=1, max_size=5).map(" > ".join)


@given(st.lists(PATHS, max_size=6), st.dictionaries(PATHS, st.sampled_from("xyz"), max_size=8))
def test_the_parent_rule_is_that_of_a_loop(texts, mapping):
    ranked = parent_rule(texts, mapping)
    assert [next(iter(paths), None) for paths in ranked] == [naive_parent_rule(text, mapping) for text in texts]
    assert all(len(set(paths)) == len(paths) for paths in ranked)
    for text, own, climbed in zip(texts, parents_mapping(texts, mapping), ranked, strict=True):
        parent = text.rpartition(" > ")[0]
        assert own == ([mapping[parent]] if parent in mapping else []) and own == climbed[: len(own)]


def test_the_rules_climb_from_the_nearest_ancestor_and_may_know_nothing():
    assert ancestors("A > B > C") == ["A > B", "A"] and ancestors("A") == []
    assert name_rule(["A > B > C", "B > C", "A"], ["A", "A > B", "C"]) == [["A > B", "A"], [], []]


# the figures


def a_task(labels: list[int]) -> TextTask:
    rows = np.arange(len(labels))
    return TextTask(
        ["text"] * len(rows), ["A", "B", "C"], np.array(labels), rows, rows, rows, rows, np.ones(len(rows), bool)
    )


def test_macro_recall_is_the_mean_of_its_column():
    task, ranks = a_task([0, 0, 0, 0, 1, 2]), np.array([1, 1, 2, 11, 1, np.inf])
    table = per_text(task, ranks)
    assert table[MACRO_RECALL].mean() == pytest.approx(macro_recall_at_1(ranks == 1, task.labels)) == 0.5
    assert table[["R@1", "R@10"]].mean().tolist() == pytest.approx([3 / 6, 4 / 6])
    assert table["MRR"].tolist() == pytest.approx([1, 1, 1 / 2, 1 / 11, 1, 0])
    perfect = per_text(task, np.ones(6))
    assert (perfect.mean() == 1).all()


def test_comparisons_are_paired_with_each_other_system():
    task = a_task([0, 0, 1, 1, 2, 2] * 5)
    tables = {BOTH: per_text(task, np.ones(30)), RANKER: per_text(task, np.full(30, 2.0))}
    found = comparisons(tables).set_index("metric")
    assert found["difference"].to_dict() == {"R@1": 1.0, "R@10": 0.0, MACRO_RECALL: 1.0}
    assert (found.loc[["R@1", MACRO_RECALL], "p_holm"] < 0.01).all() and found.loc["R@10", "p"] == 1
    assert (found["p_holm"] >= found["p"]).all() and {*found["against"]} == {RANKER}


# the step


def test_there_is_a_row_for_each_system_and_figure(measured):
    result, config, *_ = measured
    rules = [NEAREST] if config.catalogue == "abo" else [PARENT, NAME]
    metrics = ["R@1", "R@10", "MRR", MACRO_RECALL]
    if config.catalogue == "abo":
        metrics += [f"{FRESH}{metric}" for metric in metrics[:3]]
    systems = [ZERO_SHOT, *rules, RANKER, BOTH]
    assert result.board["system"].unique().tolist() == systems
    for system in systems:
        assert result.board.loc[result.board["system"] == system, "metric"].tolist() == metrics
    assert tuple(result.board.columns) == COLUMNS
    assert {*result.board["split"]} == {"val" if config.catalogue == "abo" else "test"}
    assert {*result.comparisons["against"]} == {ZERO_SHOT, *rules, RANKER}
    assert set(result.facts["held out"]) == {*systems}
    assert main(config).run.name == result.run.name


def test_the_figures_are_those_of_the_saved_model(measured):
    result, config, catalogue = measured
    task = abo_task(catalogue, config.held_out, config.seed) if config.catalogue == "abo" else shopify_task(catalogue)
    model = CatalogueReranker.load(result.run.path / "model")
    texts = [task.texts[row] for row in task.test]
    scores = encode_products(model, texts, [None] * len(texts)).fused @ encode_categories(model, task.paths).T
    ranks = [int((row >= row[label]).sum()) for row, label in zip(scores, task.labels[task.test], strict=True)]
    values = result.board.set_index(["system", "metric"])["value"][RANKER]
    assert values["R@1"] == pytest.approx(np.mean([rank == 1 for rank in ranks]))
    assert values["MRR"] == pytest.approx(np.mean([1 / rank for rank in ranks]), abs=1e-3)


def test_an_unseen_path_is_a_miss_for_the_nearest_title(measured):
    result, config, *_ = measured
    if config.catalogue == "abo":
        values = result.board.set_index(["system", "metric"])["value"]
        assert values[NEAREST, "R@10"] == pytest.approx(11 / 12)  # no training title is of "Toys > Kites"
        assert result.facts["test, path not in training"] == 1 and result.facts["test, text in training"] == 1
        assert result.facts["test"] == 12 and result.facts["test, new products"] == 9
    else:
        assert result.facts["fit"] + result.facts["held"] + result.facts["test"] < result.facts["texts"]


def test_held_out_rows_and_the_measured_ones_are_not_trained_on(home, abo, config, monkeypatch):
    from chapter04_catalogue_reranker.studies import real_text

    seen = []

    def watched(model, texts, paths, labels, fitting):
        seen.append(len(labels))
        return model.eval()

    monkeypatch.setattr(real_text, "fit_text_ranker", watched)
    task = abo_task(abo, config.held_out, config.seed)
    torch.manual_seed(0)
    real_text.measure(task, config)
    assert seen == [len(task.fit), len(task.known)] and len(task.fit) < 60 == len(task.known)
