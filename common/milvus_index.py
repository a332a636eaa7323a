"""The dense index on Milvus: the calls of `common.index.DenseIndex`, over a local file or a cluster by its address.

    index = MilvusIndex.build(embeddings, ids, "hnsw", uri="shop.db", categories=categories, prices=prices)
    DenseSearcher(encoder, index.only(category="Garden > Tools", price_max=50)).search(["spade"], 10)

What is past one machine is the server's: vectors, graph and filters live there, and products change while it is
searched. What stays here is the course's order of hits: candidates come from Milvus with their vectors, are scored one
way for all, and equal scores are put in the order of the product ids, so that "flat" answers as FAISS does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd

from common.encoders import Embeddings
from common.errors import CourseError, MissingArtifact
from common.index import ROUNDING, SPARE, checked_parameters, checked_products
from common.milvus_connection import MilvusConnection, is_local, without_password
from common.milvus_filter import both, checked_price, one_of, product_filter
from common.search import Hits, check_request, hits_from_rows

KINDS = {"flat": "FLAT", "hnsw": "HNSW"}
FORMAT = 1
PROPERTY = "product_search_course"  # of the collection: what DenseIndex keeps in index.json
FIELDS = ["product_id", "embedding", "category_path", "price"]
LONGEST_TEXT = 65_535  # bytes, the most that Milvus stores
MOST_CANDIDATES = 16_384  # that Milvus gives for one query
WIDEST_WALK = 32_768  # the most that it takes for ef
ROWS_A_CALL = 1_000  # written or read at once: 1.5 MB at 384 dimensions
VECTORS_A_CALL = 4_096  # candidates that come back at once: 6 MB at 384 dimensions
IDS_A_FILTER = 10_000


class MilvusIndex:
    """An index over the embeddings of N products. Make one with `build` or `load`, `close` it when done.

    encoder_id: whose embeddings it holds, the only ones it can be asked with. kind: "flat" or "hnsw". ef_search: how
    many candidates an HNSW search keeps; more finds more and takes longer. Settable; never less than what is asked for
    is used. Under a filter the walk is the server's affair: a cluster scans where few products pass, milvus-lite walks
    all the same and finds fewer of them, which a larger ef_search makes good.
    """

    def __init__(self, connection: MilvusConnection, collection: str, dimension: int, about: Mapping[str, Any]) -> None:
        self._connection, self._collection, self.dimension = connection, collection, dimension
        self.encoder_id, self.kind, self.parameters = about["encoder_id"], about["kind"], about["parameters"]
        self.ef_search = self.parameters.get("ef_search", 0)
        self._filter = ""

    @classmethod
    def build(
        cls,
        embeddings: Embeddings,
        ids: Sequence[str],
        kind: str = "flat",
        *,
        uri: str | Path,
        collection: str = "products",
        categories: Sequence[str | None] | None = None,
        prices: Sequence[float | None] | None = None,
        **parameters: int,
    ) -> MilvusIndex:
        """Index embeddings [N, D] under N distinct product ids, in place of what `collection` held.

        kind, parameters: "flat", or "hnsw" with M, ef_construction and ef_search, as in `DenseIndex.build`. uri: a
        local file, "shop.db", or a server, "http://host:19530", whose token is in `MILVUS_TOKEN`. categories: paths
        "A > B > C"; prices: finite numbers; one a product, None where unknown.

        The new index is filled beside the old one, and the name is switched when it is whole; one builds at a time.
        Raises CourseError for what `DenseIndex.build` refuses, and where the server does not answer.
        """
        if kind not in KINDS:
            raise CourseError(f"index kind {kind!r} is unknown on Milvus; choose one of {', '.join(KINDS)}.")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,199}", collection):
            raise CourseError(f"collection {collection!r}: use letters, digits and '_', a letter first.")
        rows = _rows(embeddings, ids, categories, prices)
        parameters = checked_parameters(kind, parameters, embeddings.vectors.shape)
        about = {"format": FORMAT, "encoder_id": embeddings.encoder_id, "kind": kind, "parameters": parameters}
        if is_local(uri):
            Path(uri).parent.mkdir(parents=True, exist_ok=True)
        connection = MilvusConnection(uri)
        try:
            index = cls(connection, f"{collection}_{uuid4().hex}", embeddings.vectors.shape[1], about)
            index._create(rows, about)
            index._take_over(collection)
        except BaseException:
            connection.close()
            raise
        return index

    @classmethod
    def load(cls, uri: str | Path, collection: str = "products") -> MilvusIndex:
        """Open what `build` made. Raises MissingArtifact if it is not there, CourseError if the server is not, or if
        the collection is not the course's."""
        shown = without_password(uri)
        missing = MissingArtifact(f"{shown}: no index {collection!r} here. Make it with MilvusIndex.build(…, uri=…).")
        if is_local(uri) and not Path(uri).exists():
            raise missing
        connection = MilvusConnection(uri)
        try:
            name = connection.collection_of(collection)
            if name is None:
                raise missing
            described = connection.call("describe_collection", name)
            about = json.loads(described["properties"].get(PROPERTY, "{}"))
            if about.get("format") != FORMAT:
                raise CourseError(f"{shown}: {collection!r} is not an index of format {FORMAT}; build it again.")
            dimension = next(f["params"]["dim"] for f in described["fields"] if f["name"] == "embedding")
            connection.call("load_collection", name, timeout=None)
        except BaseException:
            connection.close()
            raise
        return cls(connection, name, int(dimension), about)

    def close(self) -> None:
        """Hang up, also for what `only` returned. A local file becomes free for other processes."""
        self._connection.close()

    def __enter__(self) -> MilvusIndex:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._call("query", filter="", output_fields=["count(*)"])[0]["count(*)"]

    @property
    def ids(self) -> np.ndarray:
        """All product ids, ascending [N]; fetched, in batches, each time it is asked for."""
        pages = self._call("query_iterator", batch_size=ROWS_A_CALL, output_fields=["product_id"])
        try:
            found = [row["product_id"] for page in iter(pages.next, []) for row in page]
        finally:
            pages.close()
        return np.array(sorted(found), dtype=object)

    def only(
        self, *, category: str | None = None, price_min: float | None = None, price_max: float | None = None
    ) -> MilvusIndex:
        """The same index, finding only products in a category and a range of prices; to be given to a `DenseSearcher`.

        category: a path or the start of one, level by level: "Garden" holds "Garden > Tools". Prices: both included.
        A product whose category or price is unknown is in none. Raises CourseError for a price that is no number.
        """
        narrowed = copy(self)
        narrowed._filter = both(self._filter, product_filter(category, price_min, price_max))
        return narrowed

    def search_vectors(
        self,
        embeddings: Embeddings,
        k: int,
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Hits:
        """The k nearest products for each of Q embeddings, as `DenseIndex.search_vectors` gives them.

        k and the products that a query excludes must not exceed 16,384 together. Raises CourseError if they do, and if
        the embeddings are of another encoder. Ids in `allowed` and `exclude` that are not indexed are ignored.
        """
        request = check_request(embeddings.vectors, k, allowed, exclude, texts=False)
        self._check_fit(embeddings)
        left_out = request.exclude or [frozenset()] * len(embeddings)
        wanted = request.k + max(map(len, left_out), default=0)
        if wanted > MOST_CANDIDATES:
            raise CourseError(
                f"search: k and the excluded products are {wanted} together; Milvus gives {MOST_CANDIDATES} a query. "
                "Ask for fewer, or use common.index.DenseIndex."
            )
        queries = np.ascontiguousarray(embeddings.vectors, dtype=np.float32)
        rows: list[tuple[list[str], list[float]]] = [([], []) for _ in range(len(queries))]
        for condition in self._conditions(request.allowed):
            for row, best in zip(rows, self._best(queries, request.k, wanted, left_out, condition), strict=True):
                row[0].extend(best[0])
                row[1].extend(best[1])
        return hits_from_rows(rows, request.k)

    def upsert(
        self,
        embeddings: Embeddings,
        ids: Sequence[str],
        *,
        categories: Sequence[str | None] | None = None,
        prices: Sequence[float | None] | None = None,
    ) -> None:
        """Add products, and replace those whose ids are there; arguments as in `build`."""
        self._check_fit(embeddings)
        for batch in _batches(_rows(embeddings, ids, categories, prices), ROWS_A_CALL):
            self._call("upsert", batch)

    def set_prices(self, prices: Mapping[str, float | None]) -> None:
        """New prices of products, by product id. Raises CourseError, naming one, if some are not indexed; batches of
        1,000 before it are changed by then."""
        prices = {name: None if price is None else checked_price(price) for name, price in prices.items()}
        for batch in _batches(list(prices), ROWS_A_CALL):
            rows = self._call("query", filter=one_of(batch), output_fields=FIELDS)
            if missing := set(batch) - {row["product_id"] for row in rows}:
                raise CourseError(f"product {min(missing)!r} is not in the index; add it with upsert.")
            for row in rows:
                row["price"] = prices[row["product_id"]]
            self._call("upsert", [{name: row[name] for name in FIELDS} for row in rows])

    def delete(self, ids: Collection[str]) -> None:
        """Remove products; ids that are not indexed are ignored."""
        for batch in _batches(sorted(set(ids)), ROWS_A_CALL):
            self._call("delete", filter=one_of(batch))

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._connection.call(method, self._collection, *arguments, **options)

    def _create(self, rows: list[dict[str, Any]], about: Mapping[str, Any]) -> None:
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("product_id", DataType.VARCHAR, is_primary=True, max_length=LONGEST_TEXT)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=self.dimension)
        schema.add_field("category_path", DataType.VARCHAR, max_length=LONGEST_TEXT, nullable=True)
        schema.add_field("price", DataType.DOUBLE, nullable=True)
        properties = {PROPERTY: json.dumps(about)}
        # Session: a search sees what was written through the same index before it.
        self._call("create_collection", schema=schema, properties=properties, consistency_level="Session")
        for batch in _batches(rows, ROWS_A_CALL):
            self._call("insert", batch)
        self._call("flush", timeout=None)
        graph = {"M": "M", "ef_construction": "efConstruction"}
        graph = {theirs: self.parameters[ours] for ours, theirs in graph.items() if ours in self.parameters}
        index = MilvusClient.prepare_index_params()
        # pymilvus unpacks params once; a server reads them packed or not, milvus-lite ignores them unless packed.
        index.add_index("embedding", index_type=KINDS[self.kind], metric_type="IP", params={"params": graph})
        self._call("create_index", index, timeout=None)
        self._call("load_collection", timeout=None)

    def _take_over(self, alias: str) -> None:
        """Make the alias stand for this collection, and drop what it stood for, or what a killed build left."""
        known = self._connection.collection_of(alias) is not None
        self._call("alter_alias" if known else "create_alias", alias)
        for name in self._connection.call("list_collections"):
            if re.fullmatch(rf"{alias}_[0-9a-f]{{32}}", name) and name != self._collection:
                self._connection.call("drop_collection", name)

    def _check_fit(self, embeddings: Embeddings) -> None:
        if embeddings.encoder_id != self.encoder_id:
            raise CourseError(
                f"this index holds embeddings of {self.encoder_id!r}, not of {embeddings.encoder_id!r}; load that "
                "encoder, or build the index again with yours."
            )
        if embeddings.vectors.ndim != 2 or embeddings.vectors.shape[1] != self.dimension:
            raise CourseError(
                f"embeddings {embeddings.vectors.shape} do not fit an index of {self.dimension} dimensions."
            )

    def _conditions(self, allowed: Collection[str] | None) -> Iterator[str]:
        """Filters that share out what may be found: none if nothing may."""
        if allowed is None:
            yield self._filter
        else:
            for batch in _batches(sorted(allowed), IDS_A_FILTER):
                yield both(self._filter, one_of(batch))

    def _best(
        self, queries: np.ndarray, k: int, wanted: int, left_out: Sequence[Collection[str]], condition: str
    ) -> list[tuple[list[str], np.ndarray]]:
        """For each query the ids and scores of the k best that meet the condition, and of what ties with the last. A
        row that may lack one (a tie across the cut, a graph walk that fell short) is searched again, wider."""
        flat = self.kind == "flat"
        fetch = min(wanted + SPARE, MOST_CANDIDATES) if flat else wanted
        ef = min(max(self.ef_search, wanted), WIDEST_WALK)
        answers: list[Any] = [None] * len(queries)
        todo = np.arange(len(queries))
        while len(todo):
            unsure = []
            for row, (ids, scores) in zip(todo, self._candidates(queries[todo], fetch, ef, condition), strict=True):
                kept = np.array([product_id not in left_out[row] for product_id in ids], dtype=bool)
                kth = np.sort(scores[kept])[-k] if kept.sum() >= k else -np.inf
                best = np.flatnonzero(kept & (scores >= kth))
                answers[row] = [ids[at] for at in best], scores[best]
                next_may_tie = len(ids) == fetch and scores.min() >= kth - ROUNDING
                if next_may_tie if flat else len(best) < k:
                    unsure.append(row)
            if (fetch == MOST_CANDIDATES) if flat else (ef == WIDEST_WALK):
                break
            todo = np.array(unsure, dtype=np.int64)
            fetch, ef = (min(fetch * 4, MOST_CANDIDATES), ef) if flat else (fetch, WIDEST_WALK)
        return answers

    def _candidates(
        self, queries: np.ndarray, fetch: int, ef: int, condition: str
    ) -> Iterator[tuple[list[str], np.ndarray]]:
        """What Milvus finds for each query: ids and, each summed in the same order, scores."""
        for block in _batches(queries, max(1, VECTORS_A_CALL // fetch)):
            found = self._call(
                "search",
                data=list(block),
                anns_field="embedding",
                filter=condition,
                limit=fetch,
                output_fields=["embedding"],
                search_params={"params": {"ef": ef} if self.kind == "hnsw" else {}},
            )
            for query, hits in zip(block, found, strict=True):
                vectors = np.array([hit["embedding"] for hit in hits], dtype=np.float32)
                scores = np.einsum("qd,qfd->qf", query[None], vectors.reshape(1, len(hits), self.dimension))
                yield [hit["product_id"] for hit in hits], scores[0]


def _rows(
    embeddings: Embeddings, ids: Sequence[str], categories: Sequence | None, prices: Sequence | None
) -> list[dict[str, Any]]:
    """The products as Milvus takes them; what is unknown (None, NaN) is None there."""
    vectors, ids = checked_products(embeddings, ids)
    columns = [[None] * len(ids) if column is None else list(column) for column in (categories, prices)]
    for name, column in zip(FIELDS[2:], columns, strict=True):
        if len(column) != len(ids):
            raise CourseError(f"index: {len(column)} values of {name} for {len(ids)} products; give one a product.")
    categories, prices = ([None if pd.isna(value) else value for value in column] for column in columns)
    prices = [None if price is None else checked_price(price) for price in prices]
    return [dict(zip(FIELDS, row, strict=True)) for row in zip(ids, vectors, categories, prices, strict=True)]


def _batches(items: Any, size: int) -> Iterator[Any]:
    return (items[at : at + size] for at in range(0, len(items), size))
