"""Index embeddings in Milvus, with the calls of `common.index.DenseIndex`, in a local file or on a cluster.

    index = MilvusIndex.build(embeddings, ids, "hnsw", uri="shop.db", categories=categories, prices=prices)
    DenseSearcher(encoder, index.only(category="Garden > Tools", price_max=50)).search(["spade"], 10)

Vectors, graph and filters live on the server, and products can change while it is searched. Only the order of the hits
is computed here: candidates come from Milvus with their vectors, are scored in one way for all, and equal scores are
ordered by product id, so that "flat" answers as FAISS does.
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
from common.index import EXTRA_CANDIDATES, ROUNDING
from common.index_checks import check_embeddings, checked_parameters, checked_products
from common.milvus_connection import MilvusConnection, is_local, without_password
from common.milvus_filter import both, checked_price, one_of, product_filter
from common.search import Hits, check_request, hits_from_rows

KINDS = {"flat": "FLAT", "hnsw": "HNSW"}
FORMAT = 1
PROPERTY = "product_search_course"  # of the collection; holds what DenseIndex keeps in index.json
FIELDS = ["product_id", "embedding", "category_path", "price"]
MAX_TEXT_BYTES = 65_535  # the most that Milvus stores
MAX_CANDIDATES = 16_384  # the most that Milvus returns for one query
MAX_EF = 32_768  # the largest ef that it accepts
ROWS_PER_CALL = 1_000  # 1.5 MB at 384 dimensions
VECTORS_PER_CALL = 4_096  # candidates: 6 MB at 384 dimensions
IDS_PER_FILTER = 10_000


class MilvusIndex:
    """Index the embeddings of N products. Make one with `build` or `load`, `close` it when done.

    encoder_id: whose embeddings it holds; it refuses queries of any other. kind: "flat" or "hnsw". ef_search: the
    candidates that an HNSW search keeps, never fewer than are asked for; more finds more and takes longer. Settable.
    How a filtered search walks is up to the server: a cluster scans where few products pass; milvus-lite walks all the
    same and finds fewer of them, which a larger ef_search makes good.
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
        """Index embeddings [N, D] under N distinct product ids, replacing what `collection` held.

        kind, parameters: "flat", or "hnsw" with M, ef_construction and ef_search, as in `DenseIndex.build`. uri: a
        local file, "shop.db", or a server, "http://host:19530", whose token is in `MILVUS_TOKEN`. categories: paths "A
        > B > C"; prices: finite numbers; one per product, None where unknown.

        The new index is filled beside the old one, and the name is switched when it is whole; one process builds at a
        time. Raises CourseError for what `DenseIndex.build` refuses, and if the server does not answer.
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
            index._switch_alias(collection)
        except BaseException:
            connection.close()
            raise
        return index

    @classmethod
    def load(cls, uri: str | Path, collection: str = "products") -> MilvusIndex:
        """Open what `build` made. Raises MissingArtifact if it is not there, CourseError if the server is not, or if
        the collection is not the course's."""
        address = without_password(uri)
        missing = MissingArtifact(f"{address}: no index {collection!r} here. Make it with MilvusIndex.build(…, uri=…).")
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
                raise CourseError(f"{address}: {collection!r} is not an index of format {FORMAT}; build it again.")
            dimension = next(f["params"]["dim"] for f in described["fields"] if f["name"] == "embedding")
            connection.call("load_collection", name, timeout=None)
        except BaseException:
            connection.close()
            raise
        return cls(connection, name, int(dimension), about)

    def close(self) -> None:
        """Disconnect, also for what `only` returned. A local file is released for other processes."""
        self._connection.close()

    def __enter__(self) -> MilvusIndex:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._call("query", filter="", output_fields=["count(*)"])[0]["count(*)"]

    @property
    def ids(self) -> np.ndarray:
        """Return all product ids, ascending [N]; fetched in batches at each call."""
        pages = self._call("query_iterator", batch_size=ROWS_PER_CALL, output_fields=["product_id"])
        try:
            found = [row["product_id"] for page in iter(pages.next, []) for row in page]
        finally:
            pages.close()
        return np.array(sorted(found), dtype=object)

    def only(
        self, *, category: str | None = None, price_min: float | None = None, price_max: float | None = None
    ) -> MilvusIndex:
        """Return this index narrowed to a category and a range of prices, to be given to a `DenseSearcher`.

        category: a path or the start of one, level by level: "Garden" holds "Garden > Tools". Prices: both included. A
        product whose category or price is unknown is in none. Raises CourseError for a price that is no number.
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
        """Return the k nearest products of each of Q embeddings, as `DenseIndex.search_vectors` does.

        k and the products that a query excludes must not exceed 16,384 together. Raises CourseError if they do, and for
        embeddings of another encoder. Ids in `allowed` and `exclude` that are not indexed are ignored.
        """
        request = check_request(embeddings.vectors, k, allowed, exclude, texts=False)
        check_embeddings(embeddings, self.encoder_id, self.dimension)
        excluded = request.exclude or [frozenset()] * len(embeddings)
        wanted = request.k + max(map(len, excluded), default=0)
        if wanted > MAX_CANDIDATES:
            raise CourseError(
                f"search: k and the excluded products are {wanted} together; Milvus gives {MAX_CANDIDATES} a query. "
                "Ask for fewer, or use common.index.DenseIndex."
            )
        queries = np.ascontiguousarray(embeddings.vectors, dtype=np.float32)
        rows: list[tuple[list[str], list[float]]] = [([], []) for _ in range(len(queries))]
        for condition in self._conditions(request.allowed):
            for row, best in zip(rows, self._best(queries, request.k, wanted, excluded, condition), strict=True):
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
        """Add products, replacing those whose ids are indexed already; arguments as in `build`."""
        check_embeddings(embeddings, self.encoder_id, self.dimension)
        for batch in _batches(_rows(embeddings, ids, categories, prices), ROWS_PER_CALL):
            self._call("upsert", batch)

    def set_prices(self, prices: Mapping[str, float | None]) -> None:
        """Change the prices of products, by product id. Raises CourseError, naming one, if some are not indexed;
        batches of 1,000 before it are changed by then."""
        prices = {name: None if price is None else checked_price(price) for name, price in prices.items()}
        for batch in _batches(list(prices), ROWS_PER_CALL):
            rows = self._call("query", filter=one_of(batch), output_fields=FIELDS)
            if missing := set(batch) - {row["product_id"] for row in rows}:
                raise CourseError(f"product {min(missing)!r} is not in the index; add it with upsert.")
            for row in rows:
                row["price"] = prices[row["product_id"]]
            self._call("upsert", [{name: row[name] for name in FIELDS} for row in rows])

    def delete(self, ids: Collection[str]) -> None:
        """Remove products; ids that are not indexed are ignored."""
        for batch in _batches(sorted(set(ids)), ROWS_PER_CALL):
            self._call("delete", filter=one_of(batch))

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._connection.call(method, self._collection, *arguments, **options)

    def _create(self, rows: list[dict[str, Any]], about: Mapping[str, Any]) -> None:
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("product_id", DataType.VARCHAR, is_primary=True, max_length=MAX_TEXT_BYTES)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=self.dimension)
        schema.add_field("category_path", DataType.VARCHAR, max_length=MAX_TEXT_BYTES, nullable=True)
        schema.add_field("price", DataType.DOUBLE, nullable=True)
        properties = {PROPERTY: json.dumps(about)}
        # Session: a search sees all earlier writes through the same index.
        self._call("create_collection", schema=schema, properties=properties, consistency_level="Session")
        for batch in _batches(rows, ROWS_PER_CALL):
            self._call("insert", batch)
        self._call("flush", timeout=None)
        graph = {"M": "M", "ef_construction": "efConstruction"}
        graph = {theirs: self.parameters[ours] for ours, theirs in graph.items() if ours in self.parameters}
        index = MilvusClient.prepare_index_params()
        # pymilvus unpacks params once; a server reads them packed or not, milvus-lite ignores them unless packed.
        index.add_index("embedding", index_type=KINDS[self.kind], metric_type="IP", params={"params": graph})
        self._call("create_index", index, timeout=None)
        self._call("load_collection", timeout=None)

    def _switch_alias(self, alias: str) -> None:
        """Make the alias stand for this collection, and drop what it stood for, or what a killed build left."""
        known = self._connection.collection_of(alias) is not None
        self._call("alter_alias" if known else "create_alias", alias)
        for name in self._connection.call("list_collections"):
            if re.fullmatch(rf"{alias}_[0-9a-f]{{32}}", name) and name != self._collection:
                self._connection.call("drop_collection", name)

    def _conditions(self, allowed: Collection[str] | None) -> Iterator[str]:
        """Yield filters that together let through what is allowed; none if nothing is."""
        if allowed is None:
            yield self._filter
        else:
            for batch in _batches(sorted(allowed), IDS_PER_FILTER):
                yield both(self._filter, one_of(batch))

    def _best(
        self, queries: np.ndarray, k: int, wanted: int, excluded: Sequence[Collection[str]], condition: str
    ) -> list[tuple[list[str], np.ndarray]]:
        """Return for each query the ids and scores of the k best that meet the condition, and of ties with the last. A
        row that may lack one (a tie at the cut, a graph walk that found too few) is searched again, wider."""
        flat = self.kind == "flat"
        fetch = min(wanted + EXTRA_CANDIDATES, MAX_CANDIDATES) if flat else wanted
        ef = min(max(self.ef_search, wanted), MAX_EF)
        answers: list[Any] = [None] * len(queries)
        todo = np.arange(len(queries))
        while len(todo):
            unsure = []
            for row, (ids, scores) in zip(todo, self._candidates(queries[todo], fetch, ef, condition), strict=True):
                kept = np.array([product_id not in excluded[row] for product_id in ids], dtype=bool)
                kth = np.sort(scores[kept])[-k] if kept.sum() >= k else -np.inf
                best = np.flatnonzero(kept & (scores >= kth))
                answers[row] = [ids[at] for at in best], scores[best]
                next_may_tie = len(ids) == fetch and scores.min() >= kth - ROUNDING
                if next_may_tie if flat else len(best) < k:
                    unsure.append(row)
            if (fetch == MAX_CANDIDATES) if flat else (ef == MAX_EF):
                break
            todo = np.array(unsure, dtype=np.int64)
            fetch, ef = (min(fetch * 4, MAX_CANDIDATES), ef) if flat else (fetch, MAX_EF)
        return answers

    def _candidates(
        self, queries: np.ndarray, fetch: int, ef: int, condition: str
    ) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield what Milvus finds for each query: ids, and scores that are each summed in the same order."""
        for block in _batches(queries, max(1, VECTORS_PER_CALL // fetch)):
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
    """Return the products as Milvus takes them; what is unknown (None, NaN) is None there."""
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
