"""The roof of the course: what spans the chapters. The only package that may import all of them."""

import common  # noqa: F401  before torch: sets how its threads wait
