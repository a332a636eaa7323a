"""Hold a notebook to what it claims, without stopping a reader whose machine computes otherwise."""

from __future__ import annotations

from common.devices import choose_placement
from common.settings import DEFAULT_PROFILE, resolve_profile


def expect(claim: str, holds: bool, profile: str | None = None, **found: object) -> bool:
    """Check an outcome of training or of measuring ("the towers find more than MiniLM"), and return whether it holds.

    Where the notebooks' outputs were made (profile pocket, a CPU with native bfloat16), a claim that does not hold
    raises `AssertionError`. Anywhere else it is printed with what came out, and the notebook goes on: few products or
    another rounding may turn a close comparison around. What must hold everywhere (a formula, a shape) stays an
    `assert`. profile: the notebook's parameter; found: the measured values by name, for the message.
    """
    if holds:
        return True
    values = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in found.items())
    came_out = f" Measured: {values}." if values else ""
    differs = _differs_from_committed(profile)
    if differs is None:
        raise AssertionError(f"{claim}: this does not hold.{came_out}")
    print(f"Expected, but not so here ({differs}): {claim}.{came_out}")
    return False


def _differs_from_committed(profile: str | None) -> str | None:
    """Name how this run differs from the one whose outputs are committed, None if it does not."""
    name = resolve_profile(profile)
    if name != DEFAULT_PROFILE:
        return f"profile {name}"
    placement = choose_placement()
    if placement.device != "cpu":
        return f"on {placement.device}"
    return None if placement.precision == "bfloat16" else "a CPU without native bfloat16"


def _short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
