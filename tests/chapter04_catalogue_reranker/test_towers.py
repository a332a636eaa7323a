"""The towers: what they compute is what the pretrained model computes, and LoRA has an effect wherever it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from chapter02_two_tower.model import Architecture as TwoTowerArchitecture
from chapter02_two_tower.model import TwoTowerModel
from chapter03_multimodal.clip import load_clip
from chapter04_catalogue_reranker.lora import merged, with_called_attention
from chapter04_catalogue_reranker.towers import TextTower, VisionTower
from common.errors import CourseError
from tests.chapter04_catalogue_reranker.towers_fixtures import (
    VISION,
    shake,
    tiny_text,
    tiny_vision,
    without_weights,
)

TEXTS = ["a red chair", "", "lamp", "a long text about a green garden chair of oak wood", "Living room > Chairs"]
MATRICES = {"resnet": 8, "vit": 8, "siglip": 16, "siglip_whole": 16, "naflex": 16}


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    return tiny_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def text(text_folder):
    return TextTower.load(text_folder, lora_rank=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision")
    return {kind: tiny_vision(kind, folder) for kind in VISION}


@pytest.fixture(params=VISION)
def kind(request):
    return request.param


@pytest.fixture
def vision(kind, folders):
    return VisionTower.load(folders[kind], lora_rank=2)


def photo(seed=0, size=(50, 40)):
    patches = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize(size)


def pixels(tower, count=3):
    return torch.stack([tower.preprocess(photo(seed)) for seed in range(count)])


def lora(tower, part="lora_"):
    return {name: weight for name, weight in tower.named_parameters() if part in name}


def tokens(tower):
    return tower.tokenise(TEXTS, 16)


def original(kind, folder, inputs):
    """What the untouched model makes of pixels, not normalised."""
    import transformers as hf

    if kind in ("resnet", "vit"):
        return load_clip(folder).model.encode_image(inputs)
    if kind == "siglip_whole":
        return hf.SiglipModel.from_pretrained(folder).eval().vision_model(inputs).pooler_output
    if kind == "siglip":
        return hf.SiglipVisionModel.from_pretrained(folder).eval()(inputs).pooler_output
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["resnet", "vit", "siglip", "siglip_whole"])
def test_a_fresh_vision_tower_computes_what_the_pretrained_model_does(kind, folders, vision):
    inputs = pixels(vision)
    with torch.no_grad():
        expected, found = original(kind, folders[kind], inputs), vision(inputs)
    assert found.shape == (3, vision.width)
    torch.testing.assert_close(found, normalize(expected, dim=-1), atol=2e-6, rtol=0)
    assert (found[0] - found[1]).abs().max() > 1e-3, "the tower tells pictures apart"


def test_a_naflex_tower_sees_the_patches_that_its_processor_makes(folders):
    import transformers as hf

    tower = VisionTower.load(folders["naflex"], lora_rank=2)
    square = photo(size=(32, 32))
    inputs = hf.Siglip2ImageProcessor.from_pretrained(folders["naflex"])(square, return_tensors="pt")
    model = hf.Siglip2VisionModel.from_pretrained(folders["naflex"]).eval()
    with torch.no_grad():
        found = tower(tower.preprocess(square)[None])
        expected = model(**{name: value for name, value in inputs.items()}).pooler_output
    assert inputs["spatial_shapes"].tolist() == [[4, 4]]
    torch.testing.assert_close(found, normalize(expected, dim=-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["siglip", "siglip_whole"])
def test_pictures_are_prepared_as_siglips_own_processor_does(kind, folders, vision):
    import transformers as hf

    found = vision.preprocess(photo())
    processor = hf.SiglipImageProcessor.from_pretrained(folders[kind])
    expected = processor(photo(), return_tensors="pt")["pixel_values"][0]
    assert found.shape == (3, 32, 32)
    assert (found - expected).abs().max() < 2.5 / 255 / 0.2, "two greys apart at most: resizing rounds otherwise"


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_pictures_are_prepared_as_open_clip_does(kind, folders, vision):
    torch.testing.assert_close(vision.preprocess(photo()), load_clip(folders[kind]).preprocess(photo()))


def test_a_fresh_text_tower_computes_what_the_pretrained_model_does(text, text_folder):
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(text_folder, device="cpu").encode(TEXTS, normalize_embeddings=True)
    with torch.no_grad():
        found = text(text.tokenise(TEXTS, 24))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_cls_pooling_takes_the_first_token(text_folder):
    tower = TextTower.load(text_folder, pooling="cls", lora_rank=2)
    rows = []
    with torch.no_grad():
        for ids in tokens(tower):
            rows.append(tower.transformer.auto_model(torch.tensor([ids])).last_hidden_state[0, 0])
        torch.testing.assert_close(tower(tokens(tower)), normalize(torch.stack(rows), dim=-1), atol=2e-6, rtol=0)


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_chunks_by_length_equal_the_padded_pass_gradient_included(text, rows):
    shake(lora(text).values())
    weights = list(lora(text).values())
    for weight in weights:
        weight.requires_grad_(True)
    towards = torch.randn(len(TEXTS), text.width, generator=torch.Generator().manual_seed(2))
    found, naive = text(tokens(text), rows_a_chunk=rows), text.at(16).embed_chunk(tokens(text))
    torch.testing.assert_close(found, naive, atol=2e-6, rtol=0)
    gradients = [torch.autograd.grad((out * towards).sum(), weights) for out in (found, naive)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    text.requires_grad_(False)


def check_lora_has_an_effect(tower, run, count):
    """Every matrix of LoRA is reached by the gradient, and changes the output when it changes."""
    assert len(lora(tower)) == count
    assert all(not weight.any() for weight in lora(tower, "lora_B").values())
    shake(lora(tower).values())
    for weight in lora(tower).values():
        weight.requires_grad_(True)
    out = run()
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(5))).sum().backward()
    untouched = [name for name, weight in lora(tower).items() if weight.grad is None or not weight.grad.any()]
    assert untouched == []
    tower.requires_grad_(False)
    with torch.no_grad():
        for name, weight in lora(tower).items():
            before = weight.clone()
            weight.mul_(2)
            assert not torch.equal(run(), out), name
            weight.copy_(before)


def test_lora_has_an_effect_in_every_vision_tower(kind, vision):
    inputs = pixels(vision)
    check_lora_has_an_effect(vision, lambda: vision(inputs), MATRICES[kind])


def test_lora_has_an_effect_in_the_text_tower(text_folder):
    tower = TextTower.load(text_folder, lora_rank=2)
    check_lora_has_an_effect(tower, lambda: tower(tokens(tower)), 2 * 2 * 6)
    assert not any("pooler" in name for name in lora(tower))


def test_lora_is_scaled_by_twice_and_drops_as_told(text_folder):
    tower = TextTower.load(text_folder, lora_rank=2, lora_dropout=0.5)
    layer = tower.transformer.auto_model.encoder.layer[0].attention.self.query
    assert layer.scaling == {"default": 2.0}
    shake(lora(tower).values())
    assert not torch.equal(tower.train()(tokens(tower)), tower(tokens(tower)))
    assert torch.equal(tower.eval()(tokens(tower)), tower(tokens(tower)))


def test_merged_computes_the_same_and_leaves_the_tower_alone(vision):
    shake(lora(vision).values())
    inputs, before = pixels(vision), {name: value.clone() for name, value in vision.state_dict().items()}
    with torch.no_grad():
        plain = merged(vision)
        torch.testing.assert_close(plain(inputs), vision(inputs), atol=2e-6, rtol=0)
        shake(lora(plain).values())
        torch.testing.assert_close(plain(inputs), vision(inputs), atol=2e-6, rtol=0)
    assert all(torch.equal(before[name], value) for name, value in vision.state_dict().items())


def test_in_training_mode_a_tower_without_lora_dropout_computes_the_same(vision, text):
    inputs, buffers = pixels(vision), {name: value.clone() for name, value in vision.named_buffers()}
    with torch.no_grad():
        assert torch.equal(vision.train()(inputs), vision.eval()(inputs))
        assert torch.equal(text.train()(tokens(text)), text.eval()(tokens(text)))
    assert all(torch.equal(buffers[name], value) for name, value in vision.named_buffers())


def test_everything_is_frozen_and_the_callers_random_numbers_are_left_alone(text_folder, folders):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    towers = [TextTower.load(text_folder, lora_rank=2), *(VisionTower.load(f, lora_rank=2) for f in folders.values())]
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(weight.requires_grad for tower in towers for weight in tower.parameters())
    assert all(tower.new == () for tower in towers)
    assert len({tower.digest for tower in towers}) == len(towers)


def test_the_seed_decides_what_is_drawn(folders):
    drawn = [lora(VisionTower.load(folders["vit"], lora_rank=2, seed=seed), "lora_A") for seed in (0, 0, 1)]
    for name in drawn[0]:
        assert torch.equal(drawn[0][name], drawn[1][name])
        assert not torch.equal(drawn[0][name], drawn[2][name])


@pytest.mark.parametrize("lacking", ["patch_embedding.weight", "layers.0.self_attn.q_proj.weight"])
def test_a_vision_tower_knows_which_weights_its_files_lack(folders, tmp_path, lacking):
    folder = without_weights(folders["siglip_whole"], f"vision_model.{name_of(lacking)}", tmp_path / "cut")
    towers = [VisionTower.load(folder, lora_rank=2, seed=seed) for seed in (0, 0, 1)]
    assert [name.replace(".base_layer", "").endswith(lacking) for name in towers[0].new] == [True]
    drawn = [tower.get_parameter(tower.new[0]) for tower in towers]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def name_of(lacking):
    return f"embeddings.{lacking}" if lacking.startswith("patch") else f"encoder.{lacking}"


def test_a_text_tower_knows_which_weights_its_files_lack(text_folder, tmp_path):
    folder = without_weights(text_folder, "layer.1.attention.self.key.weight", tmp_path / "cut")
    tower = TextTower.load(folder, lora_rank=2)
    assert len(tower.new) == 1
    assert tower.new[0].endswith("layer.1.attention.self.key.base_layer.weight")


def test_a_tower_of_chapter_2_keeps_its_dense_layer(text_folder, tmp_path):
    small = TwoTowerArchitecture(encoder=text_folder, projection=12, query_length=8, product_length=24)
    model = TwoTowerModel.build(small, seed=0)
    model.save(tmp_path / "towers")
    tower = TextTower.load(str(tmp_path / "towers" / "product"), lora_rank=2)
    assert tower.width == 12
    with torch.no_grad():
        found = tower(tower.tokenise(TEXTS, 24))
        torch.testing.assert_close(found, model.eval().product(model.product.tokenise(TEXTS)), atol=2e-6, rtol=0)


def test_tokens_are_cut_to_the_length_asked_for(text):
    long = "chair " * 500
    assert [len(ids) for length in (5, 24) for ids in text.tokenise([long, "lamp"], length)] == [5, 3, 24, 3]
    with pytest.raises(CourseError, match="list of str"):
        text.tokenise("lamp", 24)


def test_features_of_no_texts(text):
    assert text([]).shape == (0, text.width)


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "/nowhere/at/all"])
def test_a_vision_tower_that_is_not_there(name):
    with pytest.raises(CourseError, match="was not found"):
        VisionTower.load(name, lora_rank=2)


def test_vision_folders_that_hold_something_else(folders, text_folder, tmp_path):
    with pytest.raises(CourseError, match="type 'bert'"):
        VisionTower.load(text_folder, lora_rank=2)
    broken = without_weights(folders["siglip"], "head.probe", tmp_path / "siglip")
    (Path(broken) / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    with pytest.raises(CourseError, match="image_std"):
        VisionTower.load(broken, lora_rank=2)
    weights = Path(broken) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CourseError, match="cannot load this model"):
        VisionTower.load(broken, lora_rank=2)


def test_lora_refuses_what_it_would_not_reach(tmp_path):
    with pytest.raises(CourseError, match="neither a ResNet nor a plain ViT"):
        with_called_attention(torch.nn.Linear(2, 2))
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

    from common.encoders import packaged_minilm

    DistilBertModel(DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=16)).save_pretrained(tmp_path / "body")
    AutoTokenizer.from_pretrained(packaged_minilm()).save_pretrained(tmp_path / "body")
    modules = [Transformer(str(tmp_path / "body")), Pooling(16)]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / "model"))
    with pytest.raises(CourseError, match="no layers that LoRA could adapt"):
        TextTower.load(str(tmp_path / "model"), lora_rank=2)
