"""Benchmarks of the chapter: our fast paths beside the plain ones."""
