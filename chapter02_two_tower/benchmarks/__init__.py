"""Training, mining and the cached loss beside the public ones, side by side in one run."""
