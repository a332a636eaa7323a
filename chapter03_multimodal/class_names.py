"""Put pictures into the space of words without a single pair: through the names of the classes a classifier knows.

Source: Norouzi et al. 2014, "Zero-Shot Learning by Convex Combination of Semantic Embeddings" (ConSE, arXiv:1312.5650).
ImageNet's 1,000 classes are animals, plants, vehicles and things of the house; they say little about a shop.
"""

from __future__ import annotations

import numpy as np
import torch

from chapter03_multimodal.pretrained_towers import CLASSIFIER, lite0_weights
from common.encoders import TextEncoder

TOP = 10
"""Number of classes mixed into a picture's vector, as in the paper."""


def class_names() -> list[str]:
    """Return the names of ImageNet's classes in the order of EfficientNet-Lite0's outputs, from timm."""
    from timm.data import ImageNetInfo

    names = ImageNetInfo("imagenet-1k")
    return [names.index_to_description(index).split(",")[0] for index in range(names.num_classes())]


def class_probabilities(features: np.ndarray) -> np.ndarray:
    """Return the probability of each class, float32 [N, 1000], for N pictures' features, [N, F], of the Lite0 tower."""
    weight, bias = (lite0_weights()[f"{CLASSIFIER}{name}"] for name in ("weight", "bias"))
    logits = torch.nn.functional.linear(torch.from_numpy(features), weight, bias)
    return logits.softmax(dim=1).numpy()


def picture_vectors(features: np.ndarray, encoder: TextEncoder, top: int = TOP) -> np.ndarray:
    """Return a vector of words for each picture, float32 [N, D] of length 1.

    It is the mean of the vectors of the `top` likeliest classes' names, weighted by their probabilities.
    """
    probabilities = class_probabilities(features)
    names = encoder.encode(class_names()).vectors
    likeliest = np.argpartition(-probabilities, top - 1, axis=1)[:, :top]
    weights = np.zeros_like(probabilities)
    np.put_along_axis(weights, likeliest, np.take_along_axis(probabilities, likeliest, axis=1), axis=1)
    mixed = weights @ names
    return mixed / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12)
