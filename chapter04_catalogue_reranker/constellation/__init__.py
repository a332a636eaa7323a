"""Notebook 5: the catalogue as a map in three dimensions, and its page."""
