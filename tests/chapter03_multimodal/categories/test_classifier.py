"""Figures against sklearn and loops, training on toy clusters, and the whole step on vectors that need no pictures."""

from __future__ import annotations

import sys
import zlib
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from chapter03_multimodal import prepare_data, reindex
from chapter03_multimodal.categories import classifier as module
from chapter03_multimodal.categories import head as head_module
from chapter03_multimodal.categories.classifier import ClassifierConfig, load_classifier, load_encoder_of, main
from chapter03_multimodal.categories.examples import embed_examples
from chapter03_multimodal.categories.head import Head, HeadTraining, Trial, choose, fit
from chapter03_multimodal.categories.long_tail import ADJUSTED, GRIDS, PLAIN, Technique
from chapter03_multimodal.categories.metrics import (
    bootstrap_macro_f1,
    buckets_of,
    class_counts,
    classification_figures,
    compare_classifiers,
    macro_f1,
    rank_of_label,
)
from chapter03_multimodal.categories.pictures import (
    confusion,
    draw_confusion,
    draw_label_distribution,
    draw_techniques,
)
from common.artifacts import Artifacts
from common.atomic import read_json
from common.errors import CourseError, MissingArtifact
from common.scoreboard import read_scoreboard

QUICK = HeadTraining(hidden=16, epochs=12, batch_size=32)


def clusters(sizes, *, noise=0.3, dimension=8, seed=0):
    """Vectors [sum, D] of length 1 around one direction a class, and their labels."""
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(99).normal(size=(len(sizes), dimension))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    vectors = middles[labels] + noise * rng.normal(size=(len(labels), dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


labelled = st.integers(1, 30).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(0, 6), min_size=n, max_size=n).map(np.array) for _ in range(2)))
)


# figures


@settings(deadline=None, max_examples=40)
@given(pair=labelled)
def test_macro_f1_is_sklearns_over_the_classes_that_occur(pair):
    from sklearn.metrics import f1_score

    labels, predicted = pair
    expected = f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
    assert macro_f1(labels, predicted) == pytest.approx(expected)
    assert macro_f1(labels, labels) == 1


def test_a_class_never_predicted_counts_zero_and_a_class_only_guessed_not_at_all():
    labels = np.array([0, 0, 1, 2])
    assert macro_f1(labels, np.array([0, 0, 1, 1])) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert macro_f1(labels, np.array([0, 0, 1, 9])) == pytest.approx((1 + 1 + 0) / 3)


@given(pair=labelled)
def test_class_counts_equal_counting(pair):
    labels, predicted = pair
    for found, of in zip(
        class_counts(labels, predicted), (labels, predicted, labels[labels == predicted]), strict=True
    ):
        assert found.tolist() == [int((of == number).sum()) for number in range(len(found))]


@given(seed=st.integers(0, 500), classes=st.integers(1, 6))
def test_the_rank_of_a_label_is_its_place_in_a_stable_sort(seed, classes):
    rng = np.random.default_rng(seed)
    probabilities = rng.integers(0, 3, size=(8, classes)).astype(np.float32)  # many ties
    labels = rng.integers(0, classes + 2, size=8)
    for row, label, rank in zip(probabilities, labels, rank_of_label(probabilities, labels), strict=True):
        order = sorted(range(classes), key=lambda at, row=row: (-row[at], at))
        if label < classes:
            assert rank == order.index(label)
        else:
            assert rank > 1_000_000


def test_figures_of_a_perfect_run_and_of_a_hopeless_one():
    buckets, labels = np.array(["head", "middle", "tail"]), np.array([0, 0, 1, 2])
    perfect = np.eye(3)[labels]
    assert set(classification_figures(perfect, labels, buckets).values()) == {1.0}
    found = classification_figures(np.eye(3)[[1, 1, 2, 0]], labels, buckets)
    assert {found[name] for name in ("top-1", "macro-F1", "head recall", "middle recall", "tail recall")} == {0.0}


def test_figures_count_classes_that_training_has_not_seen_as_wrong():
    buckets, labels = np.array(["head", "middle", "tail"]), np.array([0, 1, 2, 3])
    probabilities = np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.1, 0.2, 0.7], [0.4, 0.3, 0.3]])
    found = classification_figures(probabilities, labels, buckets)
    assert found["top-1"] == 0.5 and found["top-3"] == found["top-5"] == 0.75
    assert found["macro-F1"] == pytest.approx((0.5 + 0 + 1 + 0) / 4)
    assert (found["head recall"], found["middle recall"], found["tail recall"]) == (1, 0, 1)
    assert buckets_of(labels, buckets).tolist() == ["head", "middle", "tail", "absent"]
    assert np.isnan(classification_figures(probabilities[:2], labels[:2], buckets)["tail recall"])


def test_the_interval_of_macro_f1_holds_the_difference_and_is_paired():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 300)
    good = np.where(rng.random(300) < 0.9, labels, (labels + 1) % 5)
    bad = np.where(rng.random(300) < 0.6, labels, (labels + 1) % 5)
    low, high = bootstrap_macro_f1(labels, good, bad, rounds=200)
    assert 0.1 < low < macro_f1(labels, good) - macro_f1(labels, bad) < high < 0.5
    assert bootstrap_macro_f1(labels, bad, bad, rounds=20) == (0, 0)
    assert bootstrap_macro_f1(labels, bad, good, rounds=200) == pytest.approx((-high, -low))


def test_a_comparison_with_itself_shows_no_difference():
    buckets, labels = np.array(["head", "middle", "tail"]), np.array([0, 1, 2, 3] * 10)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), size=40)
    table = compare_classifiers(labels, probabilities, probabilities, buckets)
    assert table["metric"].tolist() == ["top-1", "top-3", "top-5", "tail recall", "macro-F1"]
    assert (table[["difference", "ci_low", "ci_high"]] == 0).all(axis=None)
    better = compare_classifiers(labels, np.eye(4)[labels][:, :3], probabilities, buckets).set_index("metric")
    assert better.loc["tail recall", "chosen"] == 1 and better.loc["tail recall", "ci_low"] > 0
    assert better.loc["top-1", "plain"] == np.mean(probabilities.argmax(axis=1) == labels)


# heads and training


def test_a_linear_head_on_standardised_vectors_is_linear():
    head, vectors = Head("linear", 5, 3), torch.randn(20, 5) * 3 + 7
    head.standardise(vectors)
    standard = (vectors - vectors.mean(0)) / vectors.std(0, correction=0)
    torch.testing.assert_close(head(vectors), standard @ head.layers.weight.T + head.layers.bias)


def test_a_dimension_that_never_varies_does_no_harm():
    head, vectors = Head("mlp", 3, 2), torch.randn(10, 3)
    vectors[:, 1] = 0.5
    head.standardise(vectors)
    assert torch.equal(head.deviation[1], torch.tensor(1.0)) and head(vectors + 0.01).abs().max() < 100


def test_heads_are_of_two_kinds():
    with pytest.raises(CourseError, match="choose linear or mlp"):
        Head("transformer", 4, 2)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_saved_head_predicts_the_same(tmp_path, kind):
    vectors, labels = clusters([8, 8, 8])
    head = fit(vectors, labels, vectors, labels, head=kind, fitting=replace(QUICK, epochs=2))
    head.save(tmp_path)
    loaded = Head.load(tmp_path)
    np.testing.assert_array_equal(loaded.probabilities(vectors), head.probabilities(vectors))
    np.testing.assert_allclose(head.probabilities(vectors).sum(axis=1), 1, atol=1e-5)
    assert not loaded.training


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("name", GRIDS)
def test_every_technique_learns_what_is_easy_and_repeats_itself(name, kind):
    vectors, labels = clusters([30, 10, 3], noise=0.1)
    val = clusters([5, 5, 5], noise=0.1, seed=1)
    technique, before = Technique(name, GRIDS[name][0]), torch.get_rng_state()
    heads = [fit(vectors, labels, *val, technique, kind, QUICK, seed=4) for _ in range(2)]
    assert macro_f1(val[1], heads[0].probabilities(val[0]).argmax(axis=1)) == 1
    for one, other in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers are its own"


def test_another_seed_gives_another_head():
    vectors, labels = clusters([10, 10])
    heads = [fit(vectors, labels, vectors, labels, fitting=QUICK, seed=seed) for seed in (0, 1)]
    assert not torch.equal(heads[0].layers.weight, heads[1].layers.weight)


def script_macro_f1(monkeypatch, figures):
    """Let the validation figure of each epoch be what is given; returns the list of those used."""
    given, used = iter(figures), []
    monkeypatch.setattr(head_module, "macro_f1", lambda *_: used.append(next(given)) or used[-1])
    return used


def test_logit_adjustment_finds_more_of_the_tail_than_plain_cross_entropy(monkeypatch):
    script_macro_f1(monkeypatch, count())  # the last epoch is kept, so that only the loss differs
    (vectors, labels), (others, theirs) = clusters([400, 20], noise=2.0), clusters([100, 100], noise=2.0, seed=1)
    recall = {}
    for technique in (Technique(), Technique(ADJUSTED, 1.0)):
        head = fit(vectors, labels, others, theirs, technique, fitting=replace(QUICK, batch_size=512, epochs=60))
        recall[technique.name] = (head.probabilities(others[theirs == 1]).argmax(axis=1) == 1).mean()
    assert recall[ADJUSTED] > recall[PLAIN] + 0.1


def test_the_best_epoch_is_kept_and_patience_ends_the_training(monkeypatch):
    vectors, labels = clusters([10, 10])

    def epochs_and_weights(figures, patience):
        used = script_macro_f1(monkeypatch, figures)
        head = fit(vectors, labels, vectors, labels, fitting=replace(QUICK, epochs=6, patience=patience))
        return len(used), head.layers.weight

    patient, third = epochs_and_weights([0.1, 0.2, 0.9, 0.3, 0.9, 0.1], patience=2)
    hasty, third_too = epochs_and_weights([0.1, 0.2, 0.9, 0.3, 0.9, 0.1], patience=1)
    whole, sixth = epochs_and_weights([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], patience=1)
    assert (patient, hasty, whole) == (5, 4, 6)
    assert torch.equal(third, third_too) and not torch.equal(third, sixth)


def trial(kind, name, macro, lost):
    technique = Technique(name, GRIDS[name][0])
    return Trial(Head(kind, 2, 2), technique, {"top-1": 0.8 - lost, "macro-F1": macro}, lost)


def test_the_best_macro_f1_is_chosen_unless_it_loses_too_much():
    plain, close, far = trial("mlp", PLAIN, 0.5, 0.0), trial("mlp", "focal loss", 0.6, 0.02), trial(
        "mlp", ADJUSTED, 0.9, 0.021
    )  # fmt: skip
    assert choose([plain, far, close]) is close
    assert choose([plain, far, close], slack=0.05) is far
    assert choose([plain, close], slack=0.01) is plain
    assert choose([plain, trial("linear", PLAIN, 0.5, 0.0)]) is plain, "the first of equals"
    assert choose([far, trial("mlp", ADJUSTED, 0.7, 0.3)]) is far, "if all lose too much, the best of them"


# the step


SIZES = {"Home > Mugs": 24, "Home > Lamps": 16, "Garden > Tools > Rakes": 9, "Garden > Tools > Spades": 4, "Toys": 2}
TOY_CONFIG = ClassifierConfig(
    catalogue="toy",
    fitting=replace(QUICK, epochs=6),
    techniques=("focal loss", ADJUSTED),
    weight_decays=(0.1, 1.0),
)


class PathEncoder:
    """Embeds a picture by its name, class-number.png, and cannot read those that are called bad."""

    encoder_id, dimension = "paths-1", 8

    def __init__(self):
        self.texts = []

    def encode_images(self, images, *, desc=None):
        rows = [at for at, path in enumerate(images) if "bad" not in Path(path).name]
        vectors = np.stack([self.vector(Path(images[at])) for at in rows])
        return SimpleNamespace(vectors=vectors, rows=np.array(rows), unusable={}, encoder_id=self.encoder_id)

    def vector(self, path):
        name = path.stem.rsplit("-", 1)[0]
        middle, noise = (np.random.default_rng(zlib.crc32(key.encode())).normal(size=8) for key in (name, str(path)))
        vector = middle + 0.25 * noise
        return (vector / np.linalg.norm(vector)).astype(np.float32)


def toy_pairs():
    rows = []
    for path, size in SIZES.items():
        name = path.rsplit(" > ")[-1]
        for split, n in (("train", size), ("val", 3), ("test", 4)):
            rows += [(path, split, f"{name}-{split}{at}.png") for at in range(n)]
    rows += [("Toys > Kites", "test", "Kites-1.png"), ("Toys > Kites", "test", "Kites-2.png")]
    rows += [(None, "train", "nothing-1.png"), ("Home > Mugs", "train", "bad-1.png"), ("Toys", "test", "bad-2.png")]
    table = pd.DataFrame(rows, columns=["category_path", "split", "path"])
    return table.assign(product_id=[f"p{at}" for at in range(len(table))], text="", group_id=None)


@pytest.fixture
def toy(artifacts_root, monkeypatch, tmp_path):
    """A catalogue, its prepared data and its encoder, all pretended; with the artifacts and the encoders asked for."""
    catalogue = SimpleNamespace(source="toy", digest="0123", folder=tmp_path)
    artifacts, asked = Artifacts.for_catalogue(catalogue), []
    with artifacts.new_run("chapter03_multimodal", "prepare_data", config={}):
        pass
    data = SimpleNamespace(
        run=artifacts.current("chapter03_multimodal", "prepare_data"), catalogue=catalogue, pairs=toy_pairs()
    )
    prepared = SimpleNamespace(load_multimodal_data=lambda *_: data)
    monkeypatch.setitem(sys.modules, "chapter03_multimodal.prepare_data", prepared)
    monkeypatch.setattr(reindex, "load_clip_encoder", lambda name, *, cache: asked.append(name) or PathEncoder())
    monkeypatch.setattr(reindex, "clip_folders", lambda _: {"best": Path("trained", "best")})
    monkeypatch.setattr(module, "load_catalogue", lambda *_, **__: catalogue)
    return SimpleNamespace(artifacts=artifacts, asked=asked, data=data)


@pytest.fixture
def made(toy):
    """The classifier of the toy catalogue, on a stock encoder."""
    return main(replace(TOY_CONFIG, encoder="pocket_clip"))


def test_examples_number_the_classes_of_training_and_the_others_behind(toy):
    examples = embed_examples(toy.data, PathEncoder())
    assert examples.classes == sorted(SIZES) and examples.names() == [*sorted(SIZES), "Toys > Kites"]
    assert examples.left_out == {"no category": 1, "unusable picture": 2}
    assert len(examples.table) == len(examples.vectors) == 55 + 15 + 20 + 2
    for row, vector in zip(examples.table.itertuples(), examples.vectors, strict=True):
        assert examples.names()[row.label] == row.category_path
        np.testing.assert_array_equal(vector, PathEncoder().vector(toy.data.catalogue.folder / row.path))
    vectors, labels = examples.of_split("val")
    assert vectors.shape == (15, 8) and labels.tolist() == [3] * 3 + [2] * 3 + [0] * 3 + [1] * 3 + [4] * 3


def test_a_level_cuts_the_paths(toy):
    examples = embed_examples(toy.data, PathEncoder(), level=1)
    assert examples.classes == examples.names() == ["Garden", "Home", "Toys"]
    assert embed_examples(toy.data, PathEncoder(), level=2).classes == [
        "Garden > Tools",
        "Home > Lamps",
        "Home > Mugs",
        "Toys",
    ]
    with pytest.raises(CourseError, match="at least 1"):
        embed_examples(toy.data, PathEncoder(), level=0)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_split_needs_a_picture_with_a_category(toy, split):
    toy.data.pairs.loc[toy.data.pairs["split"] == split, "category_path"] = None
    with pytest.raises(CourseError, match=f"no picture of the {split} split"):
        embed_examples(toy.data, PathEncoder())


def test_the_table_has_a_row_for_every_head_technique_and_split(made):
    results = made.results
    assert len(results) == 2 * 3 * 2 and results["chosen"].sum() == 2
    names = [PLAIN, "focal loss", ADJUSTED]
    for split in ("val", "test"):
        part = results[results["split"] == split]
        assert part[["head", "technique"]].values.tolist() == [[h, t] for h in ("linear", "mlp") for t in names]
    assert results.groupby("split")["n"].first().to_dict() == {"val": 15, "test": 22}
    assert results["value"].isna().tolist() == (results["technique"] == PLAIN).tolist()
    chosen = results[results["chosen"]]
    assert chosen["technique"].nunique() == chosen["head"].nunique() == 1
    pd.testing.assert_frame_equal(pd.read_csv(made.run.path / "results.csv"), results)


def test_the_choice_is_made_on_validation_alone(toy, made, monkeypatch):
    """With the labels of the test split shuffled, the same head is chosen and trained."""
    rows = toy.data.pairs["split"] == "test"
    toy.data.pairs.loc[rows, "category_path"] = toy.data.pairs.loc[rows, "category_path"].to_numpy()[::-1]
    again = main(replace(TOY_CONFIG, encoder="pocket_clip", profile="smoke"))
    assert again.run.name != made.run.name
    assert not again.results.query("split == 'test'").equals(made.results.query("split == 'test'"))
    pd.testing.assert_frame_equal(again.results.query("split == 'val'"), made.results.query("split == 'val'"))
    for one, other in zip(again.head.parameters(), made.head.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_results_on_test_are_those_of_the_saved_head(toy, made):
    examples = embed_examples(toy.data, PathEncoder())
    vectors, labels = examples.of_split("test")
    probabilities = made.head.probabilities(vectors)
    row = made.results[made.results["chosen"] & (made.results["split"] == "test")].iloc[0]
    buckets = made.per_class["bucket"].to_numpy()[: len(made.classes)]
    for metric, value in classification_figures(probabilities, labels, buckets).items():
        assert row[metric] == pytest.approx(value, nan_ok=True)
    assert made.predictions["category_path"].tolist() == [examples.names()[label] for label in labels]
    assert made.predictions["predicted"].tolist() == [made.classes[at] for at in probabilities.argmax(axis=1)]
    plain = made.results.query("technique == @PLAIN and split == 'test' and head == @row['head']").iloc[0]
    assert (made.predictions["plain"] == made.predictions["category_path"]).mean() == pytest.approx(plain["top-1"])
    comparison = made.comparison.set_index("metric")
    assert comparison.loc["macro-F1", "chosen"] == pytest.approx(row["macro-F1"])
    assert comparison.loc["macro-F1", "plain"] == pytest.approx(plain["macro-F1"])


def test_per_class_figures_are_sklearns(made):
    from sklearn.metrics import precision_recall_fscore_support

    table = made.per_class.set_index("category_path")
    labels, predicted = made.predictions["category_path"], made.predictions["predicted"]
    figures = precision_recall_fscore_support(labels, predicted, labels=table.index.tolist(), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "n"), figures, strict=True):
        np.testing.assert_allclose(table[name], values)
    assert table["train"].to_dict() == {**SIZES, "Toys > Kites": 0}
    assert table.loc["Toys > Kites", ["bucket", "f1", "n"]].tolist() == ["absent", 0, 2]
    assert table["bucket"].value_counts().to_dict() == {"head": 2, "tail": 2, "middle": 1, "absent": 1}
    row = made.results[made.results["chosen"] & (made.results["split"] == "test")].iloc[0]
    assert table["f1"].mean() == pytest.approx(row["macro-F1"])
    pd.testing.assert_frame_equal(pd.read_csv(made.run.path / "per_class_f1.csv"), made.per_class)


def test_a_class_without_test_pictures_has_no_figures_of_its_own(toy):
    rows = (toy.data.pairs["split"] == "test") & (toy.data.pairs["category_path"] == "Toys")
    toy.data.pairs = toy.data.pairs[~rows]
    table = main(replace(TOY_CONFIG, encoder="pocket_clip")).per_class.set_index("category_path")
    assert table.loc["Toys", ["precision", "recall", "f1"]].isna().all() and table.loc["Toys", "n"] == 0


def test_what_was_left_out_and_what_is_absent_is_told(made):
    assert made.absent.values.tolist() == [["Toys > Kites", "test", 2]]
    assert made.left_out == {"no category": 1, "unusable picture": 2}


def test_predictions_are_ranked_and_refuse_other_vectors(toy, made):
    vectors = np.stack([PathEncoder().vector(Path(f"Mugs-{at}.png")) for at in range(3)])
    found = made.predict(vectors, k=2)
    probabilities = made.head.probabilities(vectors)
    assert [len(row) for row in found] == [2, 2, 2]
    for row, expected in zip(found, probabilities, strict=True):
        assert row[0] == (made.classes[int(expected.argmax())], pytest.approx(expected.max()))
        assert row[0][1] >= row[1][1] == pytest.approx(np.sort(expected)[-2])
    assert [len(row) for row in made.predict(vectors, k=99)] == [len(SIZES)] * 3
    assert made.predict(vectors[:0]) == []
    for wrong in (vectors[:, :5], vectors[0]):
        with pytest.raises(CourseError, match=r"needs vectors \[N, 8\] of paths-1"):
            made.predict(wrong)


def test_the_files_need_no_course_to_be_read(made):
    assert read_json(made.run.path / "labels.json")["classes"] == sorted(SIZES)
    assert load_file(made.run.path / "head.safetensors")["mean"].shape == (8,)
    assert made.run.manifest["config"]["slack"] == 0.02 and made.run.manifest["seed"] == 0


def test_the_scoreboard_has_plain_cross_entropy_and_then_the_chosen_technique(made):
    board, technique = read_scoreboard(made.run.path), made.results.loc[made.results["chosen"], "technique"].iloc[0]
    rows = [
        (f"classifier, {name}", f"category {row.metric}", getattr(row, column))
        for column, name in (("plain", "plain cross-entropy"), ("chosen", technique))
        for row in made.comparison.itertuples()
    ]
    assert list(board[["system", "metric", "value"]].itertuples(index=False, name=None)) == rows
    facts = board[["chapter", "source", "split", "n_queries"]].drop_duplicates().values.tolist()
    assert facts == [["chapter03_multimodal", "toy", "test", 22]]
    assert board[["ci_low", "ci_high", "seconds"]].isna().all(axis=None)


def test_the_same_step_is_not_done_twice(toy, made):
    count = len(toy.asked)
    assert main(replace(TOY_CONFIG, encoder="pocket_clip")).run.name == made.run.name
    assert len(toy.asked) == count, "no encoder was loaded"
    pd.testing.assert_frame_equal(load_classifier(toy.artifacts).results, made.results)


def test_the_fine_tuned_encoder_is_the_default_and_its_training_an_input(toy):
    with pytest.raises(MissingArtifact, match=r"python -m chapter03_multimodal\.train"):
        main(TOY_CONFIG)
    with toy.artifacts.new_run("chapter03_multimodal", "train", config={}):
        pass
    made = main(replace(TOY_CONFIG, heads=("linear",), techniques=(), weight_decays=(1.0,)))
    assert toy.asked == [str(Path("trained", "best"))]
    assert set(made.run.manifest["inputs"]) == {"prepare_data", "train"}
    assert made.results["technique"].tolist() == [PLAIN, PLAIN] and made.comparison["difference"].eq(0).all()


def test_the_encoder_of_a_classifier_must_be_the_one_it_was_trained_on(toy, made, monkeypatch):
    assert load_encoder_of(made, toy.artifacts).encoder_id == "paths-1"
    monkeypatch.setattr(PathEncoder, "encoder_id", "paths-2")
    with pytest.raises(CourseError, match=r"paths-1, the encoder is now paths-2\.\nTrain it again"):
        load_encoder_of(made, toy.artifacts)


def test_without_a_classifier_the_error_says_how_to_make_one(toy):
    with pytest.raises(MissingArtifact, match=r"python -m chapter03_multimodal\.categories\.classifier"):
        load_classifier(toy.artifacts)


@pytest.mark.slow
def test_the_step_on_drawn_photos_with_a_tiny_clip(photo_shop, photo_shop_artifacts, tiny_clip):
    data = prepare_data.main(prepare_data.PrepareDataConfig(catalogue=str(photo_shop.folder)))
    config = replace(TOY_CONFIG, catalogue=str(photo_shop.folder), encoder=str(tiny_clip), heads=("linear",))
    made = main(replace(config, techniques=(ADJUSTED,), weight_decays=(1.0,)))
    usable = data.pairs.dropna(subset=["category_path"])
    assert made.classes == sorted(usable.loc[usable["split"] == "train", "category_path"].unique())
    shown = made.predictions.iloc[:5]
    pd.testing.assert_frame_equal(
        made.predictions[["product_id", "path", "category_path"]].reset_index(drop=True),
        usable.loc[usable["split"] == "test", ["product_id", "path", "category_path"]].reset_index(drop=True),
    )
    encoder = load_encoder_of(made, photo_shop_artifacts)
    vectors = encoder.encode_images([Path(photo_shop.folder, path) for path in shown["path"]]).vectors
    for answer, row in zip(made.predict(vectors, k=1), shown.itertuples(), strict=True):
        assert answer == [(row.predicted, pytest.approx(row.probability, rel=1e-3))]


# pictures


@pytest.fixture
def axes():
    from matplotlib.figure import Figure

    return Figure().subplots()


def test_confusion_holds_shares_of_the_true_class():
    predictions = pd.DataFrame({"category_path": list("aaabbc"), "predicted": list("aabbbd")})
    table = confusion(predictions)
    assert table.index.tolist() == table.columns.tolist() == list("abcd")
    np.testing.assert_allclose(table, [[2 / 3, 1 / 3, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])


def test_the_confusion_picture_shows_the_most_confused_classes(axes):
    wrong = {
        "category_path": ["A > x"] * 3 + ["A > y"] * 2 + ["B > z"],
        "predicted": ["A > y"] * 3 + ["A > x"] * 2 + ["B > z"],
    }
    draw_confusion(axes, pd.DataFrame(wrong), most=2)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y"]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0, 1], [1, 0]])


def test_the_whole_confusion_is_named_by_departments(axes):
    names = ["A > x", "A > y", "B > z"]
    draw_confusion(axes, pd.DataFrame({"category_path": names, "predicted": names}), most=None)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["A", "B"]
    assert axes.get_yticks().tolist() == [0.5, 2]
    np.testing.assert_array_equal(axes.images[0].get_array(), np.eye(3))


def test_the_label_distribution_falls_and_is_shaded_by_bucket(axes):
    table = pd.DataFrame({"train": [2, 9, 4, 0], "bucket": ["tail", "head", "middle", "absent"]})
    draw_label_distribution(axes, table)
    assert [bar.get_height() for bar in axes.containers[0]] == [9, 4, 2]
    assert [text.get_text().split("\n") for text in axes.texts] == [
        ["head", "1 classes", "60% of examples"],
        ["middle", "1 classes", "27% of examples"],
        ["tail", "1 classes", "13% of examples"],
    ]


def test_the_bars_are_the_techniques_of_each_head(axes, made):
    draw_techniques(axes, made.results)
    test = made.results[made.results["split"] == "test"]
    for container, (_, rows) in zip(axes.containers, test.groupby("head", sort=False), strict=True):
        np.testing.assert_allclose([bar.get_width() for bar in container], rows["macro-F1"])
    assert sum("★" in text.get_text() for text in axes.texts) == 1
    assert [label.get_text() for label in axes.get_yticklabels()] == [PLAIN, "focal loss", ADJUSTED]
