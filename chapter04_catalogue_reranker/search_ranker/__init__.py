"""Notebook 4: the learned ranker, which brings categories back to search."""
