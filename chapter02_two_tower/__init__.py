"""Chapter 2: a query tower and a product tower, trained on query-product pairs, that beat the baseline."""
