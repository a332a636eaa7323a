"""Zero-shot and fine-tuned on the same pictures, counted again by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chapter03_multimodal.encoder import load_clip_encoder
from chapter03_multimodal.prepare_data import load_multimodal_data
from chapter03_multimodal.retrieval import (
    FINE_TUNED,
    ZERO_SHOT,
    RetrievalConfig,
    load_retrieval,
    main,
    measure,
)
from chapter03_multimodal.retrieval_metrics import retrieval_metrics
from chapter03_multimodal.train import clip_folders
from common.artifacts import Artifacts
from common.errors import CourseError, MissingArtifact
from common.scoreboard import read_scoreboard
from common.statistics import holm


@pytest.fixture(scope="module")
def result(thread):
    return main(RetrievalConfig(catalogue=str(thread[0].folder)))


def test_a_row_a_usable_picture_of_the_split_that_has_a_text(thread, result):
    data = load_multimodal_data(thread[1], thread[0])
    pairs = data.with_text("test")
    assert list(result.per_pair) == [ZERO_SHOT, FINE_TUNED]
    for table in result.per_pair.values():
        assert table.index.tolist() == pairs["product_id"].tolist()
    assert pairs["product_id"].duplicated().any(), "a product may have two pictures"


def test_the_figures_are_those_of_both_models_by_hand(thread, result, tiny_clip):
    catalogue, artifacts = thread
    data = load_multimodal_data(artifacts, catalogue)
    pairs = data.with_text("test")
    tables = {}
    for name, folder in ((ZERO_SHOT, tiny_clip), (FINE_TUNED, clip_folders(artifacts)["best"])):
        encoder = load_clip_encoder(folder)
        images = encoder.encode_images([Path(catalogue.folder, path) for path in pairs["path"]]).vectors
        tables[name] = retrieval_metrics(images, encoder.encode(pairs["text"].tolist()).vectors, pairs["text"].tolist())
        np.testing.assert_allclose(result.per_pair[name].mean(), tables[name].mean(), atol=0.02)
        board = result.board[result.board["system"] == name].set_index("metric")
        assert board["value"].to_dict() == pytest.approx(result.per_pair[name].mean().to_dict())
        assert (board["n_queries"] == len(pairs)).all()
        assert ((board["ci_low"] <= board["value"]) & (board["value"] <= board["ci_high"])).all()
    assert not tables[ZERO_SHOT].equals(tables[FINE_TUNED])


def test_every_metric_is_compared_and_the_p_values_are_corrected_together(result):
    table = result.comparisons.set_index("metric")
    before, after = result.per_pair[ZERO_SHOT], result.per_pair[FINE_TUNED]
    assert table.index.tolist() == list(after) and len(table) == 8
    assert table["difference"].to_dict() == pytest.approx((after.mean() - before.mean()).to_dict())
    assert table["p_holm"].to_dict() == pytest.approx(holm(table["p"].to_dict()))
    assert ((table["ci_low"] <= table["difference"]) & (table["difference"] <= table["ci_high"])).all()


def test_its_rows_on_the_scoreboard_have_the_course_s_columns(thread, result):
    rows = read_scoreboard(result.run.path)
    assert {*rows["system"]} == {ZERO_SHOT, FINE_TUNED} and {*rows["split"]} == {"test"}
    assert {*rows["source"]} == {"thread"} and rows["seconds"].isna().all()
    assert {"text to image R@1", "image to text MRR"} <= {*rows["metric"]}
    assert rows["value"].tolist() == result.board["value"].tolist()


def test_it_is_measured_once_and_another_split_is_another_run(thread, result):
    catalogue, artifacts = thread
    source = str(catalogue.folder)
    assert main(RetrievalConfig(catalogue=source)).run.name == result.run.name
    again = load_retrieval(artifacts)
    for name in (ZERO_SHOT, FINE_TUNED):
        pd.testing.assert_frame_equal(again.per_pair[name], result.per_pair[name])
    val = main(RetrievalConfig(catalogue=source, split="val"))
    assert val.run.name != result.run.name and {*read_scoreboard(val.run.path)["split"]} == {"val"}
    assert not {*val.per_pair[ZERO_SHOT].index} & {*result.per_pair[ZERO_SHOT].index}
    main(RetrievalConfig(catalogue=source))


def test_too_few_pictures_and_missing_steps_are_errors(thread, tiny_clip, tmp_path):
    data = load_multimodal_data(thread[1], thread[0])
    with pytest.raises(CourseError, match="thread: the nowhere split has 0 pictures with a text; too few"):
        measure(data, str(tiny_clip), "nowhere")
    with pytest.raises(MissingArtifact, match=r"python -m chapter03_multimodal\.retrieval"):
        load_retrieval(Artifacts.for_catalogue(thread[0], root=tmp_path))
