"""Benchmarks of what spans the chapters: our fast paths beside the plain ones."""
