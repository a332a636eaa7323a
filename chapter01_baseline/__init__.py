"""Chapter 1: keyword and vector search on a real catalogue, measured, then a second stage that reranks."""

import common  # noqa: F401  before torch: sets how its threads wait
