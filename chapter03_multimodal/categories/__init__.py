"""Notebook 4: categories from pictures, with long-tail techniques."""
