"""Query expansion: search once, read the best answers, search again with what they say.

Pseudo-relevance feedback takes the first hits for relevant without asking anybody. Where they are, the second search
finds products that the shopper's words missed; where they are not, it runs after its own mistakes. Expect recall to
rise and the top ranks to gain or lose little: measure before you switch it on, and choose its strength on validation
queries (`choose_feedback`).

RM3 and Rocchio are chosen and measured by the chapter's steps. `GenerativeExpander` and `ExpandedSearcher` are used by
no step, as a language model is large: they are here to try. Two lines put them in front of any searcher:

    expander = GenerativeExpander("google/flan-t5-base", cache=Path("expansions.json"))
    searcher = ExpandedSearcher(searcher, expander)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from chapter01_baseline.keyword import KeywordSearcher
from common.artifacts import fingerprint, read_json, write_json
from common.encoders import Embeddings
from common.errors import CourseError
from common.evaluation import evaluate
from common.index import DenseSearcher
from common.progress import progress
from common.search import Hits, Searcher, check_request, empty_hits


class RocchioSearcher:
    """Moves the query's vector towards the mean vector of its first hits, and searches again.

    q' = q + beta * mean(first `n_feedback` hits), normalised. Rocchio also moves away from what is irrelevant, which no
    first hit says. Source: Rocchio, "Relevance feedback in information retrieval" (1971); in embedding space:
    Li et al., "Pseudo Relevance Feedback with Deep Language Models and Dense Retrievers" (2021).

    dense: the searcher of the first and second search. embeddings: the product vectors [N, D] that its index was built
    from, in the order of product_ids. beta = 0 gives back `dense`. Raises CourseError if the encoders differ.
    """

    def __init__(
        self,
        dense: DenseSearcher,
        embeddings: Embeddings,
        product_ids: Sequence[str],
        *,
        beta: float = 0.3,
        n_feedback: int = 5,
    ) -> None:
        if embeddings.encoder_id != dense.encoder.encoder_id:
            raise CourseError(
                f"Rocchio: the vectors are of encoder {embeddings.encoder_id}, the queries of "
                f"{dense.encoder.encoder_id}; encode the products again."
            )
        if len(product_ids) != len(embeddings.vectors):
            raise CourseError(f"Rocchio: {len(product_ids)} product ids for {len(embeddings.vectors)} vectors.")
        self.dense, self.vectors = dense, embeddings.vectors
        self.positions = {product_id: at for at, product_id in enumerate(product_ids)}
        self.beta, self.n_feedback = beta, n_feedback

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Hits:
        """The k best products of each query; see `common.search.Searcher`. Feedback obeys `allowed` and `exclude`."""
        request = check_request(queries, k, allowed, exclude)
        if not request.queries:
            return empty_hits(0, request.k)
        filters = {"allowed": request.allowed, "exclude": request.exclude}
        encoded = self.dense.encoder.encode(request.queries)
        first = self.dense.index.search_vectors(encoded, self.n_feedback, **filters)
        moved = np.stack([self._move(encoded.vectors[row], first.ids[row]) for row in range(len(first))])
        hits = self.dense.index.search_vectors(Embeddings(moved, encoded.encoder_id), request.k, **filters)
        blank = [row for row, query in enumerate(request.queries) if not query.strip()]
        hits.ids[blank], hits.scores[blank] = None, -np.inf
        return hits

    def _move(self, query: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """The query's vector [D] after feedback from its first hits, best first."""
        found = [self.positions[product_id] for product_id in ids if product_id is not None]
        if not found:
            return query
        moved = query + self.beta * self.vectors[found].mean(axis=0)
        return (moved / max(float(np.linalg.norm(moved)), 1e-12)).astype(np.float32)


class RM3Searcher:
    """Adds to the query's words those that stand out in its first hits (RM3), and searches again by BM25.

    Relevance model: p(w | R) = sum over the first `n_feedback` hits D of p(D | q) * tf(w, D) / |D|, where p(D | q) is
    the BM25 score normalised to sum 1; words without discrimination (in more than `common_share` of all products) are
    left out; the `n_terms` likeliest stay. New weights: (1 - weight) * p(w | q) + weight * p(w | R).
    Source: Lavrenko and Croft, "Relevance-based language models" (SIGIR 2001); Abdul-Jaleel et al., "UMass at TREC
    2004"; BM25 scores as p(D | q) as in Anserini.

    keyword: first and second search. product_texts: product id -> the text that `keyword` was built from.
    weight: share of the feedback, 0 gives back the ranking of `keyword`, 1 forgets the query.
    """

    def __init__(
        self,
        keyword: KeywordSearcher,
        product_texts: Mapping[str, str],
        *,
        weight: float = 0.3,
        n_feedback: int = 5,
        n_terms: int = 10,
        common_share: float = 0.1,
    ) -> None:
        if not 0 <= weight <= 1:
            raise CourseError(f"RM3: weight must be between 0 and 1, not {weight!r}.")
        self.keyword, self.product_texts, self.weight = keyword, product_texts, weight
        self.n_feedback, self.n_terms, self.common_share = n_feedback, n_terms, common_share

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Hits:
        """The k best products of each query; see `common.search.Searcher`. Feedback obeys `allowed` and `exclude`."""
        request = check_request(queries, k, allowed, exclude)
        filters = {"allowed": request.allowed, "exclude": request.exclude}
        first = self.keyword.search(request.queries, self.n_feedback, **filters)
        weights = [self.expand(query, first.row(row)) for row, query in enumerate(request.queries)]
        return self.keyword.search_terms(weights, request.k, **filters)

    def expand(self, query: str, feedback: Sequence[tuple[str, float]]) -> dict[str, float]:
        """Token weights of the expanded query, summing to 1. feedback: (product id, BM25 score) of the first hits."""
        own = _shares(Counter(self.keyword.tokenize(query)))
        model = self.relevance_model(feedback)
        if not own or not model:
            return own
        return {
            token: (1 - self.weight) * own.get(token, 0.0) + self.weight * model.get(token, 0.0)
            for token in own | model
            if self.weight < 1 or token in model
        }

    def relevance_model(self, feedback: Sequence[tuple[str, float]]) -> dict[str, float]:
        """p(w | R) of the `n_terms` likeliest words, summing to 1; ties by the word itself."""
        totals: Counter[str] = Counter()
        belief = _shares(dict(feedback))
        for product_id, share in belief.items():
            for token, likelihood in _shares(Counter(self.keyword.tokenize(self.product_texts[product_id]))).items():
                totals[token] += share * likelihood
        limit = self.common_share * len(self.keyword.product_ids)
        rare = [(token, p) for token, p in totals.items() if self.keyword.document_frequency(token) <= limit]
        return _shares(dict(sorted(rare, key=lambda item: (-item[1], item[0]))[: self.n_terms]))


def _shares(counts: Mapping[str, float]) -> dict[str, float]:
    """Counts divided by their sum."""
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()}


class ExpandedSearcher:
    """Searches with the query plus the words that an expander writes for it; itself a Searcher.

    expand: queries -> one added text each (`GenerativeExpander`, or any function). repeat: how often the query's own
    words stand before the added ones, so that these do not drown them (Wang et al., "Query2doc", 2023, repeat 5).
    """

    def __init__(self, searcher: Searcher, expand: Callable[[Sequence[str]], list[str]], *, repeat: int = 3) -> None:
        self.searcher, self.expand, self.repeat = searcher, expand, repeat

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Hits:
        """The k best products of each query; see `common.search.Searcher`."""
        request = check_request(queries, k, allowed, exclude)
        added = self.expand(request.queries)
        texts = [
            " ".join([*[query] * self.repeat, extra]) if query.strip() else ""
            for query, extra in zip(request.queries, added, strict=True)
        ]
        return self.searcher.search(texts, request.k, allowed=request.allowed, exclude=request.exclude)


PROMPT = "Write words that a shop would use to describe products for the search: {query}"


class GenerativeExpander:
    """A sequence-to-sequence language model writes an expansion for each query. For profile `full`: the model is large.

    model_name: a hub name such as "google/flan-t5-base", or a local folder. cache: a JSON file of expansions already
    written (keyed by model, prompt and length); None keeps them in memory. Decoding is greedy, so it is repeatable.
    Source: Wang, Yang, Wei, "Query2doc" (EMNLP 2023); Jagerman et al., "Query expansion by prompting" (2023).
    """

    def __init__(
        self,
        model_name: str = "google/flan-t5-base",
        *,
        prompt: str = PROMPT,
        max_new_tokens: int = 32,
        batch_size: int = 16,
        cache: Path | None = None,
    ) -> None:
        self.model_name, self.prompt, self.max_new_tokens = model_name, prompt, max_new_tokens
        self.batch_size, self.cache = batch_size, cache
        self._key = fingerprint([model_name, prompt, max_new_tokens])
        stored = read_json(cache) if cache is not None and Path(cache).exists() else {}
        self._known: dict[str, str] = stored.get(self._key, {})

    def __call__(self, queries: Sequence[str]) -> list[str]:
        """One expansion a query, "" for an empty query."""
        missing = sorted({query for query in queries if query.strip()} - self._known.keys())
        if missing:
            self._known.update(zip(missing, self._generate(missing), strict=True))
            if self.cache is not None:
                stored = read_json(self.cache) if Path(self.cache).exists() else {}
                write_json(self.cache, stored | {self._key: self._known})
        return [self._known.get(query, "") for query in queries]

    def _generate(self, queries: list[str]) -> list[str]:
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer = AutoTokenizer.from_pretrained(self.model_name)
        model = AutoModelForSeq2SeqLM.from_pretrained(self.model_name, use_safetensors=True).eval().to(device)
        texts: list[str] = []
        for start in progress(range(0, len(queries), self.batch_size), desc="expanding queries"):
            prompts = [self.prompt.format(query=query) for query in queries[start : start + self.batch_size]]
            batch = tokenizer(prompts, return_tensors="pt", padding=True, truncation=True, max_length=256).to(device)
            with torch.inference_mode():
                written = model.generate(**batch, max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1)
            texts += tokenizer.batch_decode(written, skip_special_tokens=True)
        return texts


def choose_feedback(
    build: Callable[..., Searcher],
    grid: Iterable[Mapping[str, float]],
    queries: Sequence[str],
    query_ids: Sequence[str],
    judgements: pd.DataFrame,
    *,
    metric: str = "nDCG@10",
    depth: int = 200,
    gains: str = "linear",
) -> tuple[dict[str, float], pd.DataFrame]:
    """The settings of `grid` with the best mean metric on validation queries, and the table of all of them.

    build: settings -> Searcher, for instance `lambda **s: RM3Searcher(keyword, texts, **s)`. The first of equally good
    settings wins: put "no feedback" first, so that feedback which gains nothing is not switched on.
    """
    rows = []
    for settings in grid:
        hits = build(**settings).search(queries, depth)
        scores = evaluate(hits, query_ids, judgements, metrics=[metric], gains=gains)
        rows.append({**settings, metric: float(scores[metric].mean())})
    if not rows:
        raise CourseError("choose_feedback: the grid is empty; give at least one mapping of settings.")
    table = pd.DataFrame(rows)
    best = rows[int(np.argmax(table[metric].round(9)))]
    return {name: value for name, value in best.items() if name != metric}, table
