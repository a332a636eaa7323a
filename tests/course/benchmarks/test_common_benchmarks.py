"""The text-embedding benchmark reports what it says, and our encoder does agree with the peer."""

from __future__ import annotations

import pytest

from common.errors import CourseError
from course.bench import FIELDS
from course.benchmarks import text_embedding


def test_a_row_has_the_pair_and_their_agreement():
    documents = [f"wireless mouse model {number} with {number} buttons and a long cable" for number in range(20)]
    (row,) = text_embedding.main(documents)
    assert set(FIELDS) <= set(row)
    assert row["our_value"] > 0 < row["peer_value"]
    assert row["ratio"] > 0
    assert 0.999 <= row["cosine"] <= 1.00001
    assert "20 documents given" in row["note"]


def test_too_few_documents_are_refused():
    with pytest.raises(CourseError, match="too few"):
        text_embedding.main(["one"])
