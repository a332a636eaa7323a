"""The reranker's model: what it makes of a product that lacks something, what a stage trains, and what a save keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import normalize

from chapter04_catalogue_reranker.model import Architecture, CatalogueReranker
from common.errors import CourseError
from common.training import parameter_groups
from tests.chapter04_catalogue_reranker.towers_fixtures import (
    VISION,
    shake,
    small,
    tiny_text,
    tiny_vision,
    without_weights,
)

TEXTS = ["Title: red chair", "", "Title: a lamp of oak / Description: it gives light"]
YES, NO = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    return {kind: tiny_vision(kind, folder) for kind in VISION} | {"text": tiny_text(folder)}


@pytest.fixture(scope="module")
def make(folders):
    """`make(kind="vit", **changes)`: a model whose own weights are all changed, as by training."""

    def made(kind="vit", **changes):
        model = CatalogueReranker.build(small(folders["text"], folders[kind], **changes), seed=0)
        shake(weight for name, weight in model.named_parameters() if name in model.own_state())
        return model

    return made


@pytest.fixture(scope="module")
def shared(make):
    """For tests that change nothing in it; in evaluation mode."""
    return make().eval()


def features(model, texts=TEXTS, seed=0):
    """(text, image) features of as many products as texts, and pictures of noise."""
    side, random = model.vision_tower.preprocessing.side, np.random.default_rng(seed)
    pictures = [Image.fromarray(random.integers(0, 255, (side, side, 3), dtype=np.uint8)) for _ in texts]
    pixels = torch.stack([model.vision_tower.preprocess(picture) for picture in pictures])
    return model.text_features(model.text_tower.tokenise(texts, 24)), model.image_features(pixels)


def drawn_features(model, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    widths = model.text_tower.width, model.vision_tower.width
    return [normalize(torch.randn(count, width, generator=generator), dim=1) for width in widths]


@pytest.mark.parametrize(
    "wrong",
    [
        {"text_pooling": "max"},
        {"fusion": "sum"},
        {"inputs": "video"},
        {"hidden": 0},
        {"dimension": 0},
        {"product_length": 2},
        {"category_length": 2},
        {"text_lora_rank": 0},
        {"vision_lora_rank": 0},
        {"lora_dropout": 1.0},
        {"text_dropout": -0.1},
        {"text_dropout": 0.6, "image_dropout": 0.4},
    ],
)
def test_an_architecture_that_makes_no_model(wrong):
    with pytest.raises(CourseError, match=list(wrong)[-1]):
        Architecture(**wrong)


def test_texts_longer_than_the_tower_reads(folders):
    with pytest.raises(CourseError, match="at most 512 tokens, not 513"):
        CatalogueReranker.build(small(folders["text"], folders["vit"], category_length=513), seed=0)


def test_the_gate_is_the_formula(shared):
    text, image = drawn_features(shared, 3)
    vectors = shared.fuse(text, image, YES, YES)
    for row in range(3):
        z_text, z_image = shared.text_projection(text[row]), shared.image_projection(image[row])
        g = 1 / (1 + torch.exp(-(shared.gate.weight @ torch.cat([z_text, z_image]) + shared.gate.bias)))
        mixed = g * z_text + (1 - g) * z_image
        assert g.std() > 1e-3, "every component has a gate of its own"
        torch.testing.assert_close(vectors.fused[row], mixed / mixed.norm(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(vectors.text[row], z_text, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(vectors.image[row], z_image, atol=1e-6, rtol=1e-5)


def test_a_new_gate_and_a_mean_take_one_half_of_each(make, folders):
    new = CatalogueReranker.build(small(folders["text"], folders["vit"]), seed=0).eval()
    mean = make(fusion="mean").eval()
    for model in (new, mean):
        text, image = drawn_features(model, 3)
        vectors = model.fuse(text, image, YES, YES)
        torch.testing.assert_close(vectors.fused, normalize(vectors.text + vectors.image, dim=1))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=6))
def test_what_a_product_lacks_is_left_out(shared, there):
    text, image = drawn_features(shared, len(there))
    has_text, has_image = (torch.tensor([pair[at] for pair in there], dtype=torch.bool) for at in (0, 1))
    with torch.no_grad():
        vectors = shared.embed_products(text, image, has_text, has_image)
        z_text, z_image = shared.text_projection(text), shared.image_projection(image)
        whole = shared.fuse(text, image, torch.ones_like(has_text), torch.ones_like(has_image)).fused
    for row, (told, seen) in enumerate(there):
        expected = {(True, True): whole, (False, True): z_image}.get((told, seen), z_text)
        assert torch.equal(vectors.fused[row], expected[row])
        assert torch.equal(vectors.text[row], z_text[row] * told)
        assert torch.equal(vectors.image[row], z_image[row] * seen)
    torch.testing.assert_close(vectors.fused.norm(dim=1), torch.ones(len(there)))


def test_a_product_without_text_and_picture_is_the_empty_text(shared):
    text, image = features(shared, ["", "", ""])
    nothing = shared.fuse(text, torch.full_like(image, 7), NO, NO).fused
    assert torch.equal(nothing, shared.embed_categories(text))


def test_a_missing_picture_has_no_gradient(make):
    model = make()
    text, image = (part.requires_grad_(True) for part in drawn_features(model, 2))
    has_image = torch.tensor([True, False])
    model.fuse(text, image, torch.ones(2, dtype=torch.bool), has_image).fused.sum().backward()
    assert image.grad[0].any()
    assert not image.grad[1].any()
    assert torch.isfinite(text.grad).all()


@pytest.mark.parametrize("inputs", ["text", "image"])
def test_a_model_of_one_modality_does_not_look_at_the_other(make, inputs):
    model = make(inputs=inputs).train()
    text, image = drawn_features(model, 3)
    other_text, other_image = drawn_features(model, 3, seed=1)
    found = model.embed_products(text, image, YES, YES).fused
    changed = (text, other_image) if inputs == "text" else (other_text, image)
    assert torch.equal(model.embed_products(*changed, YES, YES).fused, found)
    assert torch.equal(model.embed_products(other_text, other_image, NO, NO).fused.unique(dim=0), NO_VECTOR(model))
    assert not torch.equal(model.embed_products(other_text, other_image, YES, YES).fused, found)


def NO_VECTOR(model):
    """What products without anything are in `test_a_model_of_one_modality_does_not_look_at_the_other`."""
    text = drawn_features(model, 3, seed=1)[0]
    blank = torch.zeros_like(text) if model.architecture.inputs == "image" else text
    return model.text_projection(blank).unique(dim=0)


def test_modality_dropout_drops_as_often_as_told_and_never_both(make):
    model = make(text_dropout=0.2, image_dropout=0.1).train()
    count = 20_000
    text, image = drawn_features(model, count)
    yes = torch.ones(count, dtype=torch.bool)
    torch.manual_seed(0)
    with torch.no_grad():
        vectors = model.embed_products(text, image, yes, yes)
    lost_text, lost_image = (~part.any(dim=1) for part in (vectors.text, vectors.image))
    assert not (lost_text & lost_image).any()
    for lost, share in ((lost_text, 0.2), (lost_image, 0.1)):
        assert abs(lost.float().mean() - share) < 5 * (share * (1 - share) / count) ** 0.5
    assert torch.equal(vectors.fused[lost_text], vectors.image[lost_text])
    assert torch.equal(vectors.fused[lost_image], vectors.text[lost_image])
    torch.manual_seed(0)
    with torch.no_grad():
        again = model.embed_products(text, image, yes, yes)
        assert torch.equal(again.fused, vectors.fused), "the generator's state decides"
        kept = model.eval().embed_products(text, image, yes, yes)
    assert kept.text.any(dim=1).all()
    assert kept.image.any(dim=1).all()


def test_modality_dropout_leaves_the_only_one_there_is(make):
    model = make(text_dropout=0.6, image_dropout=0.39).train()
    text, image = drawn_features(model, 200)
    yes, no = torch.ones(200, dtype=torch.bool), torch.zeros(200, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(model.embed_products(text, image, yes, no).fused, model.text_projection(text))
        assert torch.equal(model.embed_products(text, image, no, yes).fused, model.image_projection(image))
        assert torch.equal(model.embed_products(text, image, no, no).fused, model.text_projection(text))


def trained(model):
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def test_every_stage_trains_its_parts(make):
    model = make("siglip")
    ends = {n for n, _ in model.named_parameters() if not n.startswith(("text_tower.", "vision_tower."))}
    lora = {n for n in model.own_state() if "lora_" in n}
    of = {which: {n for n in lora if n.startswith(f"{which}_tower.")} for which in ("text", "vision")}
    assert ends | lora == set(model.own_state())
    assert min(map(len, of.values())) > 0
    for stage, expected in ((1, ends | of["text"]), (2, ends | of["vision"]), (0, ends)):
        model.train_parts(stage)
        assert trained(model) == expected
    with pytest.raises(CourseError, match="stage must be one of 0, 1, 2"):
        model.train_parts(3)


@pytest.mark.parametrize("changes", [{}, {"fusion": "mean"}, {"inputs": "text"}, {"inputs": "image"}])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_step_reaches_all_that_a_stage_trains_and_nothing_else(make, stage, changes):
    model = make(text_dropout=0.0, image_dropout=0.0, lora_dropout=0.0, **changes)
    model.train_parts(stage)
    product = model.embed_products(*features(model), YES, YES).fused
    candidates = model.embed_categories(model.text_features(model.text_tower.tokenise(["A > B", "C"], 12)))
    scores = model.scale * product @ candidates.T
    torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1, 0])).backward()
    reached = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert reached == trained(model)


def test_a_frozen_tower_is_as_in_evaluation_and_a_trained_one_is_not(make):
    model = make(lora_dropout=0.5)
    tokens, expected = model.text_tower.tokenise(TEXTS, 24), features(model.eval())
    for stage in (0, 1, 2):
        model.train_parts(stage)
        model.train()
        found = features(model)
        assert model.training
        assert torch.equal(found[0], expected[0]) == (stage != 1)
        assert torch.equal(found[1], expected[1]) == (stage != 2)
        assert torch.equal(model.eval().text_features(tokens), expected[0])
        assert not model.text_tower.training


def test_weight_decay_is_for_matrices_that_are_no_lora(make):
    model = make()
    for stage in (0, 1, 2):
        model.train_parts(stage)
        groups = parameter_groups(model, 0.01, no_decay="lora_")
        names = {id(weight): name for name, weight in model.named_parameters()}
        decayed, rest = ({names[id(weight)] for weight in group["params"]} for group in groups)
        assert [group["weight_decay"] for group in groups] == [0.01, 0.0]
        assert decayed | rest == trained(model)
        linear = {f"{which}_projection.{layer}.weight" for which in ("text", "image") for layer in (1, 3)}
        assert decayed == linear | {"gate.weight"}
        assert {"logit_scale", "text_projection.0.weight", "gate.bias"} <= rest
        torch.optim.AdamW(groups)


@pytest.mark.parametrize(("raw", "expected"), [(0.07, 1 / 0.07), (1e-4, 100.0), (50.0, 1.0)])
def test_the_scale_is_bounded_and_can_leave_its_bound(make, raw, expected):
    model = make()
    with torch.no_grad():
        model.logit_scale.fill_(log(1 / raw))
    scale = model.scale
    assert scale.item() == pytest.approx(expected, rel=1e-5)
    scale.backward()
    assert model.logit_scale.grad.item() == pytest.approx(expected, rel=1e-5)


def test_a_new_model_begins_at_the_scale_of_clip_in_training_mode(folders):
    model = CatalogueReranker.build(small(folders["text"], folders["vit"]), seed=0)
    assert exp(model.logit_scale.item()) == pytest.approx(1 / 0.07, rel=1e-5)
    assert model.training
    assert trained(model) == {name for name in model.own_state() if "_tower." not in name}


def test_the_seed_decides_the_model_and_the_callers_random_numbers_are_left_alone(folders):
    before = torch.get_rng_state()
    one, same, other = (
        CatalogueReranker.build(small(folders["text"], folders["vit"]), seed=seed).own_state() for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["text_projection.1.weight"], other["text_projection.1.weight"])


def test_projections_and_gate_are_float32_under_autocast(shared):
    text, image = drawn_features(shared, 3)
    expected = shared.fuse(text, image, YES, YES).fused
    with torch.autocast("cpu", torch.bfloat16):
        found = shared.fuse(text, image, YES, YES).fused
        in_half = features(shared)
    assert torch.equal(found, expected)
    assert [part.dtype for part in in_half] == [torch.float32, torch.float32]
    torch.testing.assert_close(in_half[0], features(shared)[0], atol=0.05, rtol=0)


def everything(model):
    with torch.no_grad():
        vectors = model.embed_products(*features(model), YES, torch.tensor([True, False, True]))
        return torch.cat([vectors.fused, vectors.text, vectors.image, model.scale.expand(1, 16)])


@pytest.mark.parametrize("kind", VISION)
def test_a_model_that_was_saved_embeds_the_same(make, kind, tmp_path):
    model = make(kind).eval()
    model.save(tmp_path / "model")
    loaded = CatalogueReranker.load(tmp_path / "model")
    torch.testing.assert_close(everything(loaded), everything(model), atol=1e-6, rtol=0)
    assert not loaded.training
    assert not loaded.vision_tower.training
    assert loaded.architecture == model.architecture
    pretrained = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in model.own_state().values())
    assert pretrained > 0, "the towers themselves are not copied"


def test_weights_that_a_towers_files_lack_are_saved(folders, tmp_path, capsys):
    """Drawn anew at every load, they would make other vectors of the same checkpoint."""
    cut = without_weights
    vision = cut(folders["siglip_whole"], "embeddings.patch_embedding.weight", tmp_path / "vision")
    text = cut(folders["text"], "layer.0.intermediate.dense.weight", tmp_path / "text")
    model = CatalogueReranker.build(small(text, vision), seed=5)
    told = capsys.readouterr().err
    assert "lack 1 weights (network.model.embeddings.patch_embedding.weight" in told
    new = {"vision_tower.network.model.embeddings.patch_embedding.weight"}
    new |= {"text_tower.transformer.model.encoder.layer.0.intermediate.dense.base_layer.weight"}
    assert new <= set(model.own_state())
    model.train_parts(2)
    assert trained(model) & new == {name for name in new if name.startswith("vision")}
    model.train_parts(1)
    assert trained(model) & new == {name for name in new if name.startswith("text")}
    model.eval().save(tmp_path / "model")
    loaded = CatalogueReranker.load(tmp_path / "model")
    torch.testing.assert_close(everything(loaded), everything(model), atol=1e-6, rtol=0)


def test_towers_in_relative_folders_are_found_from_elsewhere(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(folders["vit"]).parent)
    CatalogueReranker.build(small(folders["text"], "vit"), seed=0).save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert CatalogueReranker.load(tmp_path / "model").architecture.vision == str(Path(folders["vit"]).resolve())


def test_a_state_goes_from_one_model_to_another(make, folders):
    model = make().eval()
    other = CatalogueReranker.build(replace(model.architecture), seed=3).eval()
    other.load_own_state(model.own_state())
    assert torch.equal(everything(other), everything(model))
    state = model.own_state()
    for wrong in ({n: v for n, v in state.items() if n != "gate.bias"}, state | {"gate.bias": torch.zeros(3)}):
        with pytest.raises(CourseError, match=r"gate\.bias"):
            other.load_own_state(wrong)


def test_a_folder_with_something_in_it_is_left_alone(make, tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(CourseError, match="there is something"):
        make().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


@pytest.fixture(scope="module")
def saved(make, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    make().save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def cut_short(content):
    return content[: len(content) // 2]


def one_bit(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def described(**changes):
    return lambda content: json.dumps(json.loads(content) | changes).encode()


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("reranker.safetensors", cut_short, "cut short or was changed"),
        ("reranker.safetensors", one_bit, "cut short or was changed"),
        ("reranker.safetensors", None, "is missing"),
        ("reranker.json", cut_short, "not valid JSON"),
        ("reranker.json", None, "no such file"),
        ("reranker.json", described(format=0), "not the description"),
        ("reranker.json", described(architecture={"hidden": 3}), "not the description"),
        ("reranker.json", described(towers={"text": "x", "vision": "y"}), "as its text tower"),
    ],
)
def test_damaged_files_are_refused(saved, tmp_path, name, damage, says):
    for file, content in saved.items():
        if file != name or damage is not None:
            (tmp_path / file).write_bytes(damage(content) if file == name else content)
    with pytest.raises(CourseError, match=says):
        CatalogueReranker.load(tmp_path)


def test_another_architecture_than_the_weights_is_refused(saved, tmp_path):
    for file, content in saved.items():
        (tmp_path / file).write_bytes(content)
    description = json.loads(saved["reranker.json"])
    description["architecture"]["hidden"] = 25
    (tmp_path / "reranker.json").write_text(json.dumps(description))
    with pytest.raises(CourseError, match="another architecture"):
        CatalogueReranker.load(tmp_path)


def test_a_tower_that_was_changed_or_moved_is_refused(folders, tmp_path):
    towers = tmp_path / "towers"
    vision = tiny_vision("vit", towers)
    CatalogueReranker.build(small(folders["text"], vision), seed=0).save(tmp_path / "model")
    Path(vision).rename(towers / "elsewhere")
    with pytest.raises(CourseError, match="was not found"):
        CatalogueReranker.load(tmp_path / "model")
    (towers / "elsewhere").rename(vision)
    config = Path(vision) / "open_clip_config.json"
    config.write_text(config.read_text().replace("bicubic", "bilinear"))
    with pytest.raises(CourseError, match="as its vision tower"):
        CatalogueReranker.load(tmp_path / "model")
