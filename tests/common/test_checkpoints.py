"""Checkpoints: a run that goes on from one is the run that was never interrupted; a bad one is refused."""

from __future__ import annotations

import pytest
import torch

from common.checkpoints import read_state, restore_checkpoint, save_checkpoint
from common.errors import CourseError


def new(seed=0, width=4):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Dropout(0.5), torch.nn.Linear(width, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


def steps(model, optimizer, count):
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()


def test_going_on_is_bit_for_bit_the_same(tmp_path):
    model, optimizer = new()
    steps(model, optimizer, 3)
    save_checkpoint(tmp_path, "step-3", model, optimizer, {"step": 3})
    steps(model, optimizer, 4)
    other, its_optimizer = new(seed=9)
    steps(other, its_optimizer, 1)
    restore_checkpoint(tmp_path, other, its_optimizer)
    steps(other, its_optimizer, 4)
    for mine, wanted in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, wanted)
    # The comparison would see a lost moment or random state.
    careless, fresh = new(seed=9)
    restore_checkpoint(tmp_path, careless)
    steps(careless, fresh, 4)
    assert not torch.equal(careless[0].weight, model[0].weight)


def test_the_rate_is_not_part_of_it(tmp_path):
    model, optimizer = new()
    steps(model, optimizer, 1)
    save_checkpoint(tmp_path, "a", model, optimizer, {})
    optimizer.param_groups[0]["lr"] = 0.01
    restore_checkpoint(tmp_path, model, optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.01


def test_only_the_last_is_kept_and_a_kill_leaves_the_one_before(tmp_path, kill_at_pause):
    model, optimizer = new()
    assert read_state(tmp_path) is None
    for step in (1, 2):
        save_checkpoint(tmp_path, f"step-{step}", model, optimizer, {"step": step})
    assert read_state(tmp_path) == {"step": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.json", "step-2"]
    script = """
        import torch
        from common import checkpoints
        model = torch.nn.Linear(3, 4)
        checkpoints.write_json = lambda *_: pause()
        checkpoints.save_checkpoint(folder, "step-3", model, torch.optim.AdamW(model.parameters()), {"step": 3})
    """
    kill_at_pause(script, tmp_path)
    assert read_state(tmp_path) == {"step": 2}
    restore_checkpoint(tmp_path, *new(seed=3))
    save_checkpoint(tmp_path, "step-3", model, optimizer, {"step": 3})
    assert read_state(tmp_path) == {"step": 3}


def test_another_architecture_or_a_file_cut_short_is_refused(tmp_path):
    model, optimizer = new()
    save_checkpoint(tmp_path, "a", model, optimizer, {})
    wider, its_optimizer = new(width=5)
    before = wider[0].weight.clone()
    with pytest.raises(CourseError, match="another architecture"):
        restore_checkpoint(tmp_path, wider, its_optimizer)
    assert torch.equal(wider[0].weight, before)
    file = tmp_path / "a" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CourseError, match=r"cannot be read .* remove the folder"):
        restore_checkpoint(tmp_path, model, optimizer)
