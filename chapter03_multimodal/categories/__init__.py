"""Classify pictures into categories, with long-tail techniques (notebook 4)."""
