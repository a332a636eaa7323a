"""Define what the API accepts and answers, as it is documented and checked.

Input is checked: unknown fields, control characters and numbers out of range are refused. Answers are not checked at
run time: `rendering` writes them from plain values, and a test holds them to these schemas.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import File, Form, Path, Query, UploadFile
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from common.search import COSINE
from course.service.answers import LARGEST_PICTURE, LONGEST_QUERY, MOST_CATEGORIES, MOST_HITS
from course.service.service import LEAST_SIDE, LONGEST_TEXT, MOST_CONTEXT, SIDES

LONGEST_ID, LONGEST_NAME = 200, 500
MOST_CANDIDATES, LARGEST_POOL = 500, 10 * MOST_HITS

_PLAIN = r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
"""Any character but control characters, of which tab, line feed and carriage return are allowed."""
ANY_TEXT = rf"^{_PLAIN}*$"
SOME_TEXT = rf"^{_PLAIN}*[^\s\x00-\x1f\x7f-\x9f]{_PLAIN}*$"
SOME_IDS = rf"^{_PLAIN}*[^,\s\x00-\x1f\x7f-\x9f]{_PLAIN}*$"

Name = Annotated[str, StringConstraints(pattern=SOME_TEXT, max_length=LONGEST_NAME)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]

ProductId = Annotated[
    str, Path(pattern=ANY_TEXT, max_length=LONGEST_ID, description="The product's id.", examples=["P00012"])
]
ItemId = Annotated[
    str,
    Query(pattern=SOME_TEXT, max_length=LONGEST_ID, description="The product to start from.", examples=["P00012"]),
]
Count = Annotated[int, Query(ge=1, le=MOST_HITS, description="Largest number of products to return.")]
Side = Annotated[
    int,
    Query(
        ge=LEAST_SIDE,
        le=SIDES[-1],
        description="Pixels that the longer side has at least; a smaller picture is not enlarged.",
    ),
]
ContextIds = Annotated[
    list[Annotated[str, StringConstraints(pattern=SOME_IDS, max_length=LONGEST_QUERY)]],
    Query(
        min_length=1,
        max_length=MOST_CONTEXT,
        description=f"The products of the look so far, at most {MOST_CONTEXT}: repeated, or separated by commas.",
        examples=[["P00012", "P00044"]],
    ),
]
GapCategory = Annotated[
    Name | None,
    Query(description="What is missing: a category path or its first levels. Default: anything.", examples=["Home"]),
]
Pool = Annotated[int, Query(ge=1, le=LARGEST_POOL, description="Number of candidates that are scored; at least k.")]
UseMMR = Annotated[bool, Query(description="Choose products that also differ from each other.")]
Lambda = Annotated[
    float, Query(ge=0, le=1, description="Weight of relevance against variety: 1 is relevance alone, 0 variety alone.")
]

FormCount = Annotated[int, Form(ge=1, le=MOST_HITS, description="Largest number of products to return.")]
CategoryCount = Annotated[
    int, Form(ge=1, le=MOST_CATEGORIES, description="Largest number of category paths to return.")
]
_A_PICTURE = File(
    description=f"A picture of at most {LARGEST_PICTURE // 2**20} MB, not animated. Its type is read from its bytes, "
    "not from its Content-Type."
)
Picture = Annotated[UploadFile, _A_PICTURE]
PictureIfAny = Annotated[UploadFile | None, _A_PICTURE]
Title = Annotated[Name | None, Form(description="The product's title.", examples=["Wooden rattle"])]
Description = Annotated[
    Annotated[str, StringConstraints(pattern=SOME_TEXT, max_length=LONGEST_TEXT)] | None,
    Form(description="The product's description.", examples=["Beech, for babies from three months."]),
]
Candidates = Annotated[
    list[Name],
    Form(
        max_length=MOST_CANDIDATES,
        description="Category paths to rank, repeated, each different; without any, all known ones are ranked.",
        json_schema_extra={"uniqueItems": True},
        examples=[["Toys > Baby", "Home > Rugs"]],
    ),
]


class Strict(BaseModel):
    """Refuse unknown fields, and texts in place of numbers."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _whole(number: object) -> object:
    """Turn 5.0 into 5, because JSON has only one kind of number."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _in_order(filters: Filters) -> Filters:
    low, high = filters.price_min, filters.price_max
    if low is not None and high is not None and low > high:
        raise ValueError("price_min is larger than price_max")
    return filters


class Filters(Strict):
    """Conditions on the products that may be found; a field that is left out does not filter."""

    category: Name | None = Field(
        None, description='A category path or its first levels: "Home" includes "Home > Rugs".'
    )
    brand: Name | None = Field(None, description="This brand, ignoring case.")
    colour: Name | None = Field(None, description="This colour, ignoring case.")
    price_min: Price | None = Field(
        None, description="The lowest price, inclusive. Products without a price do not fit."
    )
    price_max: Price | None = Field(None, description="The highest price, inclusive; at least price_min.")


class SearchQuestion(Strict):
    """A search by text."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "green wool rug", "k": 5, "filters": {"price_max": 120}}]}
    )
    query: Annotated[str, StringConstraints(pattern=SOME_TEXT, max_length=LONGEST_QUERY)] = Field(
        description="What a shopper would type."
    )
    k: Annotated[int, BeforeValidator(_whole)] = Field(
        10, ge=1, le=MOST_HITS, description="Largest number of products to return."
    )
    system: Name | None = Field(
        None, description="The system that searches, one of `/index-info`. Default: the strongest that is built."
    )
    filters: Annotated[Filters, AfterValidator(_in_order)] = Filters()


class Error(BaseModel):
    """The answer of every error."""

    error: str = Field(description="What is wrong, in words.", examples=["k: must be at most 100."])


class Product(BaseModel):
    """A product; unknown fields are null."""

    product_id: str = Field(examples=["P00012"])
    title: str | None = Field(examples=["Green wool rug"])
    description: str | None
    brand: str | None
    colour: str | None
    material: str | None
    price: float | None = Field(description="In the catalogue's currency.", examples=[89.0])
    category_path: str | None = Field(description="From the widest to the narrowest.", examples=["Home > Rugs"])
    attributes: dict[str, Any] = Field(description="Further attributes in the catalogue, by name.")
    image: str | None = Field(description="Address of its picture on this service.", examples=["/images/P00012"])


class Hit(BaseModel):
    """A product that was found."""

    rank: int = Field(ge=1, description="1 is the best.")
    score: float = Field(
        description="Higher is better. `score_means` beside the hits says what it measures; scores of different "
        "systems cannot be compared."
    )
    product: Product


class SearchAnswer(BaseModel):
    """What was found."""

    hits: list[Hit] = Field(description="The best first.")
    system: str = Field(description="The system that found them.", examples=["BM25"])
    score_means: str = Field(description="What the scores measure.", examples=[COSINE])
    note: str = Field(description="Why there are fewer hits than were asked for; else empty.", examples=[""])


class LookAnswer(SearchAnswer):
    """What goes with the context."""

    hits: list[Hit] = Field(
        description="In the order of choice, which with `use_mmr` is not that of the scores: a product may come "
        "earlier because it differs from those chosen before."
    )


class CategoryChance(BaseModel):
    """A category and how likely it is."""

    category_path: str = Field(examples=["Home > Rugs"])
    probability: float = Field(
        description="From 0 to 1; over all categories that were ranked they add up to 1.", examples=[0.83]
    )


class PictureAnswer(SearchAnswer):
    """Products that look like a picture, and what the picture seems to show."""

    categories: list[CategoryChance] = Field(description="The likeliest first.")
    category_note: str = Field(description="Why there are no categories; else empty.", examples=[""])


class CategoryAnswer(BaseModel):
    """Where a product belongs."""

    ranking: list[CategoryChance] = Field(description="The likeliest first.")
    note: str = Field(description="Why not to trust the first; else empty.", examples=[""])
    text_share: float = Field(
        description="The share of the text in the product's vector, 0 to 1; the rest is the picture's."
    )
    neighbours: list[Hit] = Field(description=f"The nearest products of the catalogue. Score: {COSINE}.")


class Cache(BaseModel):
    """How often the vector of a text was in memory, and how often it was not."""

    hits: int
    misses: int


class Health(BaseModel):
    """State of the service: it answers, and how busy it is."""

    status: str = Field(examples=["ok"])
    source: str = Field(description="The catalogue.", examples=["pocket_shop"])
    products: int
    systems: int = Field(description="Number of systems that can search.")
    waiting: int = Field(description="Questions that are waiting for an answer.")
    searches: int = Field(description="Searches by text since the start.")
    batches: int = Field(description="Batches in which they were answered.")
    largest_batch: int = Field(description="Questions in the largest of them.")
    embedding_cache: Cache


class SystemInfo(BaseModel):
    """A system that can search."""

    name: str = Field(examples=["BM25"])
    chapter: str = Field(examples=["chapter01_baseline"])
    score_means: str = Field(description="What its scores measure.")


class IndexInfo(BaseModel):
    """What this service serves."""

    source: str = Field(examples=["pocket_shop"])
    digest: str = Field(description="Of the catalogue's content.")
    profile: str = Field(examples=["pocket"])
    products: int
    systems: list[SystemInfo] = Field(description="The strongest last.")
    runs: dict[str, str] = Field(description="The run of each step that is served.")
    missing: dict[str, str] = Field(description="Parts that are not built, each with the command that builds it.")


class ScoreboardRow(BaseModel):
    """One figure of one system."""

    chapter: str
    system: str
    source: str
    split: str = Field(description="The split of the queries.", examples=["test"])
    metric: str = Field(examples=["nDCG@10"])
    value: float | None
    ci_low: float | None = Field(description="Start of the 95% interval.")
    ci_high: float | None = Field(description="Its end.")
    n_queries: int
    seconds: float | None = Field(description="Time to search for all queries.")


class Scoreboard(BaseModel):
    """Every chapter's figures."""

    rows: list[ScoreboardRow]
