"""Load everything that is built of one catalogue, once, from one set of runs: the service answers from it.

The runs that are current when loading begins are pinned. A step that ends meanwhile is picked up at the next start, and
never in part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from textwrap import shorten
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.category_path import prefixes_of
from common.encoders import Embeddings
from common.errors import CourseError, MissingArtifact
from common.search import Searcher
from common.shared_encoders import SharedEncoders, shared_encoders
from course import scoreboard
from course.service.answers import GOES_WITH, GOES_WITH_BY_COSINE, Product

if TYPE_CHECKING:
    from chapter03_multimodal.outfits.complete_look import Look, LookFinder
    from chapter03_multimodal.picture_search import Classify
    from chapter04_catalogue_reranker.own_product import RankedCategories

PICTURE, CATEGORY, SIMILAR, LOOK = "search by picture", "predicted category", "similar products", "complete the look"
RANKING, SCOREBOARD, CONSTELLATION = "category ranking", "scoreboard", "constellation"

CHAPTERS = ("chapter01_baseline", "chapter02_two_tower", "chapter03_multimodal", "chapter04_catalogue_reranker")
LOOK_SCORES = {"pair": GOES_WITH, "cosine": GOES_WITH_BY_COSINE}
"""What the scores of a look measure, by the scorer of its compatibility head."""
MOST_CHOICES = 300
"""Products that are offered to begin a look with."""
LONGEST_TITLE = 70
"""Characters of a title in a list of choices."""

Part = TypeVar("Part")


@dataclass(frozen=True)
class Shop:
    """A catalogue with all that is built of it. A part that is not built is None, and named in `missing`.

    runs: the run of every step, by "chapter/step". systems: text searchers, the simplest first, the strongest last.
    chapters: the chapter of each system. score_means: what the scores of each system measure. pictures: searches by PIL
    picture. classify: the categories of pictures, with their probabilities. similar: neighbours and their cosines for
    (product id, k). look: completes a look. look_means: what its scores measure. look_choices: (title, product id) to
    begin a look with. gap_categories: what a look may lack. rank: ranks the category paths of a product. board: rows of
    the scoreboard. map_page: the constellation's HTML. missing: what to run for each part or system that is not built.
    """

    catalogue: Catalogue
    profile: str
    runs: dict[str, str]
    systems: dict[str, Searcher]
    chapters: dict[str, str]
    score_means: dict[str, str]
    pictures: Searcher | None = None
    classify: Classify | None = None
    similar: Callable[[str, int], list[tuple[str, float]]] | None = None
    look: Callable[..., Look] | None = None
    look_means: str = ""
    look_choices: list[tuple[str, str]] = field(default_factory=list)
    gap_categories: list[str] = field(default_factory=list)
    rank: Callable[..., RankedCategories] | None = None
    board: pd.DataFrame | None = None
    map_page: str | None = None
    missing: dict[str, str] = field(default_factory=dict)

    def warm_up(self) -> None:
        """Ask every system once, so that no visitor waits for what is made at the first question."""
        for searcher in self.systems.values():
            searcher.search(["warm up"], 1)
        if self.rank is not None:
            self.rank(title="warm up", k=1)


def load_shop(
    catalogue: Catalogue, profile: str | None = None, *, remember: int = 10_000
) -> tuple[Shop, SharedEncoders]:
    """Load what is built of `catalogue`: each encoder once, with a memory for the last `remember` texts.

    Parts that are not built, or out of date, are named in `Shop.missing`; the others work without them.
    """
    artifacts = Artifacts.for_catalogue(catalogue, profile).pinned()
    with shared_encoders(remember) as encoders:
        return _load(catalogue, artifacts), encoders


def products_of(catalogue: Catalogue) -> dict[str, Product]:
    """Return every product as it is shown, by id."""
    columns = ["product_id", "title", "description", "brand", "colour", "material", "price", "category_path"]
    pictured = set(catalogue.images["product_id"])
    table = catalogue.products[[*columns, "attributes"]].astype(object)
    rows = table.where(table.notna(), None).itertuples(index=False, name=None)
    return {
        row[0]: Product(*row[:-1], attributes=json.loads(row[-1]) if row[-1] else {}, has_image=row[0] in pictured)
        for row in rows
    }


def _load(catalogue: Catalogue, artifacts: Artifacts) -> Shop:
    missing: dict[str, str] = {}

    def load(parts: Sequence[str], loader: Callable[[], Part]) -> Part | None:
        try:
            return loader()
        except (CourseError, OSError, ValueError) as error:  # the last two: a run that was damaged from outside
            missing.update(dict.fromkeys(parts, _what_to_run(error)))
            return None

    systems, chapters, means = {}, {}, {}
    for number, chapter in enumerate(CHAPTERS, start=1):
        offered = import_module(f"{chapter}.systems")
        found = load([*offered.SCORES], partial(offered.systems, artifacts, catalogue)) or {}
        run_all = f"not built: run python -m course run --chapters {number}"
        missing |= {name: run_all for name in offered.SCORES if name not in found and name not in missing}
        systems |= found
        chapters |= dict.fromkeys(found, chapter)
        means |= offered.SCORES
    look = load([LOOK], lambda: _look(artifacts, catalogue)) or {}
    return Shop(
        catalogue=catalogue,
        profile=artifacts.profile,
        runs=artifacts.runs,
        systems=systems,
        chapters=chapters,
        score_means=means,
        pictures=load([PICTURE], lambda: _pictures(artifacts)),
        classify=load([CATEGORY], lambda: _classifier(artifacts)),
        similar=load([SIMILAR], lambda: _similar(artifacts, catalogue)),
        **look,
        rank=load([RANKING], lambda: _ranking(artifacts)),
        board=load([SCOREBOARD], lambda: _board(artifacts)),
        map_page=load([CONSTELLATION], lambda: _map_page(artifacts)),
        missing=missing,
    )


def _what_to_run(error: Exception) -> str:
    """Say what is wrong, and the command that puts it right: most of the course's errors end with one."""
    _, found, command = str(error).rpartition("with: ")
    if isinstance(error, MissingArtifact):
        return f"not built: run {command if found else 'make course'}"
    if found:
        return f"out of date: run {command}"
    return f"cannot be read ({(str(error).splitlines() or [type(error).__name__])[0]}): run make course"


def _pictures(artifacts: Artifacts) -> Searcher:
    from chapter03_multimodal.reindex import load_pictures

    return load_pictures(artifacts).by_picture


def _classifier(artifacts: Artifacts) -> Classify:
    from chapter03_multimodal.picture_search import load_classify

    return load_classify(artifacts)


def _similar(artifacts: Artifacts, catalogue: Catalogue) -> Callable[[str, int], list[tuple[str, float]]]:
    """Find neighbours by the joint vectors of text and picture."""
    from chapter03_multimodal.choose import load_joint_towers

    joint = load_joint_towers(artifacts, catalogue)
    rows = {product_id: row for row, product_id in enumerate(catalogue.products["product_id"])}

    def neighbours(product_id: str, k: int) -> list[tuple[str, float]]:
        own = joint.embeddings.vectors[rows[product_id]][None]
        asked = Embeddings(own, joint.embeddings.encoder_id)
        return joint.dense.index.search_vectors(asked, k, exclude=[{product_id}]).row(0)

    return neighbours


def _look(artifacts: Artifacts, catalogue: Catalogue) -> dict[str, Any]:
    """Return the fields of `Shop` about looks."""
    from chapter03_multimodal.outfits.complete_look import complete_look, load_look_finder

    finder = load_look_finder(artifacts, catalogue)
    return {
        "look": partial(complete_look, finder),
        "look_means": LOOK_SCORES[finder.scorer.head.scorer],
        "look_choices": look_choices(finder, catalogue),
        "gap_categories": gap_categories(finder),
    }


def look_choices(finder: LookFinder, catalogue: Catalogue) -> list[tuple[str, str]]:
    """Return (title, product id) of products to begin a look with: `MOST_CHOICES` of the catalogue's outfits."""
    together = catalogue.pairs.loc[catalogue.pairs["label"] == 1, ["a_id", "b_id"]].to_numpy().ravel().tolist()
    items = [item for item in dict.fromkeys(together) if item in finder.embeddings][:MOST_CHOICES]
    titles = catalogue.products.set_index("product_id")["title"]
    named = ((item, item if pd.isna(titles[item]) else titles[item]) for item in items)
    return [(f"{shorten(title, LONGEST_TITLE, placeholder=' …')} ({item})", item) for item, title in named]


def gap_categories(finder: LookFinder) -> list[str]:
    """Return the categories that a look may lack: every level of the paths of its items."""
    categories = finder.facts.categories
    return every_level(categories[item] for item in finder.embeddings.ids if item in categories)


def every_level(paths: Iterable[str]) -> list[str]:
    """Return every category path cut after each of its levels, sorted."""
    return sorted({prefix for path in set(paths) for prefix in prefixes_of(path)})


def _ranking(artifacts: Artifacts) -> Callable[..., RankedCategories]:
    from chapter04_catalogue_reranker.own_product import load_product_ranker, rank_product

    return partial(rank_product, load_product_ranker(artifacts))


def _board(artifacts: Artifacts) -> pd.DataFrame:
    rows = scoreboard.rows_of(artifacts.folder / step / run for step, run in artifacts.runs.items())
    if rows is None:
        raise MissingArtifact("Nothing was measured yet. Measure it with: make course")
    return rows


def _map_page(artifacts: Artifacts) -> str:
    from chapter04_catalogue_reranker.constellation.map import load_constellation

    return load_constellation(artifacts).page.read_text(encoding="utf-8")
