"""Notebook 5: which products go together, and which one completes an outfit."""
