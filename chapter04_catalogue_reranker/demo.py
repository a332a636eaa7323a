"""Open a search box on chapter 4's systems: `python -m chapter04_catalogue_reranker.demo`, in Colab with `--share`."""

from __future__ import annotations

from chapter04_catalogue_reranker.systems import systems
from common.cli import run_step
from common.demo import DemoConfig, serve


def main(config: DemoConfig) -> None:
    """Serve a page that searches with the chapter's systems, or print the answer to one query."""
    serve(systems, config)


if __name__ == "__main__":
    run_step(main)
