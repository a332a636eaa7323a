"""Rank search results with gradient-boosted trees: notebook 4, where categories come back to search."""
