"""Pretraining at toy size: batches, losses and figures against naive ones, the export, and going on after a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from chapter03_multimodal.clip import load_clip
from chapter03_multimodal.studies import pretrain
from chapter03_multimodal.studies.drawings import ASPECTS, _draw, as_codes, draw_things
from chapter03_multimodal.studies.pretrain import (
    SHIFT,
    PretrainConfig,
    augment,
    batches,
    export,
    losses,
    main,
    recall_at_1,
    train,
)
from common.pocket_shop.vocabulary import leaves
from common.training_log import TrainingLog

pytestmark = pytest.mark.slow

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
SMALL = PretrainConfig(drawings=32, held_out=8, epochs=3, batch_size=8, checkpoint_every=3)


def draw_here(things: pd.DataFrame, size: int) -> np.ndarray:
    """`draw_pictures` without its processes."""
    return np.stack([_draw((*row, size)) for row in things.itertuples(index=False)])


TOY = {"MODEL": TINY, "SIDE": 32, "LOG_EVERY": 1, "draw_pictures": draw_here}
"""What makes a toy of the module. The architecture is of the same kind: its norms have running means, which a
checkpoint must hold as well."""


@pytest.fixture
def toy(monkeypatch):
    for name, value in TOY.items():
        monkeypatch.setattr(pretrain, name, value)


@pytest.fixture
def exact(monkeypatch):
    """No half precision, so that figures can be compared."""
    monkeypatch.setattr(pretrain, "native_bfloat16", lambda: None)


def tiny_model(seed: int = 0) -> open_clip.CLIP:
    torch.manual_seed(seed)
    return open_clip.CLIP(**TINY)


def pictures_of_their_number(count: int, side: int = 32) -> torch.Tensor:
    """Pictures of one colour each, which tells their row."""
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, side, side, 3).clone()


def test_a_batch_is_the_same_whatever_was_made_before_it(toy):
    things = draw_things(40, seed=1)
    pictures = torch.from_numpy(draw_here(things, 32))
    whole = [make() for make in batches(things, pictures, SMALL, 2)]
    assert len(whole) == 5
    again = list(batches(things, pictures, SMALL, 2))
    for at in (4, 0, 3):  # late ones first, as after an interruption
        for one, other in zip(again[at](), whole[at], strict=True):
            assert torch.equal(one, other)
    for changed in (batches(things, pictures, SMALL, 3), batches(things, pictures, replace(SMALL, seed=1), 2)):
        moved, tokens, *_ = next(iter(changed))()
        assert not torch.equal(moved, whole[0][0]) and not torch.equal(tokens, whole[0][1])
    pixels, tokens, codes, known = whole[0]
    assert pixels.shape == (8, 3, 32, 32) and pixels.dtype == torch.float32
    assert tokens.shape == (8, 24) and codes.shape == (8, len(ASPECTS))
    assert known.shape == (8, 8) and known.dtype == torch.bool and known.diagonal().all()


def test_picture_caption_and_facts_of_a_row_belong_together(toy, monkeypatch):
    monkeypatch.setattr(pretrain, "augment", lambda pictures, rng: pictures)
    things, names = draw_things(40, seed=1), {leaf.key: leaf for leaf in leaves()}
    tokenizer, seen = open_clip.SimpleTokenizer(context_length=24), []
    for make in batches(things, pictures_of_their_number(40), replace(SMALL, batch_size=13), 0):
        pixels, tokens, codes, _ = make()
        rows = pixels[:, 0, 0, 0].tolist()
        assert np.array_equal(codes, as_codes(things)[rows])
        for row, line in zip(rows, tokens, strict=True):
            leaf = names[things["thing"].iloc[row]]
            words = [*leaf.nouns, *leaf.shopper, leaf.path.split(" > ")[-1]]
            text = tokenizer.decode(line.numpy())
            assert any(" ".join(tokenizer.decode(tokenizer.encode(word)).split()) in text for word in words), text
        seen += rows
    assert len(seen) == 39 and len({*seen}) == 39, "a drawing is seen at most once an epoch"


def test_a_shifted_picture_is_a_window_of_the_padded_one_mirrored_or_not_lighter_or_darker(toy):
    generator = np.random.default_rng(0)
    pictures = torch.from_numpy(generator.integers(20, 200, (12, 32, 32, 3), dtype=np.uint8))
    found = augment(pictures, np.random.default_rng(1))
    assert found.shape == (12, 3, 32, 32)
    seen = set()
    for picture, moved in zip(pictures.numpy(), found.numpy(), strict=True):
        wide = np.pad(picture / 255.0, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
        pixels, fitting = moved.transpose(1, 2, 0) * 0.5 + 0.5, []
        for down in range(2 * SHIFT + 1):
            for right in range(2 * SHIFT + 1):
                window = wide[down : down + 32, right : right + 32]
                for mirrored in (False, True):
                    shown = window[:, ::-1] if mirrored else window
                    light = (pixels * shown).sum() / (shown * shown).sum()
                    if np.abs(pixels - light * shown).max() < 1e-4:
                        fitting.append((down, right, mirrored, light))
        ((down, right, mirrored, light),) = fitting
        assert 0.9 <= light <= 1.1
        seen.add((down, right, mirrored))
    assert len(seen) > 8 and {mirrored for *_, mirrored in seen} == {False, True}
    bright = augment(torch.full((40, 32, 32, 3), 255, dtype=torch.uint8), np.random.default_rng(2))
    assert bright.max() == 1 and bright.min() < 0.95
    assert torch.equal(augment(pictures, np.random.default_rng(1)), found)


def a_batch(rows: int = 6):
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(rows, 3, 32, 32, generator=generator)
    tokens = open_clip.SimpleTokenizer(context_length=24)([f"thing {'abcdef'[row]}" for row in range(rows)])
    codes = torch.randint(3, (rows, len(ASPECTS)), generator=generator)
    known = (torch.rand(rows, rows, generator=generator) < 0.3) | torch.eye(rows, dtype=torch.bool)
    return pixels, tokens, codes, known


def naive_losses(model, heads, pixels, tokens, codes, known):
    """Caption by caption and picture by picture."""
    images, texts, rows = model.encode_image(pixels), model.encode_text(tokens), len(pixels)
    scale = model.logit_scale.exp()
    scores = scale * normalize(texts, dim=-1) @ normalize(images, dim=-1).T
    costs = []
    for row in range(rows):
        own = scores[row, row]
        pictures = [scores[row, other] for other in range(rows) if other == row or not known[row, other]]
        captions = [scores[other, row] for other in range(rows) if other == row or not known[other, row]]
        costs += [torch.stack(part).logsumexp(0) - own for part in (pictures, captions)]
    facts = sum(cross_entropy(head(images), codes[:, number]) for number, head in enumerate(heads))
    return torch.stack(costs).mean(), facts


def test_losses_are_those_of_the_rows_one_by_one_gradient_included(exact):
    model, batch = tiny_model(), a_batch()
    heads = nn.ModuleList(nn.Linear(16, 3) for _ in ASPECTS)
    leaves_ = [model.visual.conv1.weight, model.text_projection, model.logit_scale, heads[2].weight]
    found, expected = losses(model, heads, *batch), naive_losses(model, heads, *batch)
    for one, other in zip(found, expected, strict=True):
        assert torch.isfinite(one)
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(loss[0] + loss[1], leaves_) for loss in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_what_a_caption_is_true_of_is_no_negative(exact):
    model, (pixels, tokens, codes, _) = tiny_model(), a_batch()
    heads = nn.ModuleList(nn.Linear(16, 3) for _ in ASPECTS)
    everything, nothing = torch.ones(6, 6, dtype=torch.bool), torch.eye(6, dtype=torch.bool)
    assert losses(model, heads, pixels, tokens, codes, everything)[0] == 0
    assert losses(model, heads, pixels, tokens, codes, nothing)[0] > 0.5


def test_in_half_precision_losses_are_finite_and_near(monkeypatch):
    model, batch = tiny_model().eval(), a_batch()
    heads = nn.ModuleList(nn.Linear(16, 3) for _ in ASPECTS)
    with torch.no_grad():
        pair = []
        for precision in (None, "any"):
            monkeypatch.setattr(pretrain, "native_bfloat16", lambda precision=precision: precision)
            pair.append(torch.stack(losses(model, heads, *batch)))
    assert torch.isfinite(pair[1]).all() and not torch.equal(*pair)
    torch.testing.assert_close(*pair, rtol=0.1, atol=0.1)


class Oracle:
    """Stands for a model: the n-th caption and the picture of number n get the same axis; `turn` confuses them."""

    def __init__(self, count: int, turn: int = 0) -> None:
        self.count, self.turn, self.modes = count, turn, []

    def encode_text(self, tokens):
        return torch.eye(self.count)[: len(tokens)]

    def encode_image(self, pixels):
        numbers = ((pixels[:, :, 0, 0] * 0.5 + 0.5) * 255).round().long() @ torch.tensor([256, 1, 0])
        return torch.eye(self.count)[(numbers + self.turn) % self.count]

    def eval(self):
        self.modes.append("eval")

    def train(self):
        self.modes.append("train")


def numbered(count: int) -> torch.Tensor:
    numbers = torch.arange(count)
    pictures = torch.zeros(count, 4, 4, 3, dtype=torch.uint8)
    pictures[:, :, :, 0], pictures[:, :, :, 1] = (numbers // 256)[:, None, None], (numbers % 256)[:, None, None]
    return pictures


def test_a_model_that_sees_all_has_a_recall_of_one_and_one_that_mixes_up_has_none(toy):
    things, perfect = draw_things(300, seed=2), Oracle(300)
    assert recall_at_1(perfect, things, numbered(300)) == {"text_to_image_R@1": 1.0, "image_to_text_R@1": 1.0}
    assert perfect.modes == ["eval", "train"], "training goes on after the measurement"
    distinct = things.drop_duplicates("thing")
    wrong = recall_at_1(Oracle(len(distinct), turn=1), distinct, numbered(len(distinct)))
    assert set(wrong.values()) == {0.0}
    # Where all things are alike, every picture is one that the caption is true of.
    alike = things.iloc[[0] * 5]
    assert set(recall_at_1(Oracle(5, turn=1), alike, numbered(5)).values()) == {1.0}


def test_what_is_exported_open_clip_loads_with_the_same_vectors(toy, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.encode_image(torch.randn(64, 3, 32, 32))  # moves the running means
        model.logit_scale.fill_(3.21)
    export(model.eval(), tmp_path / "clip")
    found, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'clip'}")
    found.eval()
    picture = _draw((*draw_things(1, seed=0).iloc[0], 32))
    pixels = preprocess(Image.fromarray(picture)).unsqueeze(0)
    torch.testing.assert_close(pixels[0], torch.tensor(picture).permute(2, 0, 1) / 255 * 2 - 1, rtol=0, atol=1e-5)
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'clip'}")(["a red mug", "vase"])
    assert torch.equal(tokens, pretrain._tokenise(["a red mug", "vase"]))
    with torch.no_grad():
        pairs = [
            (found.encode_image(pixels), model.encode_image(pixels)),
            (found.encode_text(tokens), model.encode_text(tokens)),
        ]
    for one, other in pairs:
        assert one.dtype == torch.float32 and not torch.equal(one, other)
        torch.testing.assert_close(normalize(one, dim=-1), normalize(other, dim=-1), rtol=0, atol=2e-3)
    assert float(found.logit_scale.detach()) == pytest.approx(3.21, abs=2e-3)
    saved = load_file(tmp_path / "clip" / "open_clip_model.safetensors")
    assert {value.dtype for value in saved.values() if value.is_floating_point()} == {torch.float16}
    assert load_clip(tmp_path / "clip").dimension == 16


class Killed(Exception):
    pass


def killed_after(steps: int, config: PretrainConfig, work: Path) -> None:
    """Train until so many steps are taken; the files are shut, as they are when a process ends."""
    made, calls, logs = pretrain.losses, [], []

    def losses(*arguments):
        calls.append(1)
        if len(calls) > steps:
            raise Killed
        return made(*arguments)

    def opened(*arguments, **options):
        logs.append(TrainingLog(*arguments, **options))
        return logs[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "losses", losses)
        patch.setattr(pretrain, "TrainingLog", opened)
        with pytest.raises(Killed):
            train(config, work)
    logs[0].close()


def log_of(work: Path) -> list[dict]:
    lines = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[open_clip.CLIP, list[dict]]:
    """Model and log of an uninterrupted training."""
    work = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TOY.items():
            patch.setattr(pretrain, name, value)
        return train(SMALL, work), log_of(work)


def test_an_epoch_has_its_lines_and_the_model_moves(whole):
    model, log = whole
    steps, figures = [line for line in log if "loss" in line], [line for line in log if "loss" not in line]
    assert [line["step"] for line in steps] == list(range(1, 13)) and [line["epoch"] for line in figures] == [1, 2, 3]
    assert all(np.isfinite([line["loss"], line["facts"]]).all() for line in steps)
    assert all(0 <= line[name] <= 1 for line in figures for name in ("text_to_image_R@1", "image_to_text_R@1"))
    assert not model.training and not same_weights(model, tiny_model())
    assert np.mean([line["facts"] for line in steps[-4:]]) < np.mean([line["facts"] for line in steps[:4]])


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        (3, 5),
        (3, 2),
        (4, 5),
    ],
)
def test_stopped_between_two_checkpoints_it_goes_on_to_the_same_bits(whole, toy, tmp_path, monkeypatch, every, steps):
    config, work, asked = replace(SMALL, checkpoint_every=every), tmp_path / "broken", []
    killed_after(steps, config, work)
    monkeypatch.setattr(pretrain, "agreement", lambda *a, made=pretrain.agreement: asked.append(1) or made(*a))
    model = train(config, work)
    left = 12 - max(steps // every * every, steps // 4 * 4)  # the end of an epoch is kept as well
    assert len(asked) == left + -(-left // 4), "the batches left, and a measurement for each epoch left"
    assert same_weights(model, whole[0])
    assert log_of(work) == whole[1]


def test_killed_by_the_system_it_goes_on_to_the_same_bits(whole, toy, tmp_path, kill_at_pause):
    script = f"""
    from runpy import run_path
    from chapter03_multimodal.studies import pretrain
    toy, calls = run_path({__file__!r}), []
    for name, value in toy["TOY"].items():
        setattr(pretrain, name, value)
    made = pretrain.losses
    def losses(*arguments):
        calls.append(1)
        if len(calls) == 8:
            pause()
        return made(*arguments)
    pretrain.losses = losses
    pretrain.train(toy["SMALL"], folder)
    """
    kill_at_pause(script, tmp_path / "killed")
    assert (tmp_path / "killed" / "last" / "step-000006").is_dir()
    model = train(SMALL, tmp_path / "killed")
    assert same_weights(model, whole[0]) and log_of(tmp_path / "killed") == whole[1]


def test_the_command_writes_the_model_with_its_log_and_cleans_up(toy, artifacts_root, monkeypatch):
    made = []
    monkeypatch.setattr(pretrain, "train", lambda *a, original=train: made.append(original(*a)) or made[0])
    folder = main(replace(SMALL, epochs=1, output=None))
    assert folder == artifacts_root / "pocket_clip"
    assert not list((artifacts_root / "pretrain").iterdir())
    assert len((folder / "log.jsonl").read_text().splitlines()) == 5
    clip = load_clip(folder)
    rounded = {name: value.half().float() for name, value in made[0].state_dict().items() if value.is_floating_point()}
    assert all(torch.equal(clip.model.state_dict()[name], value) for name, value in rounded.items())


def test_a_run_of_other_settings_is_not_gone_on_with(toy, artifacts_root, monkeypatch):
    folders = []
    monkeypatch.setattr(pretrain, "train", lambda config, work: folders.append(work) or SimpleNamespace())
    monkeypatch.setattr(pretrain, "export", lambda model, output: (_ for _ in ()).throw(Killed))
    for config in (SMALL, replace(SMALL, output="elsewhere"), replace(SMALL, seed=1), replace(SMALL, epochs=2)):
        with pytest.raises(Killed):
            main(config)
    monkeypatch.setattr(pretrain, "MODEL", {**TINY, "embed_dim": 8})
    with pytest.raises(Killed):
        main(SMALL)
    assert folders[0] == folders[1] and len({*folders}) == 4
