"""Outcomes stop a notebook only where its outputs were made."""

import pytest

from common import outcomes
from common.devices import Placement
from common.outcomes import expect

COMMITTED = Placement("cpu", "openvino", "bfloat16", "native")


@pytest.fixture
def run_on(monkeypatch):
    """Return a function that sets the placement which `expect` sees."""
    monkeypatch.delenv("COURSE_PROFILE", raising=False)

    def set_placement(placement):
        monkeypatch.setattr(outcomes, "choose_placement", lambda: placement)

    return set_placement


def test_a_claim_that_holds_is_silent_everywhere(run_on, capsys):
    run_on(COMMITTED)
    assert expect("training helps", True, towers=0.5)
    assert expect("training helps", True, "smoke", towers=0.5)
    assert capsys.readouterr().out == ""


def test_a_broken_claim_stops_where_the_outputs_were_made(run_on):
    run_on(COMMITTED)
    with pytest.raises(AssertionError, match=r"training helps: this does not hold\. Measured: two towers 0\.250\."):
        expect("training helps", False, two_towers=0.25)


@pytest.mark.parametrize(
    "placement, profile, why",
    [
        (COMMITTED, "smoke", "profile smoke"),
        (COMMITTED, "full", "profile full"),
        (Placement("cuda", "torch", "bfloat16", ""), None, "on cuda"),
        (Placement("cpu", "openvino", "float32", ""), None, "a CPU without native bfloat16"),
    ],
)
def test_a_broken_claim_is_told_anywhere_else(run_on, capsys, placement, profile, why):
    run_on(placement)
    assert not expect("training helps", False, profile, towers=0.25, queries=12)
    expected = f"Expected, but not so here ({why}): training helps. Measured: towers 0.250, queries 12.\n"
    assert capsys.readouterr().out == expected


def test_the_profile_of_the_environment_counts(run_on, monkeypatch, capsys):
    run_on(COMMITTED)
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    expect("training helps", False)
    assert "(profile smoke)" in capsys.readouterr().out


def test_a_numpy_truth_counts_as_one(run_on):
    import numpy as np

    run_on(COMMITTED)
    with pytest.raises(AssertionError):
        expect("training helps", np.float32(0.1) > np.float32(0.2))
