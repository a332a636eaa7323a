"""What the service answers from: everything that is built of one catalogue, loaded once, from one set of runs.

The runs in force when loading begins are pinned, so that a step that ends meanwhile is picked up whole at the next
start, and never in part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.encoders import Embeddings
from common.errors import CourseError, MissingArtifact
from common.search import Searcher
from common.shared_encoders import SharedEncoders, shared_encoders
from course import scoreboard
from course.service.answers import COSINE, GOES_WITH, GOES_WITH_BY_COSINE, Product

if TYPE_CHECKING:
    from PIL import Image

    from chapter03_multimodal.outfits.complete_look import Look
    from chapter04_catalogue_reranker.demo_functions import Answer as Ranked

PICTURE, CATEGORY, SIMILAR, LOOK = "search by picture", "predicted category", "similar products", "complete the look"
RANKING, SCOREBOARD, CONSTELLATION = "category ranking", "scoreboard", "constellation"

CHAPTERS = ("chapter01_baseline", "chapter02_two_tower", "chapter03_multimodal", "chapter04_catalogue_reranker")
ORDER_ONLY = "for the order alone"
SCORES = {
    "BM25": "BM25: the sum of what the query's words weigh in the product's text, 0 or more",
    "BM25 + RM3": "BM25 of the expanded query, its words weighted to add up to 1",
    "MiniLM": COSINE,
    "MiniLM + Rocchio": COSINE,
    "reciprocal rank fusion": "sum over both rankings of 1 / (60 + rank)",
    "two towers": COSINE,
    "two towers + Rocchio": COSINE,
    "CLIP, text to image": COSINE,
    "text + image": "weighted mean of the cosines of query and text, and of query and picture",
    "text + image + Rocchio": "weighted mean of the cosines of query and text, and of query and picture",
    "learned ranker": f"{ORDER_ONLY}: weighted score of chapter 3's best system, plus what the trees add",
}
"""What the scores of a system measure."""
FUSED = "weighted mean of two scores, each scaled to 0 to 1 over what it retrieved"
LOOK_SCORES = {"pair": GOES_WITH, "cosine": GOES_WITH_BY_COSINE}
"""What the scores of a look measure, by the scorer of its compatibility head."""

Part = TypeVar("Part")


@dataclass(frozen=True)
class Shop:
    """A catalogue with all that is built of it; what is not is None, and named in `missing`.

    runs: the run of every step, by "chapter/step". systems: text searchers, the simplest first, the strongest last.
    chapters: the chapter of each. pictures: searches by PIL picture. classify: the categories of pictures, with their
    probabilities. similar: (product id, k) to neighbours and their cosines. look: completes a look. look_means: what
    its scores measure. look_choices: (title, product id) to begin a look with. gap_categories: what a look may lack.
    rank: category paths of a product. board: rows of the scoreboard. map_page: the constellation's HTML. missing: part
    or system to what to run.
    """

    catalogue: Catalogue
    profile: str
    runs: dict[str, str]
    systems: dict[str, Searcher]
    chapters: dict[str, str]
    pictures: Searcher | None = None
    classify: Callable[[Sequence[Image.Image]], list[list[tuple[str, float]]]] | None = None
    similar: Callable[[str, int], list[tuple[str, float]]] | None = None
    look: Callable[..., Look] | None = None
    look_means: str = ""
    look_choices: list[tuple[str, str]] = field(default_factory=list)
    gap_categories: list[str] = field(default_factory=list)
    rank: Callable[..., Ranked] | None = None
    board: pd.DataFrame | None = None
    map_page: str | None = None
    missing: dict[str, str] = field(default_factory=dict)

    def warm_up(self) -> None:
        """Ask everything once, so that no visitor waits for what is made at the first question."""
        for searcher in self.systems.values():
            searcher.search(["warm up"], 1)
        if self.rank is not None:
            self.rank(title="warm up", k=1)


def load_shop(
    catalogue: Catalogue, profile: str | None = None, *, remember: int = 10_000
) -> tuple[Shop, SharedEncoders]:
    """Load what is built of `catalogue`; each encoder once, with a memory for the last `remember` texts.

    What is not built, or out of date, is named in `Shop.missing` and does not keep the rest from working.
    """
    artifacts = Artifacts.for_catalogue(catalogue, profile).pinned()
    with shared_encoders(remember) as encoders:
        return _load(catalogue, artifacts), encoders


def score_means(system: str) -> str:
    """What the scores of a system measure."""
    if system in SCORES:
        return SCORES[system]
    if system.startswith("reranked"):
        return "weighted mean of the first stage's and the cross-encoder's score, each scaled to 0 to 1"
    return FUSED


def products_of(catalogue: Catalogue) -> dict[str, Product]:
    """Every product as it is shown, by id."""
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

    systems, chapters = {}, {}
    for chapter, (names, loader) in _searchers(artifacts, catalogue).items():
        found = load(names, loader) or {}
        run_all = f"not built: run python -m course run --chapters {CHAPTERS.index(chapter) + 1}"
        missing |= {name: run_all for name in names if name not in found and name not in missing}
        systems |= found
        chapters |= dict.fromkeys(found, chapter)
    pictures = load([PICTURE], lambda: _pictures(artifacts))
    look = load([LOOK], lambda: _look(artifacts, catalogue)) or {}
    return Shop(
        catalogue=catalogue,
        profile=artifacts.profile,
        runs=artifacts.runs,
        systems=systems,
        chapters=chapters,
        pictures=pictures,
        classify=load([CATEGORY], lambda: _classifier(artifacts)),
        similar=load([SIMILAR], lambda: _similar(artifacts, catalogue)),
        **look,
        rank=load([RANKING], lambda: _ranking(artifacts, catalogue)),
        board=load([SCOREBOARD], lambda: _board(artifacts)),
        map_page=load([CONSTELLATION], lambda: _map_page(artifacts)),
        missing=missing,
    )


def _what_to_run(error: Exception) -> str:
    """What is wrong, and the command that puts it right, which stands at the end of most of the course's errors."""
    _, found, command = str(error).rpartition("with: ")
    if isinstance(error, MissingArtifact):
        return f"not built: run {command if found else 'make course'}"
    if found:
        return f"out of date: run {command}"
    return f"cannot be read ({(str(error).splitlines() or [type(error).__name__])[0]}): run make course"


def _searchers(artifacts: Artifacts, catalogue: Catalogue) -> dict[str, tuple[list[str], Callable]]:
    """By chapter: the names that its searchers have on the scoreboard, and what loads them."""
    from chapter01_baseline import systems as words
    from chapter02_two_tower import systems as towers
    from chapter03_multimodal import systems as pictures
    from chapter04_catalogue_reranker import systems as ranker

    names = (
        [*words.FIRST_STAGES, *(f"reranked {name}" for name in words.RERANKED)],
        [*towers.NAMES.values()],
        [pictures.CLIP, *pictures.NAMES.values(), pictures.BEST],
        [ranker.BEST],
    )
    loaders = [module.systems for module in (words, towers, pictures, ranker)]
    return {
        chapter: (known, lambda loader=loader: loader(artifacts, catalogue))
        for chapter, known, loader in zip(CHAPTERS, names, loaders, strict=True)
    }


def _pictures(artifacts: Artifacts) -> Searcher:
    from chapter03_multimodal.reindex import load_pictures

    return load_pictures(artifacts).by_picture


def _classifier(artifacts: Artifacts) -> Callable[[Sequence[Image.Image]], list[list[tuple[str, float]]]]:
    from chapter03_multimodal.categories.classifier import load_classifier, load_encoder_of
    from chapter03_multimodal.demo_functions import TOP_CATEGORIES

    classifier = load_classifier(artifacts)
    encoder = load_encoder_of(classifier, artifacts)
    return lambda seen: classifier.predict(encoder.encode_images(seen).vectors, TOP_CATEGORIES)


def _similar(artifacts: Artifacts, catalogue: Catalogue) -> Callable[[str, int], list[tuple[str, float]]]:
    """Neighbours by the joint vectors of text and picture."""
    from chapter03_multimodal.choose import load_joint_towers

    joint = load_joint_towers(artifacts, catalogue)
    rows = {product_id: row for row, product_id in enumerate(catalogue.products["product_id"])}

    def neighbours(product_id: str, k: int) -> list[tuple[str, float]]:
        own = joint.embeddings.vectors[rows[product_id]][None]
        asked = Embeddings(own, joint.embeddings.encoder_id)
        return joint.dense.index.search_vectors(asked, k, exclude=[{product_id}]).row(0)

    return neighbours


def _look(artifacts: Artifacts, catalogue: Catalogue) -> dict[str, Any]:
    """The fields of `Shop` that tell of looks."""
    from functools import partial

    from chapter03_multimodal.demo_functions import DemoState, context_choices, gap_categories
    from chapter03_multimodal.outfits.complete_look import complete_look, load_look_finder

    finder = load_look_finder(artifacts, catalogue)
    state = DemoState(catalogue, {}, None, None, finder, {})
    return {
        "look": partial(complete_look, finder),
        "look_means": LOOK_SCORES[finder.scorer.head.scorer],
        "look_choices": context_choices(state),
        "gap_categories": gap_categories(state),
    }


def _ranking(artifacts: Artifacts, catalogue: Catalogue) -> Callable[..., Ranked]:
    from functools import partial

    from chapter04_catalogue_reranker.demo_functions import load_state, rank_product

    return partial(rank_product, load_state(artifacts, catalogue))


def _board(artifacts: Artifacts) -> pd.DataFrame:
    chapters = [chapter for chapter in CHAPTERS if f"{chapter}/evaluate" in artifacts.runs]
    rows = scoreboard.rows_of([artifacts.current(chapter, "evaluate").path for chapter in chapters])
    if rows is None:
        raise MissingArtifact("No evaluation yet. Make one with: make course")
    return rows


def _map_page(artifacts: Artifacts) -> str:
    from chapter04_catalogue_reranker.constellation.map import load_constellation

    return load_constellation(artifacts).page.read_text(encoding="utf-8")
