"""Queries a second of HNSW32-SQ8 beside Flat, over a generated catalogue: for shoppers' queries, and for products."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from chapter01_baseline.studies.index_at_scale import IndexAtScaleConfig, load_vectors, measured, resolved
from chapter01_baseline.studies.index_growth import headline
from chapter01_baseline.studies.index_kinds import FLAT, HNSW, HNSW_SQ8
from chapter01_baseline.studies.stand_in import PRODUCTS, SHOPPERS, STAND_IN


def main(size: int | None = None, **settings: Any) -> list[dict[str, Any]]:
    """Measure both indices anew, one row for each kind of query; indices that were built before are read.

    size: products, by default the profile's. settings: other fields of `IndexAtScaleConfig`.
    """
    asked = IndexAtScaleConfig(size=size, kinds=(FLAT, HNSW, HNSW_SQ8), **settings)
    return [_row(resolved(replace(asked, queries=queries))) for queries in (SHOPPERS, PRODUCTS)]


def _row(config: IndexAtScaleConfig) -> dict[str, Any]:
    points = measured(config, load_vectors(config))
    found, chosen = headline(points), points[points["chosen"]].set_index("kind")
    made, threads = "stand-in" if config.encoder == STAND_IN else config.encoder, chosen["threads"][FLAT]
    return {
        "name": f"index-at-scale, {config.size:,} products, asked by {config.queries}",
        "ours": f"HNSW32-SQ8, {chosen['effort'][HNSW_SQ8]}",
        "peer": "faiss.IndexFlatIP",
        "unit": "queries/s",
        "our_value": round(float(chosen["queries_per_second"][HNSW_SQ8]), 1),
        "peer_value": round(float(chosen["queries_per_second"][FLAT]), 1),
        "ratio": round(found["times_flat"], 2),
        "recall": round(found["recall"], 4),
        "memory_share": round(found["memory_share"], 3),
        "note": f"{made} vectors, batches of {config.batch:,}, {threads} threads; memory as a share of HNSW32's",
    }
