"""The head, its losses and checkpoints, the step on a small shop with made-up embeddings, and the folds."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from chapter03_multimodal.outfits import cross_validation
from chapter03_multimodal.outfits.compatibility import (
    CompatibilityConfig,
    batch_loss,
    false_negative_mask,
    load_compatibility,
    main,
    measure,
    train_head,
)
from chapter03_multimodal.outfits.complete_look import complete_look, load_look_finder
from chapter03_multimodal.outfits.cross_validation import cross_validate
from chapter03_multimodal.outfits.embeddings import ItemEmbeddings, save_embeddings
from chapter03_multimodal.outfits.head import (
    CompatibilityHead,
    FrozenScorer,
    HeadScorer,
    load_head,
    save_head,
)
from chapter03_multimodal.outfits.metrics import FROZEN
from chapter03_multimodal.outfits.negatives import Triplets, TripletSampler
from chapter03_multimodal.outfits.pair_data import PairData, load_pair_data
from chapter03_multimodal.outfits.pairs import ItemFacts, clean_pairs
from common.errors import CourseError, MissingArtifact
from common.pocket_shop.shop import load_facts
from common.scoreboard import read_scoreboard

NOTHING = ItemFacts({}, {})
SMALL = CompatibilityConfig(hidden=32, out_dim=16, epochs=2, batch_size=64, dropout=0.0)


def toy_embeddings(items, size=12, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((len(items), size)).astype(np.float32)
    return ItemEmbeddings(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), list(items), "toy", pd.DataFrame())


def toy_pairs(*rows):
    return pd.DataFrame(rows, columns=["a_id", "b_id", "label"]).assign(outfit_id=None, split="train")


@pytest.mark.parametrize("scorer", ["cosine", "pair"])
def test_a_score_is_symmetric_and_projections_have_length_one(scorer):
    torch.manual_seed(0)
    head = CompatibilityHead(12, 6, hidden=8, scorer=scorer)
    u, v = head(torch.randn(5, 12)), head(torch.randn(5, 12))
    torch.testing.assert_close(u.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(head.score(u, v), head.score(v, u), rtol=0, atol=0)
    assert head.score(u, v).shape == (5,)
    if scorer == "cosine":
        torch.testing.assert_close(head.score(u, v), torch.nn.functional.cosine_similarity(u, v))
        assert not hasattr(head, "judge")
    else:
        assert ((head.score(u, v) > 0) & (head.score(u, v) < 1)).all()
        inputs = torch.cat([6 * u * v, 6**0.5 * (u - v).abs()], dim=1)
        torch.testing.assert_close(head.score(u, v), head.judge(inputs).squeeze(1).double().sigmoid())


def test_an_unknown_scorer_is_an_error():
    with pytest.raises(CourseError, match="'dot': choose one of cosine, pair"):
        CompatibilityHead(4, scorer="dot")


def naive_loss(head, embeddings, batch, sampler, config):
    """Row by row."""
    project = {item: head(torch.from_numpy(embeddings.vectors[row].copy())) for row, item in enumerate(embeddings.ids)}
    rows = list(zip(batch.anchors, batch.positives, batch.negatives, strict=True))
    columns = [row[1] for row in rows] + [row[2] for row in rows]

    def free(anchor, item):
        """May this item be a negative of this anchor?"""
        clash = item in sampler.partners.incompatible.get(anchor, ())
        groups = {sampler.facts.group(other) for other in {anchor, *sampler.partners.compatible[anchor]}}
        return clash or sampler.facts.group(item) not in groups

    def choice(scores, right):
        return -(right - torch.stack([right, *scores]).logsumexp(0))

    costs, entropies = [], []
    for anchor, positive, negative in rows:
        a, p, n = project[anchor], project[positive], project[negative]
        if config.loss == "triplet":
            costs.append(torch.relu(a @ n - a @ p + config.margin))
        else:
            t = config.temperature
            forth = choice([a @ project[item] / t for item in columns if free(anchor, item)], a @ p / t)
            back = choice([project[o[0]] @ p / t for o in rows if free(o[0], positive)], a @ p / t)
            costs.append((forth + back) / 2)
        if config.scorer == "pair":
            entropies += [-torch.log(head.score(a, p)), -torch.log(1 - head.score(a, n))]
    loss = torch.stack(costs).mean()
    return loss + torch.stack(entropies).mean().float() if entropies else loss


PAIRS = toy_pairs(
    ("a", "b", 1),
    ("a", "c", 1),
    ("d", "e", 1),
    ("f", "g", 1),
    ("a", "d", 0),
    ("b", "h", 0),
    ("e", "g", 0),
    ("f", "i", 0),
)


@pytest.mark.parametrize("scorer", ["cosine", "pair"])
@pytest.mark.parametrize("loss", ["triplet", "infonce"])
def test_the_loss_is_that_of_the_rows_one_by_one(scorer, loss):
    torch.manual_seed(1)
    config = replace(SMALL, scorer=scorer, loss=loss)
    embeddings, facts = toy_embeddings("abcdefghij"), ItemFacts({}, {"b": "g1", "h": "g1", "g": "g2", "j": "g2"})
    sampler = TripletSampler(PAIRS, facts, neg_pool_ratio=0.5)
    head = CompatibilityHead(12, 6, hidden=8, scorer=scorer)
    batch = sampler.epoch(0, 1)
    found = batch_loss(head, torch.tensor(embeddings.vectors), batch, embeddings, sampler, config)
    expected = naive_loss(head, embeddings, batch, sampler, config)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    parameters = [value for name, value in head.named_parameters()]
    for one, two in zip(
        torch.autograd.grad(found, parameters, allow_unused=True),
        torch.autograd.grad(expected, parameters, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_what_is_known_to_fit_is_masked_and_what_was_judged_is_not():
    facts = ItemFacts({}, {"b": "g1", "h": "g1", "c": "g3", "k": "g3"})
    sampler = TripletSampler(PAIRS, facts, neg_pool_ratio=1.0)
    column = np.array(list("badekf"), dtype=object)
    batch = Triplets(np.array(list("abb"), dtype=object), column[:3], column[3:], np.ones(3, dtype=bool))
    known = false_negative_mask(batch, sampler.partners, sampler.facts)
    # Of anchor a: its partner b, itself, and k, a variant of its partner c. d was judged not to fit.
    assert known[0].tolist() == [True, True, False, False, True, False]
    assert known[1].tolist() == [True, True, False, False, False, False]


def test_a_head_learns_a_rule_that_cosine_alone_does_not_show():
    """Items of a harmony (hidden in the sign of a product of two coordinates) go together: XOR, for which the frozen
    cosine is as good as chance."""
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.choice([-2, 2], (400, 2)), rng.standard_normal((400, 4))], axis=1).astype(np.float32)
    kind = vectors[:, 0] * vectors[:, 1] > 0
    items = [f"i{n:03d}" for n in range(400)]
    embeddings = ItemEmbeddings(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), items, "toy", pd.DataFrame())
    ends = np.concatenate([rng.integers(0, 300, (1500, 2)), rng.integers(300, 400, (500, 2))])
    ends = ends[ends[:, 0] != ends[:, 1]]
    table = pd.DataFrame({"a_id": [items[a] for a in ends[:, 0]], "b_id": [items[b] for b in ends[:, 1]]})
    table["label"] = (kind[ends[:, 0]] == kind[ends[:, 1]]).astype(int)
    split_of = {item: "train" if n < 300 else "test" for n, item in enumerate(items)}
    data = PairData(embeddings, clean_pairs(table, items, split_of), NOTHING, split_of)
    config = replace(SMALL, epochs=6, learning_rate=3e-3)
    for scorer in ("cosine", "pair"):
        head = train_head(embeddings, data.table.of_split("train"), NOTHING, replace(config, scorer=scorer))
        found, _ = measure(data, {"head": HeadScorer(head, embeddings)})
        auc = found[found["metric"] == "AUC"].set_index("system")
        assert auc.loc["head", "value"] > 0.9 and auc.loc["head", "difference_low"] > 0.2
        assert auc.loc[FROZEN, "value"] < 0.62


def test_training_repeats_with_its_seed_and_leaves_the_random_state_alone():
    embeddings = toy_embeddings("abcdefghij")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    config = replace(SMALL, dropout=0.2)
    states = [train_head(embeddings, PAIRS, NOTHING, replace(config, seed=seed)).state_dict() for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["project.2.weight"], states[2]["project.2.weight"])


def test_a_loss_that_is_no_number_stops_the_training():
    with pytest.raises(CourseError, match="lower --learning-rate"):
        train_head(toy_embeddings("abcdefghij"), PAIRS, NOTHING, replace(SMALL, learning_rate=float("inf")))


def described_head(file):
    """What a checkpoint's header says."""
    with safe_open(file, framework="pt") as opened:
        return json.loads(opened.metadata()["head"])


def test_a_checkpoint_holds_state_and_dimensions_and_is_not_overwritten(tmp_path):
    embeddings = toy_embeddings("ab")
    head = CompatibilityHead(12, 6, hidden=8)
    save_head(tmp_path / "one.safetensors", head, encoder_id="toy", epoch=3, auc=0.5)
    described = described_head(tmp_path / "one.safetensors")
    assert (described["in_dim"], described["out_dim"], described["epoch"], described["auc"]) == (12, 6, 3, 0.5)
    again = load_head(tmp_path / "one.safetensors", embeddings)
    assert not again.training
    for name, value in head.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    with pytest.raises(CourseError, match="was written before"):
        save_head(tmp_path / "one.safetensors", head, encoder_id="toy", epoch=4)


def test_loading_checks_dimensions_and_encoder(tmp_path):
    file = tmp_path / "one.safetensors"
    save_head(file, CompatibilityHead(12, 6, hidden=8), encoder_id="toy", epoch=1)
    with pytest.raises(CourseError, match="takes embeddings of 12 dimensions, these have 5"):
        load_head(file, toy_embeddings("ab", size=5))
    with pytest.raises(CourseError, match="trained on embeddings of 'toy', these are of 'other'"):
        load_head(file, replace(toy_embeddings("ab"), encoder_id="other"))
    other = tmp_path / "other.safetensors"
    save_head(other, CompatibilityHead(12, 7, hidden=8), encoder_id="toy", epoch=1)
    with_wrong_label = tmp_path / "wrong.safetensors"
    label = {"head": '{"format": 1, "in_dim": 12, "out_dim": 6, "hidden": 8, "scorer": "pair", "encoder_id": "toy"}'}
    save_file(load_file(other), with_wrong_label, metadata=label)
    with pytest.raises(CourseError, match=r"in_dim 12, out_dim 6, but .* \(first difference: project.5.weight\)"):
        load_head(with_wrong_label)
    save_file(load_file(other), with_wrong_label)
    with pytest.raises(CourseError, match="not a checkpoint of a compatibility head"):
        load_head(with_wrong_label)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CourseError, match="not a readable safetensors file"):
        load_head(file)
    with pytest.raises(MissingArtifact, match=r"python -m chapter03_multimodal\.outfits\.compatibility"):
        load_head(tmp_path / "none.safetensors")


def test_scorers_equal_the_pairs_one_by_one():
    embeddings = toy_embeddings("abcd")
    head = CompatibilityHead(12, 6, hidden=8)
    scorer, frozen = HeadScorer(head, embeddings), FrozenScorer(embeddings)
    a, b = ["a", "c", "a"], ["b", "d", "a"]
    vectors = dict(zip(embeddings.ids, embeddings.vectors, strict=True))
    np.testing.assert_allclose(frozen(a, b), [vectors[x] @ vectors[y] for x, y in zip(a, b, strict=True)], atol=1e-6)
    with torch.inference_mode():
        expected = [
            float(head.score(*(head(torch.tensor(vectors[item])) for item in pair))) for pair in zip(a, b, strict=True)
        ]
    np.testing.assert_allclose(scorer(a, b), expected, atol=1e-6)
    with pytest.raises(CourseError, match="no embedding of item 'x'"):
        scorer(["a"], ["x"])


@pytest.fixture(scope="module")
def trained(photo_shop, photo_shop_artifacts):
    """The step on the small shop: embeddings made of the facts, turned at random, with noise."""
    from chapter03_multimodal import prepare_data

    facts = load_facts(photo_shop)
    shown = {"leaf": 0.3, "colour": 1.0, "pattern": 1.0}
    parts = [weight * np.eye(facts[name].max() + 1)[facts[name]] for name, weight in shown.items()]
    rng = np.random.default_rng(0)
    known = np.concatenate(parts, axis=1)
    vectors = known @ rng.standard_normal((known.shape[1], 64)) + 0.1 * rng.standard_normal((len(known), 64))
    ids = facts["product_id"].tolist()
    keep = [at for at, product_id in enumerate(ids) if photo_shop.image_path(product_id) is not None]
    prepare_data.main(prepare_data.PrepareDataConfig(catalogue=str(photo_shop.folder)))
    with photo_shop_artifacts.new_run("chapter03_multimodal", "outfits.export_embeddings", config={}) as folder:
        save_embeddings(folder, vectors[keep], [ids[at] for at in keep], "made of facts")
    config = CompatibilityConfig(catalogue=str(photo_shop.folder), hidden=64, out_dim=32, epochs=3, learning_rate=3e-3)
    return config, main(config)


def test_the_head_beats_the_frozen_encoder_on_held_out_outfits(trained):
    _, result = trained
    found = result.held_out.set_index(["metric", "system"])
    assert set(found.index) == {(metric, name) for metric in ("AUC", "FITB") for name in (FROZEN, "head, pair")}
    assert found.loc[("AUC", "head, pair"), "value"] > 0.9 > 0.75 > found.loc[("AUC", FROZEN), "value"]
    assert (found.xs("head, pair", level="system")["difference_low"] > 0).all()
    assert found.loc[("FITB", "head, pair"), "p"] < 0.05
    assert "FITB questions" in result.left_out


def test_the_scoreboard_has_the_held_out_figures(trained):
    _, result = trained
    board, held_out = read_scoreboard(result.run.path), result.held_out
    assert board["system"].tolist() == [f"compatibility, {name}" for name in held_out["system"]]
    assert (
        board["metric"].tolist() == held_out["metric"].tolist()
        and board["n_queries"].tolist() == held_out["n"].tolist()
    )
    np.testing.assert_allclose(
        board[["value", "ci_low", "ci_high"]], held_out[["value", "ci_low", "ci_high"]], rtol=1e-12
    )
    assert {*board["split"]} == {"test"} and {*board["source"]} == {"pocket_shop"} and board["seconds"].isna().all()


def test_every_epoch_has_a_checkpoint_of_its_own_and_validation_chooses(trained, photo_shop, photo_shop_artifacts):
    config, result = trained
    files = sorted(path.name for path in result.run.path.glob("*.safetensors"))
    assert files == [f"epoch_{epoch:03d}.safetensors" for epoch in range(1, config.epochs + 1)]
    states = [load_file(result.run.path / file)["project.2.weight"] for file in files]
    assert all(not torch.equal(one, two) for one, two in pairwise(states))
    assert result.log["epoch"].tolist() == [1, 2, 3] and result.log["loss"].is_monotonic_decreasing
    best = result.log.loc[result.log["auc"].idxmax()]
    assert (result.best["epoch"], result.best["auc"]) == (best["epoch"], pytest.approx(best["auc"]))
    assert described_head(result.run.path / result.best["file"])["epoch"] == best["epoch"]
    # What was measured is what the checkpoint gives, on the pairs of the test split after the audit.
    data, _ = load_pair_data(photo_shop_artifacts, photo_shop)
    scorer = HeadScorer(result.head(data.embeddings), data.embeddings)
    again, left_out = measure(data, {"head, pair": scorer})
    pd.testing.assert_frame_equal(again, result.held_out, check_dtype=False)
    assert left_out == result.left_out["FITB questions"]
    ends = data.table.of_split("test")[["a_id", "b_id"]].to_numpy().ravel()
    assert {data.split_of[item] for item in ends} == {"test"}


def test_the_step_is_not_repeated(trained, photo_shop_artifacts):
    config, result = trained
    assert main(config).run.name == result.run.name == load_compatibility(photo_shop_artifacts).run.name


def test_the_look_is_completed_with_the_trained_head(trained, photo_shop, photo_shop_artifacts):
    finder = load_look_finder(photo_shop_artifacts, photo_shop)
    pair = photo_shop.pairs[photo_shop.pairs["label"] == 1].iloc[0]
    context = [pair["a_id"]] if pair["a_id"] in finder.embeddings else [finder.embeddings.ids[0]]
    look = complete_look(finder, context, k=5)
    assert len(look) == 5 and not finder.facts.variants(*context) & set(look.items["product_id"])
    assert (look.items["score"] > 0.5).all()


def test_files_are_enough(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))
    rng = np.random.default_rng(0)
    items = [f"i{n:03d}" for n in range(120)]
    save_embeddings(tmp_path / "vectors", rng.standard_normal((120, 8)), items, "toy")
    ends = [(a, b) for a, b in rng.integers(0, 120, (900, 2)) if a != b]
    lines = ["a_id,b_id,label", *(f"{items[a]},{items[b]},{(a + b) % 2}" for a, b in ends)]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    config = replace(SMALL, embeddings=tmp_path / "vectors", pairs=tmp_path / "pairs.csv")
    result = main(config)
    assert result.held_out["metric"].tolist()[:2] == ["AUC", "AUC"] and len(result.log) == 2
    assert main(config).run.name == result.run.name
    (tmp_path / "pairs.csv").write_text("\n".join(lines[:-1]))
    assert main(config).run.name != result.run.name  # other pairs, another head
    (tmp_path / "pairs.csv").write_text("a_id,b_id,label\ni000,i001,1\n")
    with pytest.raises(CourseError, match="Give more pairs, or cross_validate"):
        main(config)
    with pytest.raises(CourseError, match="both --embeddings and --pairs"):
        main(replace(config, pairs=None))


def folded(labels):
    """60 products, two variants of 10 of them, and pairs that go together by parity."""
    rng = np.random.default_rng(2)
    items = [f"i{n:02d}" for n in range(60)]
    vectors = rng.standard_normal((60, 6)).astype(np.float32)
    vectors[:, 0] = np.where(np.arange(60) % 2, 1.5, -1.5)
    embeddings = ItemEmbeddings(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), items, "toy", pd.DataFrame())
    facts = ItemFacts(dict.fromkeys(items, "A"), {f"i{n:02d}": f"g{n // 4}{n % 2}" for n in range(20)})
    rows = [(a, b) for a, b in rng.integers(0, 60, (900, 2)) if a < b and (labels or a % 2 == b % 2)]
    table = pd.DataFrame(
        [(items[a], items[b], int(a % 2 == b % 2)) for a, b in rows], columns=["a_id", "b_id", "label"]
    )
    return PairData(embeddings, clean_pairs(table, items, {}), facts, {})


@pytest.mark.parametrize("labels", [True, False])
def test_cross_validation_trains_on_no_product_of_its_fold(labels, monkeypatch):
    data, seen = folded(labels), []
    train = cross_validation.train_head

    def spy(embeddings, pairs, facts, config, **options):
        seen.append({*pairs["a_id"], *pairs["b_id"]})
        return train(embeddings, pairs, facts, config, **options)

    monkeypatch.setattr(cross_validation, "train_head", spy)
    found = cross_validate(data, replace(SMALL, epochs=3, learning_rate=5e-3), folds=5)
    pairs = found.pairs
    assert len(seen) == 5
    for fold, trained_on in enumerate(seen):
        rows = pairs[pairs["fold"] == fold]
        both = rows[rows["unseen"] == 2]
        assert not trained_on & {*both["a_id"], *both["b_id"]}
        known = {data.facts.group(item) for item in trained_on}
        assert not known & {data.facts.group(item) for item in {*both["a_id"], *both["b_id"]}}
        one = rows[rows["unseen"] == 1]
        new = [{a, b} - trained_on for a, b in one[["a_id", "b_id"]].to_numpy()]
        assert all(new)
    # Each pair is measured once with both items unseen if they share a fold, else twice with one.
    positives = pairs[pairs["label"] == 1]
    counts = positives.groupby(["a_id", "b_id"])["unseen"].agg(list).map(sorted)
    assert {tuple(count) for count in counts} == {(2,), (1, 1)}
    assert len(counts) == (data.pairs["label"] == 1).sum()
    assert {*pairs["label"]} == {0, 1} and (labels or (pairs["label"] == 0).sum() <= len(positives))
    table = found.auc.set_index(["tested", "system"])
    assert set(table.index) == {(t, s) for t in ("both unseen", "one or both unseen") for s in (FROZEN, "head")}
    assert table.loc[("one or both unseen", "head"), "value"] > 0.8
    assert table.loc[("one or both unseen", "head"), "difference_low"] > 0
