from __future__ import annotations

import pandas as pd
import pytest

from common.errors import CourseError
from common.scoreboard import COLUMNS, FILE, read_scoreboard, save_scoreboard


def test_rows_come_back_in_the_columns_of_the_scoreboard(tmp_path):
    assert read_scoreboard(tmp_path) is None
    rows = pd.DataFrame({name: [number] for number, name in enumerate(reversed(COLUMNS))})
    save_scoreboard(tmp_path, rows.assign(note="left out"))
    pd.testing.assert_frame_equal(read_scoreboard(tmp_path), rows[list(COLUMNS)])


def test_a_missing_column_is_named(tmp_path):
    rows = pd.DataFrame({name: [0] for name in COLUMNS if name != "ci_low"})
    with pytest.raises(CourseError, match="scoreboard: column 'ci_low' is missing"):
        save_scoreboard(tmp_path, rows)
    rows.to_parquet(tmp_path / FILE)
    with pytest.raises(CourseError, match=r"scoreboard\.parquet: column 'ci_low' is missing; run its step again"):
        read_scoreboard(tmp_path)
