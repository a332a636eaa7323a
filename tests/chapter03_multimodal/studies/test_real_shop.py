"""The study of a real shop on a toy one in its layout: what is left out, how models are compared, and the rows."""

from __future__ import annotations

import pandas as pd
import pytest

from chapter03_multimodal import align, prepare_data, train
from chapter03_multimodal.studies.real_shop import (
    CLASS_NAMES,
    FINE_TUNED,
    LIT,
    RealShopConfig,
    compared,
    main,
    unseen_pairs,
)
from common.artifacts import Artifacts
from common.catalogue import load_catalogue
from common.errors import CourseError
from common.scoreboard import read_scoreboard
from tests.common.catalogue.toy_fashion import pictures, regular_rows, write_fashion

METRICS = ["text_to_image_R@1", "text_to_image_R@10", "text_to_image_MRR"]


def test_each_model_is_compared_with_the_one_before_it():
    products = [f"p{number}" for number in range(40)]
    nothing, half, perfect = (
        pd.DataFrame({metric: [1.0] * right + [0.0] * (40 - right) for metric in METRICS}, index=products)
        for right in (0, 20, 40)
    )
    table = compared({"none": nothing, "half": half, "perfect": perfect}, seed=0)
    assert table[["system", "before"]].drop_duplicates().to_numpy().tolist() == [["half", "none"], ["perfect", "half"]]
    assert (table["difference"] == 0.5).all() and (table["p_holm"] < 0.01).all()
    assert (compared({"a": half, "b": half}, seed=0)["p_holm"] == 1).all()


def test_other_products_are_measured_without_the_titles_of_training(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))
    home = write_fashion(tmp_path / "kept_back", "zip")
    titles = {row[0]: row[-1] for row in regular_rows()}
    (tmp_path / "photo.jpg").write_bytes(pictures()["1001"])
    known = pd.DataFrame({"text": [titles["1000"].upper(), "of another shop"], "path": ["photo.jpg", "photo.jpg"]})
    pairs, folder = unseen_pairs(str(home), known, tmp_path)
    shown = {product for product in pictures() if product in titles}
    assert shown - {"1000", "1001"} <= set(pairs["product_id"]) and not {"1000", "1001"} & set(pairs["product_id"])
    assert all((folder / path).is_file() for path in pairs["path"]) and (pairs["text"] != "").all()


@pytest.mark.slow
def test_from_the_files_to_the_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("COURSE_DATA_HOME", str(tmp_path / "home"))
    write_fashion(tmp_path / "home" / "fashion-products", "zip")
    source = str(load_catalogue("fashion_products", queries=20).folder)
    prepare_data.main(prepare_data.PrepareDataConfig(catalogue=source, profile="smoke", text="title"))
    align.main(align.AlignConfig(catalogue=source, profile="smoke", epochs=1, batch_size=8))
    train.main(train.TrainConfig(catalogue=source, profile="smoke", encoder="aligned", trained="projections", epochs=1))
    result = main(RealShopConfig(catalogue=source, profile="smoke", split="val", pool=12))
    run = Artifacts.for_catalogue(load_catalogue(source), "smoke").current("chapter03_multimodal", "studies.real_shop")
    rows = read_scoreboard(run.path)
    assert set(rows["system"]) == {CLASS_NAMES, LIT, FINE_TUNED} and rows["n_queries"].between(2, 12).all()
    assert "text to image R@1" in set(rows["metric"]) and rows["value"].between(0, 1).all()
    assert len(result.comparisons) == 2 * len(METRICS)
    train.main(
        train.TrainConfig(catalogue=source, profile="smoke", encoder="lite0_minilm", trained="projections", epochs=1)
    )
    with pytest.raises(CourseError, match="train --encoder aligned"):
        main(RealShopConfig(catalogue=source, profile="smoke"))
