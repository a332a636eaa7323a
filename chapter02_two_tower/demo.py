"""Open a search box on chapter 2's systems: `python -m chapter02_two_tower.demo`, in Colab with `--share`."""

from __future__ import annotations

from chapter02_two_tower.systems import systems
from common.cli import run_step
from common.demo import DemoConfig, serve


def main(config: DemoConfig) -> None:
    """Serve a page that searches with the chapter's systems, or print the answer to one query."""
    serve(systems, config)


if __name__ == "__main__":
    run_step(main)
