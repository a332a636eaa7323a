"""Aligning two frozen towers: kept features equal the running towers, and an interruption changes no bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, normalize

from chapter03_multimodal import align as module
from chapter03_multimodal.align import AlignConfig, align, batches_of, frozen, projected
from chapter03_multimodal.class_names import class_names, class_probabilities, picture_vectors
from chapter03_multimodal.clip import LITE0_MINILM, load_clip
from chapter03_multimodal.frozen_features import picture_features, projections, text_features
from chapter03_multimodal.losses import clip_loss
from common.encoders import load_text_encoder
from common.errors import CourseError
from common.training_log import read_log
from tests.chapter03_multimodal.toy import toy_data

CONFIG = AlignConfig(catalogue="toy", epochs=4, batch_size=8, patience=9)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy_data(tmp_path_factory.mktemp("toy"), count=30)


@pytest.fixture(scope="module")
def parts(data, tmp_path_factory):
    clip, cache = load_clip(LITE0_MINILM), tmp_path_factory.mktemp("cache")
    return tuple(frozen(clip, data, split, cache) for split in ("train", "val"))


def test_kept_features_through_the_projections_are_what_the_model_computes(data, parts):
    clip, (train, _) = load_clip(LITE0_MINILM), parts
    pictures = torch.stack([clip.preprocess(_open(data, path)) for path in train.pairs["path"]])
    with torch.no_grad():
        images, texts = projected(projections(clip), train, slice(None))
        expected = (
            clip.model.encode_image(pictures),
            clip.model.encode_text(clip.tokenise(train.pairs["text"].tolist())),
        )
    torch.testing.assert_close(images, normalize(expected[0], dim=-1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(texts, normalize(expected[1], dim=-1), rtol=1e-4, atol=1e-4)


def test_a_step_has_the_gradient_of_one_through_the_towers(data, parts):
    train, clip = parts[0], load_clip(LITE0_MINILM)
    batch = batches_of(train, CONFIG).epoch(0)[0]
    heads = projections(clip)
    images, texts = projected(heads, train, batch.rows)
    clip_loss(texts, images, batch.known, logit_scale=clip.model.logit_scale).backward()
    found = [weight.grad.clone() for weight in heads.parameters()]
    clip.model.zero_grad()
    pairs = train.pairs.iloc[batch.rows]
    pictures = torch.stack([clip.preprocess(_open(data, path)) for path in pairs["path"]])
    images = normalize(clip.model.encode_image(pictures), dim=-1)
    texts = normalize(clip.model.encode_text(clip.tokenise(pairs["text"].tolist())), dim=-1)
    scores = clip.model.logit_scale.exp() * texts @ images.T
    scores = scores.masked_fill(batch.known & ~torch.eye(len(pairs), dtype=torch.bool), -torch.inf)
    own = torch.arange(len(pairs))
    ((cross_entropy(scores, own) + cross_entropy(scores.T, own)) / 2).backward()
    for one, weight in zip(found, heads.parameters(), strict=True):
        torch.testing.assert_close(one, weight.grad, rtol=1e-2, atol=1e-5)


def test_titles_that_are_equal_are_no_negatives_of_each_other(parts):
    train = replace(parts[0], pairs=parts[0].pairs.assign(text="the same"))
    assert all(batch.known.all() for batch in batches_of(train, CONFIG).epoch(0))


def test_interrupted_after_an_epoch_it_goes_on_to_the_same_bits(parts, tmp_path, monkeypatch):
    align(CONFIG, load_clip(LITE0_MINILM), *parts, tmp_path / "whole")
    counted, step = [], module.projected

    def interrupted(*arguments):
        counted.append(1)
        if len(counted) == 11:  # in the middle of the third epoch
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(module, "projected", interrupted)
    with pytest.raises(KeyboardInterrupt):
        align(CONFIG, load_clip(LITE0_MINILM), *parts, tmp_path / "parts")
    assert not (tmp_path / "parts" / "model").exists()
    align(CONFIG, load_clip(LITE0_MINILM), *parts, tmp_path / "parts")
    first, second = (
        load_file(tmp_path / name / "model" / "open_clip_model.safetensors") for name in ("whole", "parts")
    )
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    logs = [read_log(tmp_path / name / "log.jsonl").drop(columns="seconds") for name in ("whole", "parts")]
    pd.testing.assert_frame_equal(*logs, check_exact=True)


def test_it_learns_and_trains_the_projections_only(parts, tmp_path):
    align(replace(CONFIG, epochs=15), load_clip(LITE0_MINILM), *parts, tmp_path)
    before, after = load_clip(LITE0_MINILM).model.state_dict(), load_clip(tmp_path / "model").model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"logit_scale", "text.proj.weight"} | {
        f"visual.head.mlp.{layer}" for layer in ("fc1.weight", "fc1.bias", "fc2.weight")
    }
    clip = load_clip(LITE0_MINILM)
    untrained = module.validation(projections(clip), parts[1])["MRR"]
    assert module.read_json(tmp_path / "best.json")["MRR"] > untrained + 0.1


def test_what_is_kept_is_not_computed_again(data, parts, tmp_path, monkeypatch):
    clip = load_clip(LITE0_MINILM)
    many = replace(data, pairs=pd.concat([data.pairs] * 4, ignore_index=True))
    titles = [f"thing {number}" for number in range(70)]
    paths = [data.catalogue.folder / path for path in many.pairs["path"]]
    before = picture_features(clip, paths, tmp_path), text_features(clip, titles, tmp_path)
    monkeypatch.setattr(clip.model.visual.trunk, "forward", None)
    monkeypatch.setattr(clip.model.text.transformer, "forward", None)
    after = picture_features(clip, paths, tmp_path), text_features(clip, titles, tmp_path)
    assert np.array_equal(before[0][0], after[0][0]) and np.array_equal(before[1], after[1])


def test_without_pairs_to_validate_on_it_says_so(data, tmp_path, monkeypatch):
    only = replace(data, pairs=data.pairs.assign(split="train"))
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path))
    monkeypatch.setattr(module, "load_catalogue", lambda *_, **__: data.catalogue)
    monkeypatch.setattr(module, "load_multimodal_data", lambda *_: only)
    with pytest.raises(CourseError, match="the val split has fewer than two pictures"):
        module.main(CONFIG)


def test_a_picture_that_cannot_be_read_has_no_features(data, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    good = data.catalogue.folder / data.pairs["path"].iloc[0]
    features, usable = picture_features(load_clip(LITE0_MINILM), [broken, good, broken], tmp_path)
    assert usable.tolist() == [False, True, False]
    assert not features[[0, 2]].any() and features[1].any()


def test_a_picture_is_the_weighted_mean_of_its_likeliest_class_names(parts):
    features, encoder = parts[0].pictures[:3].numpy(), load_text_encoder()
    probabilities, names = class_probabilities(features), encoder.encode(class_names()).vectors
    assert len(class_names()) == 1000 and np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    for row, found in zip(probabilities, picture_vectors(features, encoder, top=4), strict=True):
        expected = sum(row[at] * names[at] for at in np.argsort(-row)[:4])
        np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


def _open(data, path):
    from common.catalogue.images import open_image

    return open_image(data.catalogue.folder / path)
