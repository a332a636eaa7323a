"""Measurements for the results page that are not part of the chapter's main story."""
