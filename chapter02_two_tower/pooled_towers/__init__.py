"""Train towers over averaged token embeddings with triplets, and sweep their settings (notebook 6)."""
