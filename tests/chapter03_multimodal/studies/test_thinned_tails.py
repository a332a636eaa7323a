"""Photos thinned to a long tail: how many stay, what is chosen by which photos, what a kill leaves, the rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapter03_multimodal.categories import head
from chapter03_multimodal.categories.examples import Examples
from chapter03_multimodal.categories.head import HeadTraining, Trial
from chapter03_multimodal.categories.long_tail import ADJUSTED, GRIDS, INVERSE, PLAIN, Technique
from chapter03_multimodal.categories.metrics import bootstrap_macro_f1, compare_over_draws, macro_f1
from chapter03_multimodal.studies import thinned_tails
from chapter03_multimodal.studies.thinned_tails import (
    ThinnedTailsConfig,
    choose_both,
    load_thinned_tails,
    main,
    measure_draw,
    split_photos,
    tail_profile,
    thinned,
)
from common.artifacts import Artifacts
from common.catalogue import Catalogue, load_catalogue
from common.errors import CourseError
from common.scoreboard import COLUMNS
from tests.chapter03_multimodal.grocery import draw, write_grocery_store

pytestmark = pytest.mark.slow

CLASSES = [
    ("Apple", 0, "Apple", 0, "Fruit/Apple", (60, 200, 60)),
    ("Lime", 1, "Lime", 1, "Fruit/Lime", (200, 220, 60)),
    ("Leek", 2, "Leek", 2, "Vegetables/Leek", (90, 90, 220)),
]
PHOTOS = {"Apple": 24, "Lime": 18, "Leek": 14}
QUICK = HeadTraining(hidden=8, epochs=3, batch_size=16)


def grocery_home(home: Path, photos: dict[str, int]) -> Path:
    """A shop of three classes with so many training photos, and one validation photo each; of the apples the first
    six are one and the same."""

    def drawn(split: str, name: str) -> list[int]:
        if split != "train":
            return [0]
        return [0 if name == "Apple" and number < 6 else number for number in range(photos[name])]

    return write_grocery_store(home, CLASSES, drawn)


@pytest.fixture(scope="module")
def grocery(tmp_path_factory, tiny_clip):
    """What `main` made of the toy shop, its config, artifacts and catalogue."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_DATA_HOME", str(grocery_home(tmp_path_factory.mktemp("home"), PHOTOS)))
        patch.setenv("COURSE_ARTIFACTS", str(tmp_path_factory.mktemp("grocery")))
        small = {"heads": ("linear",), "techniques": (INVERSE, ADJUSTED), "weight_decays": (1.0,), "fitting": QUICK}
        config = ThinnedTailsConfig(encoder=str(tiny_clip), ratios=(1, 8), draws=2, seed=3, **small)
        result = main(config)
        catalogue = load_catalogue("grocery_store")
        yield result, config, Artifacts.for_catalogue(catalogue), catalogue


def examples(seed: int = 0) -> Examples:
    """Noisy vectors of four classes in three splits; the first class has ten times the photos of the last."""
    rng, sizes = np.random.default_rng(seed), np.array([40, 20, 10, 4])
    labels = np.concatenate([np.repeat(np.arange(4), sizes), np.tile(np.arange(4), 24)])
    splits = ["train"] * sizes.sum() + ["val"] * 48 + ["test"] * 48
    middles = np.random.default_rng(9).normal(size=(4, 6))
    vectors = (middles[labels] + 1.5 * rng.normal(size=(len(labels), 6))).astype(np.float32)
    return Examples(pd.DataFrame({"label": labels, "split": splits}), vectors, list("abcd"), {})


def advance(_: int) -> None: ...


# how many stay


def test_the_profile_is_exponential():
    full = np.full(5, 100)
    assert tail_profile(full, 100).tolist() == [100, 32, 10, 3, 1]
    assert tail_profile(np.array([100, 100, 7, 5, 2]), 100).tolist() == [100, 32, 7, 3, 1]
    assert tail_profile(np.array([20, 20, 20]), 1000).tolist() == [20, 1, 1]
    assert tail_profile(np.array([12]), 50).tolist() == [12]
    with pytest.raises(CourseError, match="at least 1"):
        tail_profile(full, 0.5)


many = st.lists(st.integers(1, 30), min_size=1, max_size=8)


@given(many, st.sampled_from([1, 2, 10, 50, 10_000]), st.integers(0, 5))
def test_every_class_keeps_its_share_and_none_disappears(sizes, ratio, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    kept = thinned(labels, ratio, seed)
    assert len({*kept}) == len(kept) and (np.diff(kept) > 0).all()
    left = np.bincount(labels[kept], minlength=len(sizes))
    assert (left >= 1).all() and (left <= sizes).all()
    # Whatever order ties are in, the counts are those of the profile, the frequent classes first.
    frequent_first = np.sort(sizes)[::-1]
    assert sorted(left, reverse=True) == sorted(tail_profile(frequent_first, ratio), reverse=True)
    for one, n_one in zip(left, sizes, strict=True):
        assert all(one >= other for other, n_other in zip(left, sizes, strict=True) if n_one > n_other)
    assert {*thinned(labels, 2 * ratio, seed)} <= {*kept}
    if ratio == 1:
        assert len(kept) == len(labels)


def test_a_seed_draws_the_photos_and_the_order_of_ties():
    labels = np.repeat([0, 1, 2], 20)
    draws = [thinned(labels, 10, seed) for seed in range(12)]
    np.testing.assert_array_equal(draws[0], thinned(labels, 10, 0))
    assert len({tuple(draw) for draw in draws}) == 12
    assert len({int(np.bincount(labels[draw]).argmax()) for draw in draws}) == 3


# the split


def test_the_photos_are_training_photos_and_the_same_ones_stay_together(grocery):
    result, *_ = grocery
    photos = result.photos
    assert photos["product_id"].str.startswith("train/").all() and Counter(photos["category_path"]) == {
        place.replace("/", " > "): PHOTOS[name] for name, _, _, _, place, _ in CLASSES
    }
    assert {*photos["split"]} == {"train", "val", "test"}
    alike = photos["product_id"].str.contains(r"Apple_train_[0-5]$")
    assert alike.sum() == 6 and photos["bound"].equals(alike)
    assert photos.loc[alike, "split"].nunique() == 1
    names = photos.loc[alike, ["product_id"]]
    assert thinned_tails.split_by_group(names, thinned_tails.SHARES, 3).nunique() > 1  # they would have been parted


def test_the_split_is_drawn_with_the_seed_alone(grocery):
    result, config, *_ = grocery
    data = thinned_tails.prepare_data(thinned_tails.PrepareDataConfig(catalogue="grocery_store"))
    pd.testing.assert_frame_equal(split_photos(data, config.seed), result.photos, check_dtype=False)
    assert not split_photos(data, config.seed + 1)["split"].equals(result.photos["split"])


def test_the_photos_to_choose_and_measure_on_are_the_same_for_every_ratio_and_draw(grocery, monkeypatch):
    shop, fit, trained_on, held_out = examples(), head.fit, set(), set()

    def spy(vectors, labels, val_vectors, val_labels, *rest):
        trained_on.add(len(labels))
        held_out.add((val_vectors.tobytes(), val_labels.tobytes()))
        return fit(vectors, labels, val_vectors, val_labels, *rest)

    monkeypatch.setattr(head, "fit", spy)
    found = [measure_draw(shop, ratio, number, grocery[1], advance) for ratio in (1, 10) for number in (0, 1)]
    assert len(trained_on) == 2 and held_out == {tuple(array.tobytes() for array in shop.of_split("val"))}
    for one in found:
        for row in one["rows"]:
            assert row["test top-1"] == (np.array(one[row["classifier"]]) == shop.of_split("test")[1]).mean()


# the choice


def trial(technique: str, macro: float, top: float, value: float | None = None) -> Trial:
    return Trial(SimpleNamespace(), Technique(technique, value), {"macro-F1": macro, "top-1": top})


def test_the_best_is_chosen_that_loses_little_against_the_best_plain_one():
    trials = [
        trial(PLAIN, 0.50, 0.70),
        trial(PLAIN, 0.52, 0.68),
        trial(INVERSE, 0.60, 0.65),
        trial(ADJUSTED, 0.57, 0.66, 1.0),
    ]
    assert choose_both(trials, 0.02) == {"plain": 1, "chosen": 3}
    assert choose_both(trials, 0.03) == {"plain": 1, "chosen": 2}
    assert choose_both(trials, 0.01) == {"plain": 1, "chosen": 1}


def test_nothing_is_gained_where_only_plain_is_offered(grocery):
    config = replace(grocery[1], techniques=(), heads=("linear", "mlp"), weight_decays=(0.3, 1.0))
    found = measure_draw(examples(), 10, 0, config, advance)
    assert found["plain"] == found["chosen"]
    plain, chosen = found["rows"]
    assert plain | {"classifier": "chosen"} == chosen
    guesses = np.array([found["plain"]])
    table = compare_over_draws(examples().of_split("test")[1], guesses, guesses, rounds=20)
    assert (table[["difference", "ci_low", "ci_high"]] == 0).all(axis=None)


def test_labels_of_test_decide_nothing(grocery):
    config = replace(grocery[1], heads=("linear", "mlp"), techniques=tuple(GRIDS))
    shop, other = examples(), examples()
    test = other.table["split"] == "test"
    other.table.loc[test, "label"] = np.random.default_rng(1).permutation(other.table.loc[test, "label"])
    one, two = (measure_draw(which, 10, 1, config, advance) for which in (shop, other))
    assert one["plain"] == two["plain"] and one["chosen"] == two["chosen"]
    for ours, theirs in zip(one["rows"], two["rows"], strict=True):
        differs = {key for key in ours if ours[key] != theirs[key]}
        assert differs and differs <= {"test macro-F1", "test top-1"}


def test_every_technique_has_the_same_grid(grocery, monkeypatch):
    config = replace(grocery[1], heads=("linear", "mlp"), techniques=tuple(GRIDS), weight_decays=(0.3, 1.0, 3.0))
    tried, fit = [], head.fit

    def spy(vectors, labels, val_vectors, val_labels, technique, kind, fitting, seed):
        tried.append((technique, kind, fitting.weight_decay, seed))
        return fit(vectors, labels, val_vectors, val_labels, technique, kind, replace(fitting, epochs=1), seed)

    monkeypatch.setattr(head, "fit", spy)
    measure_draw(examples(), 10, 1, config, advance)
    assert len({*tried}) == len(tried) == 13 * 2 * 3 and {seed for *_, seed in tried} == {config.seed + 1}
    assert {*Counter(technique for technique, *_ in tried).values()} == {6}
    assert {one.value for one, *_ in tried if one.name == ADJUSTED} == {0.5, 1.0, 1.5, 2.0}
    assert GRIDS[ADJUSTED] == (0.5, 1.0, 1.5)


def test_an_unknown_technique_is_told(grocery):
    with pytest.raises(CourseError, match="unknown technique 'magic'"):
        measure_draw(examples(), 10, 0, replace(grocery[1], techniques=("magic",)), advance)


# the bootstrap


def test_the_intervals_are_those_of_a_naive_bootstrap():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 60)
    plain, chosen = (np.where(rng.random((3, 60)) < right, labels, rng.integers(0, 5, (3, 60))) for right in (0.4, 0.7))
    table = compare_over_draws(labels, plain, chosen, seed=4, rounds=50).set_index("metric")
    rounds, draws = np.random.default_rng(4), {"macro-F1": [], "top-1": []}
    for rows in rounds.integers(0, 60, (50, 60)):
        means = {"macro-F1": [], "top-1": []}
        for guesses in (plain, chosen):
            means["macro-F1"].append(sum(macro_f1(labels[rows], guess[rows]) for guess in guesses) / 3)
            means["top-1"].append(sum(float((labels[rows] == guess[rows]).mean()) for guess in guesses) / 3)
        for metric, found in means.items():
            draws[metric].append((*found, found[1] - found[0]))
    for metric, found in draws.items():
        row, low, high = table.loc[metric], *np.quantile(found, [0.025, 0.975], axis=0)
        assert row[["plain_low", "chosen_low", "ci_low"]].tolist() == pytest.approx(low.tolist())
        assert row[["plain_high", "chosen_high", "ci_high"]].tolist() == pytest.approx(high.tolist())
    assert table.loc["macro-F1", "chosen"] == pytest.approx(np.mean([macro_f1(labels, guess) for guess in chosen]))
    assert table.loc["top-1", "difference"] == pytest.approx((chosen == labels).mean() - (plain == labels).mean())


def test_one_draw_has_the_interval_of_two_classifiers():
    rng = np.random.default_rng(1)
    labels, a, b = rng.integers(0, 4, (3, 50))
    row = compare_over_draws(labels, b[None], a[None], seed=2, rounds=40).iloc[0]
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(bootstrap_macro_f1(labels, a, b, seed=2, rounds=40))


# the step


def test_there_is_a_row_for_each_ratio_classifier_and_metric(grocery):
    result, *_ = grocery
    board = result.board
    assert tuple(board.columns) == COLUMNS and not board.duplicated(["system", "metric"]).any()
    names = [f"classifier on {photos}, " for photos in ("all photos", "photos thinned to 1:8")]
    expected = {(f"{name}plain cross-entropy", f"fine {metric}") for name in names for metric in ("macro-F1", "top-1")}
    for kind in ("fine", "gain in fine"):
        expected |= {
            (f"{name}chosen technique", f"{kind} {metric}") for name in names for metric in ("macro-F1", "top-1")
        }
    assert {*zip(board["system"], board["metric"], strict=True)} == expected
    assert {*board["split"]} == {"held-out"} and {*board["n_queries"]} == {(result.photos["split"] == "test").sum()}
    values = board.set_index(["system", "metric"])["value"]
    plain, chosen = (f"{names[1]}{kind}" for kind in ("plain cross-entropy", "chosen technique"))
    gain = values[chosen, "fine macro-F1"] - values[plain, "fine macro-F1"]
    assert values[chosen, "gain in fine macro-F1"] == pytest.approx(gain)


def test_the_figures_are_means_over_the_draws(grocery):
    result, *_ = grocery
    draws = result.draws
    assert len(draws) == 2 * 2 * 2 and {*draws["technique"]} <= {PLAIN, INVERSE, ADJUSTED}
    train = (result.photos["split"] == "train").sum()
    assert (draws.loc[draws["ratio"] == 1, "n_train"] == train).all()
    assert (draws.loc[draws["ratio"] == 8, "n_train"] < train).all()
    means = draws.groupby(["classifier", "ratio"])[["test macro-F1", "test top-1"]].mean()
    for row in result.figures.itertuples():
        for name in ("plain", "chosen"):
            assert getattr(row, name) == pytest.approx(means.loc[(name, row.ratio), f"test {row.metric}"])


def test_nothing_is_made_twice(grocery, monkeypatch):
    result, config, artifacts, *_ = grocery
    monkeypatch.setattr(thinned_tails, "measure_draw", None)
    assert main(config).run.name == result.run.name == load_thinned_tails(artifacts).run.name


def test_draws_that_were_finished_before_a_kill_are_kept(grocery, tmp_path, monkeypatch):
    _, config, _, catalogue = grocery
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path))
    measure, done = thinned_tails.measure_draw, []

    def killed(examples, ratio, draw, *rest):
        done.append((ratio, draw))
        if done == [(1, 0), (1, 1), (8, 0)]:
            raise KeyboardInterrupt
        return measure(examples, ratio, draw, *rest)

    monkeypatch.setattr(thinned_tails, "measure_draw", killed)
    with pytest.raises(KeyboardInterrupt):
        main(config)
    unfinished = Artifacts.for_catalogue(catalogue).folder / "chapter03_multimodal" / "unfinished"
    assert {path.name for path in unfinished.glob("*/*.json")} == {"1_0.json", "1_1.json"}
    result = main(config)
    assert done == [(1, 0), (1, 1), (8, 0), (8, 0), (8, 1)] and not [*unfinished.iterdir()]
    pd.testing.assert_frame_equal(result.draws, grocery[0].draws)
    pd.testing.assert_frame_equal(result.figures, grocery[0].figures)


def test_other_settings_begin_anew(grocery, tmp_path, monkeypatch):
    _, config, *_ = grocery
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path))
    first, measure, done = main(config), thinned_tails.measure_draw, []
    monkeypatch.setattr(thinned_tails, "measure_draw", lambda *given: (done.append(given[1:3]), measure(*given))[1])
    assert main(replace(config, seed=config.seed + 1)).run.name != first.run.name and len(done) == 4


def test_other_shops_are_refused(tmp_path):
    draw(tmp_path / "p1.png", (0, 0, 0), 0)
    products = pd.DataFrame({"product_id": ["p1"], "title": ["mug"]})
    images = pd.DataFrame({"product_id": ["p1"], "path": ["p1.png"]})
    toy = Catalogue.from_tables("toy", products=products, images=images, folder=tmp_path).save(tmp_path / "saved")
    with pytest.raises(CourseError, match="grocery_store alone, not on toy"):
        main(ThinnedTailsConfig(catalogue=str(toy.folder)))


@pytest.mark.parametrize("change", [{"draws": 0}, {"ratios": ()}])
def test_no_draw_and_no_ratio_are_refused(grocery, change):
    with pytest.raises(CourseError, match="at least one ratio and one draw"):
        main(replace(grocery[1], **change))


def test_too_few_photos_of_a_class_are_an_error(tmp_path, tiny_clip, artifacts_root, monkeypatch):
    monkeypatch.setenv("COURSE_DATA_HOME", str(grocery_home(tmp_path, PHOTOS | {"Leek": 2})))
    with pytest.raises(CourseError, match="Vegetables > Leek has 2"):
        main(ThinnedTailsConfig(encoder=str(tiny_clip)))


def test_an_empty_split_is_an_error(grocery, monkeypatch):
    monkeypatch.setattr(thinned_tails, "SHARES", {"train": 0.5, "val": 0.5, "test": 0.0})
    with pytest.raises(CourseError, match="no picture of the test split"):
        main(replace(grocery[1], slack=0.1))
