"""Train a query tower and a product tower on query-product pairs, and beat the baseline (chapter 2)."""

import common  # noqa: F401  before torch: sets how its threads wait
