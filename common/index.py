"""Search the nearest embeddings with FAISS: exact (flat), approximate (HNSW graph), or compressed (IVF-PQ codes).

The hits are those of a brute-force search in numpy, also when scores tie: candidates come from FAISS, their scores are
computed again in one way for all, and equal scores are ordered by product id. Source of HNSW: Malkov and Yashunin,
"Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small World graphs" (2018).
`common.quantised_index` explains IVF-PQ, which keeps codes instead of vectors.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from common.atomic import atomic_write, read_json, write_json
from common.digests import file_sha256
from common.encoders import Embeddings, TextEncoder
from common.errors import CourseError, MissingArtifact
from common.index_checks import KINDS, check_embeddings, checked_parameters, checked_products
from common.quantised_index import decode, ivf_pq_bytes, ivf_pq_index
from common.search import Hits, check_request, empty_hits

SEARCH_PARAMETERS = ("ef_search", "nprobe")  # settable attributes of the index
FORMAT = 1
EXTRA_CANDIDATES = 32  # beyond k, so that a rounding difference at the cut decides nothing
ROUNDING = 1e-5  # FAISS's blocked sums differ from ours by less, for vectors of length 1
# Below this share a walk meets mostly forbidden products: scanning the allowed ones is exact and not slower.
FEW_ALLOWED = 0.2
REPEATABLE_UP_TO = 100_000  # products; one thread adds 5,000 a second, and beyond this number build time matters more
QUERIES_PER_BLOCK = 256
VECTORS_PER_SCORING = 50_000  # vectors gathered for scoring: 77 MB at 384 dimensions


class DenseIndex:
    """Index the embeddings of N products. Make one with `build` or `load`.

    ids: product ids, ascending [N]. encoder_id: whose embeddings it holds; it refuses queries of any other. ef_search:
    the candidates that an HNSW search keeps, never fewer than k; more finds more and takes longer. Settable. nprobe:
    the cells that an IVF-PQ search visits, at least 1; the same trade-off. Settable.
    """

    def __init__(
        self, faiss_index: Any, ids: np.ndarray, encoder_id: str, kind: str, parameters: dict[str, int]
    ) -> None:
        self._faiss, self.ids, self.encoder_id = faiss_index, ids, encoder_id
        self.kind, self.parameters = kind, parameters
        self.ef_search, self.nprobe = (parameters.get(name, 0) for name in SEARCH_PARAMETERS)
        self._position = {product_id: at for at, product_id in enumerate(ids)}

    @classmethod
    def build(cls, embeddings: Embeddings, ids: Sequence[str], kind: str = "flat", **parameters: int) -> DenseIndex:
        """Index embeddings [N, D] under N distinct product ids.

        kind: "flat" compares with every product; "hnsw" walks a graph; "ivf_pq" keeps codes instead of vectors, for
        when memory is short. parameters of "hnsw": M (edges per node, 32), ef_construction (200), ef_search (100); of
        "ivf_pq": nlist (cells), m (subvectors), nbits (bits per subvector), nprobe (cells that a search visits), seed,
        with the defaults of `common.quantised_index.ivf_pq_parameters`. Up to 100,000 products are added in one thread,
        so that equal input gives an equal index. Raises CourseError for unknown kinds or parameters, ids that are
        repeated or not str, vectors that are not finite, or too few of them for "ivf_pq".
        """
        if kind not in KINDS:
            raise CourseError(f"index kind {kind!r} is unknown; choose one of {', '.join(KINDS)}.")
        vectors, ids = checked_products(embeddings, ids)
        parameters = checked_parameters(kind, parameters, vectors.shape)
        order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
        ids = np.array([ids[at] for at in order], dtype=object)
        with _threads(1 if kind != "flat" and len(ids) <= REPEATABLE_UP_TO else None):
            faiss_index = _filled_index(kind, np.ascontiguousarray(vectors[order]), parameters)
        return cls(faiss_index, ids, embeddings.encoder_id, kind, parameters)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dimension(self) -> int:
        return self._faiss.d

    @property
    def memory_mb(self) -> float:
        """Return what vectors and graph, or codes and codebooks, take in memory, in 10^6 bytes."""
        if self.kind == "ivf_pq":
            return ivf_pq_bytes(self._faiss) / 1e6
        size = self._faiss.ntotal * self._faiss.d * 4
        if self.kind == "hnsw":
            graph = self._faiss.hnsw
            size += graph.neighbors.size() * 4 + graph.offsets.size() * 8 + graph.levels.size() * 4
        return size / 1e6

    @property
    def vectors(self) -> np.ndarray:
        """Return the vectors [N, D] in the order of `ids`, a read-only view into the index. Raises CourseError for
        "ivf_pq", which does not keep them."""
        import faiss

        if self.kind == "ivf_pq":
            raise CourseError(
                "an index of kind 'ivf_pq' keeps codes, not the vectors; take those from the embeddings it was built "
                "from, or build an index of kind 'flat'."
            )
        if not len(self):
            return np.zeros((0, self.dimension), dtype=np.float32)
        stored = self._exact
        view = faiss.rev_swig_ptr(stored.get_xb(), stored.ntotal * stored.d).reshape(stored.ntotal, stored.d)
        view.flags.writeable = False
        return view

    def search_vectors(
        self,
        embeddings: Embeddings,
        k: int,
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Hits:
        """Return the k products nearest to each of Q embeddings, by inner product, as `common.search.Searcher` does.

        The scores of "ivf_pq" are estimates, the inner products with the decoded vectors, and a row is padded where the
        cells it visits hold fewer than k. Raises CourseError for embeddings of another encoder. Ids in `allowed` and
        `exclude` that are not indexed are ignored.
        """
        request = check_request(embeddings.vectors, k, allowed, exclude, texts=False)
        check_embeddings(embeddings, self.encoder_id, self.dimension)
        hits = empty_hits(len(embeddings), request.k)
        permitted = None if request.allowed is None else self._positions(request.allowed)
        if not len(self) or (permitted is not None and not len(permitted)):
            return hits
        forbidden = [self._positions(ids) for ids in request.exclude] if request.exclude is not None else None
        for start in range(0, len(embeddings), QUERIES_PER_BLOCK):
            rows = np.arange(start, min(start + QUERIES_PER_BLOCK, len(embeddings)))
            self._search_block(embeddings.vectors, rows, request.k, permitted, forbidden, hits)
        return hits

    def nearest(self, queries: np.ndarray, fetch: int, permitted: np.ndarray | None = None) -> np.ndarray:
        """Return the positions [Q, fetch] that FAISS finds for queries [Q, D], -1 for none, without `search_vectors`'
        exactness."""
        import faiss

        if self.kind != "hnsw" or self._allows_few(permitted):
            return self._scan(queries, fetch, permitted)[1]
        parameters = faiss.SearchParametersHNSW(efSearch=max(self.ef_search, fetch), sel=self._selector(permitted))
        return self._faiss.search(queries, fetch, params=parameters)[1]

    def save(self, folder: Path) -> None:
        """Write the index into `folder`, which may hold an older one: a reader finds that one or this one, whole."""
        import faiss

        folder = Path(folder)
        ids = json.dumps(self.ids.tolist(), ensure_ascii=True)
        name = uuid4().hex[:16]  # not the name of files that the older index.json refers to
        with atomic_write(folder / f"{name}.faiss") as temporary:
            faiss.write_index(self._faiss, str(temporary))
            digest = file_sha256(temporary)
        with atomic_write(folder / f"{name}.ids.json") as temporary:
            temporary.write_text(ids, encoding="ascii")
        manifest = {
            "format": FORMAT,
            "name": name,
            "kind": self.kind,
            "parameters": self.parameters
            | {name: getattr(self, name) for name in SEARCH_PARAMETERS if name in self.parameters},
            "encoder_id": self.encoder_id,
            "count": len(self),
            "dimension": self.dimension,
            "index_sha256": digest,
            "ids_sha256": sha256(ids.encode()).hexdigest(),
        }
        write_json(folder / "index.json", manifest)  # the switch: everything that it names is in place
        for old in [*folder.glob("*.faiss"), *folder.glob("*.ids.json")]:
            if not old.name.startswith(name):
                old.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path) -> DenseIndex:
        """Read what `save` wrote. Raises MissingArtifact if there is none, CourseError if it was damaged."""
        import faiss

        folder = Path(folder)
        if not (folder / "index.json").is_file():
            raise MissingArtifact(f"{folder}: no index here. Make it with: python -m chapter01_baseline.reindex")
        manifest = read_json(folder / "index.json")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise CourseError(f"{folder / 'index.json'}: not an index of format {FORMAT}; build the index again.")
        index_file, ids_file = folder / f"{manifest['name']}.faiss", folder / f"{manifest['name']}.ids.json"
        for file, expected in ((index_file, manifest["index_sha256"]), (ids_file, manifest["ids_sha256"])):
            if not file.is_file() or file_sha256(file) != expected:
                raise CourseError(f"{file}: missing or changed since it was written; build the index again.")
        faiss_index, ids = faiss.read_index(str(index_file)), np.array(read_json(ids_file), dtype=object)
        if not len(ids) == faiss_index.ntotal == manifest["count"]:
            raise CourseError(f"{folder}: {faiss_index.ntotal} vectors but {len(ids)} ids; build the index again.")
        return cls(faiss_index, ids, manifest["encoder_id"], manifest["kind"], manifest["parameters"])

    @property
    def _exact(self) -> Any:
        """Return the flat index with the vectors; HNSW keeps one inside."""
        import faiss

        return self._faiss if self.kind == "flat" else faiss.downcast_index(self._faiss.storage)

    def _positions(self, ids: Collection[str]) -> np.ndarray:
        return np.array(sorted(self._position[i] for i in ids if i in self._position), dtype=np.int64)

    def _allows_few(self, permitted: np.ndarray | None) -> bool:
        return permitted is not None and len(permitted) < FEW_ALLOWED * len(self)

    def _selector(self, permitted: np.ndarray | None) -> Any:
        import faiss

        if permitted is None:
            return None
        mask = np.zeros(len(self), dtype=bool)
        mask[permitted] = True
        return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))

    def _scan(self, queries: np.ndarray, fetch: int, permitted: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and positions of the best, best first. IVF-PQ looks at the cells it visits: all of them if few
        products are allowed, for those may be in any cell."""
        import faiss

        selector = self._selector(permitted)
        if self.kind == "ivf_pq":
            nprobe = self._faiss.nlist if self._allows_few(permitted) else self.nprobe
            parameters = faiss.SearchParametersIVF(nprobe=nprobe, sel=selector)
            return self._faiss.search(queries, fetch, params=parameters)
        parameters = None if permitted is None else faiss.SearchParameters(sel=selector)
        return self._exact.search(queries, fetch, params=parameters)

    def _search_block(self, queries, rows, k, permitted, forbidden, hits) -> None:
        """Fill `rows` of hits. A row that may lack a hit (a tie at the cut, a graph walk that found too few) is scanned
        again, wider."""
        total = len(self) if permitted is None else len(permitted)
        ranked = self.kind != "hnsw"  # a scan returns the best in order; a walk may miss some
        fetch = k + (max((len(forbidden[row]) for row in rows), default=0) if forbidden else 0)
        # A walk keeps ef_search candidates anyway.
        fetch = fetch + EXTRA_CANDIDATES if ranked else max(fetch, min(self.ef_search, total))
        while len(rows):
            fetch = min(fetch, total)
            block = np.ascontiguousarray(queries[rows], dtype=np.float32)
            found = self._scan(block, fetch, permitted)[1] if ranked else self.nearest(block, fetch, permitted)
            scores = self._scores(block, found)
            incomplete = []
            for at, row in enumerate(rows):
                count = self._fill(hits, row, found[at], scores[at], None if forbidden is None else forbidden[row])
                if ranked:
                    more = fetch < total and found[at, -1] >= 0
                    retry = more and scores[at].min() >= hits.scores[row, k - 1] - ROUNDING
                else:
                    retry = count < k
                if retry:
                    incomplete.append(row)
            fetch = fetch * 4 if ranked else fetch + EXTRA_CANDIDATES
            rows, ranked = np.array(incomplete, dtype=np.int64), True

    def _scores(self, queries: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Return inner products [Q, F], each summed in the same order, so that equal vectors get equal scores."""
        scores = np.empty(found.shape, dtype=np.float32)
        step = max(1, VECTORS_PER_SCORING // max(1, found.shape[1]))
        for at in range(0, len(queries), step):
            part = slice(at, at + step)
            scores[part] = np.einsum("qd,qfd->qf", queries[part], self._stored(found[part]))
        scores[found < 0] = -np.inf
        return scores

    def _stored(self, found: np.ndarray) -> np.ndarray:
        return decode(self._faiss, found) if self.kind == "ivf_pq" else self.vectors[found]

    def _fill(self, hits: Hits, row: int, found: np.ndarray, scores: np.ndarray, forbidden: np.ndarray | None) -> int:
        keep = found >= 0
        if forbidden is not None and len(forbidden):
            keep &= ~np.isin(found, forbidden)
        found, scores = found[keep], scores[keep]
        order = np.lexsort((found, -scores))[: hits.k]  # positions ascend with the ids
        hits.ids[row, : len(order)] = self.ids[found[order]]
        hits.scores[row, : len(order)] = scores[order]
        return len(order)


class DenseSearcher:
    """Search by meaning, with a text encoder and an index of its embeddings. A `common.search.Searcher`."""

    def __init__(self, encoder: TextEncoder, index: DenseIndex) -> None:
        """Join an encoder and an index. Raises CourseError if the index holds another encoder's embeddings."""
        if encoder.encoder_id != index.encoder_id:
            raise CourseError(
                f"the index holds embeddings of {index.encoder_id!r}, the encoder is {encoder.encoder_id!r}; "
                "build the index again with this encoder."
            )
        self.encoder, self.index = encoder, index

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Hits:
        """Search as `common.search.Searcher` does. A query without words has no hits."""
        request = check_request(queries, k, allowed, exclude)
        asked = [row for row, query in enumerate(request.queries) if query.strip()]
        hits = empty_hits(len(request.queries), request.k)
        if asked:
            embeddings = self.encoder.encode([request.queries[row] for row in asked])
            excluded = [request.exclude[row] for row in asked] if request.exclude is not None else None
            found = self.index.search_vectors(embeddings, request.k, allowed=request.allowed, exclude=excluded)
            hits.ids[asked], hits.scores[asked] = found.ids, found.scores
        return hits


def _filled_index(kind: str, vectors: np.ndarray, parameters: dict[str, int]) -> Any:
    import faiss

    if kind == "ivf_pq":
        return ivf_pq_index(vectors, parameters)
    if kind == "flat":
        index = faiss.IndexFlatIP(vectors.shape[1])
    else:
        index = faiss.IndexHNSWFlat(vectors.shape[1], parameters["M"], faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = parameters["ef_construction"]
    index.add(vectors)
    return index


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    import faiss

    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(count or before)
        yield
    finally:
        faiss.omp_set_num_threads(before)
