"""Chapter 4: a model that ranks category paths for a product by its text and picture, and what that does for search."""

import common  # noqa: F401  before torch: sets how its threads wait
