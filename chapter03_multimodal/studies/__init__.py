"""Measure for the results page what is not part of the main story, and train the packaged CLIP."""
