"""Runs and judgements survive the way through a TREC file, and other readers see our order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import CourseError
from common.evaluation import evaluate, rankings
from common.search import Hits, hits_from_rows
from common.trec import read_trec_qrels, read_trec_run, write_trec_qrels, write_trec_run

# White space of every kind, percent signs and what looks like a code among all other letters.
IDS = st.one_of(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=5),
    st.text(" \t\n\r\x0b\x1c\x85\xa0\u2028%20aAé", min_size=1, max_size=5),
    st.sampled_from(["AB 12", "100%", "%20", "%2520", "red mug.jpg", " "]),
)
SCORES = st.one_of(st.integers(0, 2).map(float), st.floats(-1e6, 1e6, width=32))
ROWS = st.lists(st.dictionaries(IDS, SCORES, max_size=5), min_size=1, max_size=3)
JUDGEMENTS = pd.DataFrame(
    [("q", "a", 3), ("q", "b", 0), ("r", "a", 1)], columns=["query_id", "product_id", "grade"]
).astype({"query_id": "str", "product_id": "str"})


@settings(max_examples=60, deadline=None)
@given(ROWS, st.lists(IDS, min_size=3, max_size=3, unique=True))
def test_a_run_comes_back_in_the_same_order(tmp_path_factory, rows, names):
    path = tmp_path_factory.getbasetemp() / "round-trip.run"
    hits = hits_from_rows([(list(row), list(row.values())) for row in rows], 5)
    names = names[: len(rows)]
    write_trec_run(path, hits, names)
    if not any(rows):
        with pytest.raises(CourseError, match="no line"):
            read_trec_run(path, names)
        return
    again = read_trec_run(path, names)
    assert rankings(again) == rankings(hits)
    for before, after in zip(hits.scores, again.scores, strict=True):
        wanted = before[before > -np.inf]
        np.testing.assert_allclose(after[: len(wanted)], wanted, rtol=1e-5, atol=1e-38)
        if len(set(wanted.tolist())) == len(wanted):
            assert after[: len(wanted)].tolist() == wanted.tolist(), "scores without ties are kept to the last bit"


def test_another_reader_gives_the_same_figures_even_with_ties(tmp_path: Path):
    """trec_eval breaks ties by descending id, the course by ascending id: the file must not leave it a choice."""
    import ir_measures

    rng = np.random.default_rng(0)
    products = [f"p{i}" for i in range(30)]
    rows = [(products, rng.integers(0, 3, 30).astype(float)) for _ in range(20)]
    hits, names = hits_from_rows(rows, 20), [f"q{i}" for i in range(20)]
    judgements = pd.DataFrame([(q, p, int(rng.integers(0, 4))) for q in names for p in products[:25]])
    judgements.columns = ["query_id", "product_id", "grade"]
    write_trec_run(tmp_path / "run", hits, names)
    write_trec_qrels(tmp_path / "qrels", judgements)
    measures = [ir_measures.nDCG @ 10, ir_measures.AP(rel=2)]
    theirs = ir_measures.calc_aggregate(
        measures, ir_measures.read_trec_qrels(str(tmp_path / "qrels")), ir_measures.read_trec_run(str(tmp_path / "run"))
    )
    ours = evaluate(hits, names, judgements, metrics=["nDCG@10", "MAP"]).mean()
    assert ours.tolist() == pytest.approx([theirs[measure] for measure in measures], abs=1e-12)


def test_the_lines_are_those_of_the_format(tmp_path: Path):
    hits = Hits(np.array([["a", "b"], ["c", None]], dtype=object), np.array([[2.5, 1], [0.1, -np.inf]], np.float32))
    write_trec_run(tmp_path / "run", hits, ["q", "r"], tag="bm25")
    assert (tmp_path / "run").read_text() == "q Q0 a 1 2.5 bm25\nq Q0 b 2 1 bm25\nr Q0 c 1 0.100000001 bm25\n"
    write_trec_qrels(tmp_path / "qrels", JUDGEMENTS)
    assert (tmp_path / "qrels").read_text() == "q 0 a 3\nq 0 b 0\nr 0 a 1\n"
    assert not [path for path in tmp_path.iterdir() if path.name not in ("run", "qrels")]


def test_a_repeated_product_is_written_once_with_its_better_score(tmp_path: Path):
    hits = Hits(np.array([["a", "b", "a"]], dtype=object), np.array([[3, 2, 1]], np.float32))
    write_trec_run(tmp_path / "run", hits, ["q"])
    assert (tmp_path / "run").read_text() == "q Q0 a 1 3 course\nq Q0 b 2 2 course\n"


def test_judgements_come_back(tmp_path: Path):
    write_trec_qrels(tmp_path / "qrels", JUDGEMENTS)
    pd.testing.assert_frame_equal(read_trec_qrels(tmp_path / "qrels"), JUDGEMENTS)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(IDS, IDS, st.integers(0, 3)), max_size=6))
def test_judgements_of_any_ids_come_back(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "round-trip.qrels"
    judgements = pd.DataFrame(rows, columns=["query_id", "product_id", "grade"])
    write_trec_qrels(path, judgements)
    assert [*read_trec_qrels(path).itertuples(index=False, name=None)] == rows


def test_white_space_and_percent_signs_are_encoded_and_nothing_else(tmp_path: Path):
    ids = ["AB 12", "100%", "%20", "a+b/ü&c"]
    write_trec_qrels(tmp_path / "qrels", pd.DataFrame({"query_id": "my query", "product_id": ids, "grade": 1}))
    lines = (tmp_path / "qrels").read_text(encoding="utf-8").splitlines()
    assert lines == [f"my%20query 0 {name} 1" for name in ("AB%2012", "100%25", "%2520", "a+b/ü&c")]
    write_trec_run(tmp_path / "run", hits_from_rows([(["AB 12", "%20"], [2.0, 1.0])], 2), ["my query"])
    assert (tmp_path / "run").read_text() == "my%20query Q0 AB%2012 1 2 course\nmy%20query Q0 %2520 2 1 course\n"
    assert read_trec_run(tmp_path / "run", ["my query"]).ids.tolist() == [["AB 12", "%20"]]


def test_a_percent_sign_of_another_tool_that_begins_no_code_stays(tmp_path: Path):
    (tmp_path / "qrels").write_text("q 0 100% 1\nq 0 5%off 1\n")
    assert read_trec_qrels(tmp_path / "qrels")["product_id"].tolist() == ["100%", "5%off"]


def test_a_query_that_is_not_in_the_run_gets_a_row_of_padding_and_scores_zero(tmp_path: Path):
    (tmp_path / "run").write_text("q Q0 b 1 1.0 x\nq Q0 a 2 9.0 x\n\nother Q0 a 1 1.0 x\n")
    hits = read_trec_run(tmp_path / "run", ["r", "q"])
    assert rankings(hits) == [[], ["a", "b"]], "the score decides, not the rank column"
    assert evaluate(hits, ["r", "q"], JUDGEMENTS, metrics=["MRR"])["MRR"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("q Q0 a 1 1.0\n", "line 1: 5 fields instead of 6"),
        ("q Q0 a 1 1.0 x\nq Q0 a 1 high x\n", "line 2: 'high' is not a finite number"),
        ("q Q0 a 1 nan x\n", "not a finite number"),
        ("q Q0 a 1 1 x\nq Q0 50%ff 2 1 x\n", "line 2: the id '50%ff' has a %-code that is not UTF-8; write .* as %25"),
        ("z Q0 a 1 1.0 x\n", "no line for any of the 1 queries"),
        ("", "no line for any"),
    ],
)
def test_bad_runs_are_refused(tmp_path: Path, text, words):
    (tmp_path / "run").write_text(text)
    with pytest.raises(CourseError, match=words):
        read_trec_run(tmp_path / "run", ["q"])


def test_bad_files_are_refused(tmp_path: Path):
    (tmp_path / "half").write_text("q 0 a 1.5\n")
    with pytest.raises(CourseError, match=r"line 1: the grade '1.5'"):
        read_trec_qrels(tmp_path / "half")
    (tmp_path / "bytes").write_bytes(b"q 0 \xff 1\n")
    for path in (tmp_path / "bytes", tmp_path / "absent"):
        with pytest.raises(CourseError, match="cannot be read"):
            read_trec_qrels(path)


def test_what_the_format_cannot_hold_is_refused_and_nothing_is_written(tmp_path: Path):
    hits = hits_from_rows([(["a"], [1.0])], 1)
    for empty, query_id in ((hits_from_rows([([""], [1.0])], 1), "q"), (hits, "")):
        with pytest.raises(CourseError, match="an id is empty"):
            write_trec_run(tmp_path / "run", empty, [query_id])
    with pytest.raises(CourseError, match="an id is empty"):
        write_trec_qrels(tmp_path / "run", JUDGEMENTS.assign(query_id=""))
    for tag in ("two words", ""):
        with pytest.raises(CourseError, match="the tag is empty or has a blank"):
            write_trec_run(tmp_path / "run", hits, ["q"], tag=tag)
    with pytest.raises(CourseError, match="1 rows of hits for 2 query ids"):
        write_trec_run(tmp_path / "run", hits, ["q", "r"])
    assert not list(tmp_path.iterdir())
