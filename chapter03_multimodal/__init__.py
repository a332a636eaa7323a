"""Chapter 3: pictures. A fine-tuned CLIP in the course's search, a long-tail classifier, and complete the look."""

import common  # noqa: F401  before torch: sets how its threads wait
