"""Notebook 6: towers over averaged token embeddings, trained with triplets, and a sweep of their settings."""
