"""The ground of the course: what every chapter needs and no chapter teaches. Imports no chapter."""

import os

# OpenMP reads it when torch is loaded. Threads that spin while they wait take the core from those they wait for, if
# anything else runs on the machine (`python -m course bench busy-machine`).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
