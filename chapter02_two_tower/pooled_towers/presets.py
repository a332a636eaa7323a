"""List the settings that a sweep tries, by model and preset."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Space = dict[str, BaseDistribution]

PRESETS: dict[str, dict[str, Space]] = {
    "pooled": {
        "quick": {
            "margin": CategoricalDistribution((0.2, 0.4)),
            "learning_rate": CategoricalDistribution((1e-3, 3e-3)),
            "dimension": CategoricalDistribution((64, 128)),
        },
        "basic": {
            "margin": FloatDistribution(0.1, 0.8),
            "learning_rate": FloatDistribution(3e-4, 1e-2, log=True),
            "token_weight_rate": FloatDistribution(1e-3, 1e-1, log=True),
            "dimension": CategoricalDistribution((64, 128, 256)),
        },
        "extensive": {
            "kind": CategoricalDistribution(("mean", "gru")),
            "margin": FloatDistribution(0.05, 1.0),
            "learning_rate": FloatDistribution(1e-4, 3e-2, log=True),
            "token_weight_rate": FloatDistribution(1e-4, 1e-1, log=True),
            "dimension": CategoricalDistribution((64, 128, 256, 384)),
            "batch_size": CategoricalDistribution((32, 64, 128, 256)),
            "negatives": IntDistribution(0, 4),
            "product_length": CategoricalDistribution((16, 32, 64)),
        },
    },
    "two_tower": {
        "quick": {
            "learning_rate": CategoricalDistribution((2e-5, 5e-5)),
            "temperature": CategoricalDistribution((0.05, 0.1)),
        },
        "basic": {
            "learning_rate": FloatDistribution(1e-5, 1e-4, log=True),
            "temperature": FloatDistribution(0.02, 0.2, log=True),
            "relative_margin": FloatDistribution(0.0, 0.2),
        },
        "extensive": {
            "learning_rate": FloatDistribution(5e-6, 2e-4, log=True),
            "temperature": FloatDistribution(0.01, 0.3, log=True),
            "relative_margin": FloatDistribution(0.0, 0.3),
            "batch_size": CategoricalDistribution((32, 64, 128)),
            "pooling": CategoricalDistribution(("mean", "cls")),
            "shared": CategoricalDistribution((True, False)),
            "triplet": FloatDistribution(0.0, 1.0),
            "contrastive": FloatDistribution(0.0, 1.0),
        },
    },
}
"""By model and preset, the values of each setting. Those of quick are lists, for a grid."""
