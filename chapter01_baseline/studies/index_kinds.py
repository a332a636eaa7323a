"""Build the kinds of index that are compared at scale, and set the parameters that trade their speed for recall.

HNSW walks a graph (`common.index`). IVF searches the cells of a k-means (`common.quantised_index`): it estimates the
scores there from small codes, then scores the best of them again from the refinement's codes. Codes: SQ8 keeps a byte
for each number; PQ fast-scan 4 bits for every 4 numbers, compared 32 products at a time in the processor's registers
(André, Kermarrec and Le Scouarnec 2015, "Cache locality is not enough"); RaBitQ the signs of the numbers, after a
random rotation (Gao and Long 2024, "RaBitQ"). Both refine with SQ8: the exact vectors would take four times as much.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.quantised_index import MIN_VECTORS_PER_CELL, ivf_pq_parameters

QUERY_BITS = 4  # to which RaBitQ rounds a query's numbers
ROWS_AT_ONCE = 50_000
TRAINED_ON = 100_000  # vectors from which SQ8 takes its ranges, and k-means its cells if they need no more

READER = """
import ctypes, os, sys, faiss

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

ctypes.CDLL(None).malloc_trim(0)  # some 25 MB that imports left free would hide a part of the index
before = resident()
index = faiss.read_index(sys.argv[1])
print(resident() - before)
"""

Effort = dict[str, int]
WALKS: tuple[Effort, ...] = tuple(
    {"efSearch": n} for n in (16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 512, 768, 1024, 1536)
)
PROBES: tuple[Effort, ...] = tuple(
    {"nprobe": n, "refine": factor}
    for n, factor in itertools.product((8, 16, 32, 64, 128, 256, 512, 1024, 2048), (8, 32, 128))
)


@dataclass(frozen=True)
class Kind:
    """factory: FAISS's description of the index, with places for `d` (dimension), `m` (d / 4) and `cells`. efforts: the
    search settings that are tried; `refine` times k candidates are scored again."""

    factory: str
    efforts: tuple[Effort, ...]


FLAT, HNSW, HNSW_SQ8 = "Flat", "HNSW32", "HNSW32-SQ8"
KINDS = {
    FLAT: Kind("Flat", ({},)),
    HNSW: Kind("HNSW32", WALKS),
    HNSW_SQ8: Kind("HNSW32_SQ8", WALKS),
    "IVF-PQ fast-scan": Kind("IVF{cells},PQ{m}x4fs,Refine(SQ8)", PROBES),
    "IVF-RaBitQ": Kind("RR{d},IVF{cells},RaBitQ,Refine(SQ8)", PROBES),
}


def cells(count: int, dimension: int) -> int:
    """Return the number of cells of IVF over `count` vectors."""
    return ivf_pq_parameters(count, dimension, {})["nlist"]


def factory(kind: str, count: int, dimension: int) -> str:
    """Return FAISS's description of a kind over `count` vectors."""
    return KINDS[kind].factory.format(d=dimension, m=dimension // 4, cells=cells(count, dimension))


def filled_index(kind: str, products: np.ndarray, ef_construction: int) -> Any:
    """Build a FAISS index of the kind, trained on a sample of products [N, D] and filled with all of them, by row."""
    import faiss

    index = faiss.index_factory(products.shape[1], factory(kind, *products.shape), faiss.METRIC_INNER_PRODUCT)
    if kind in (HNSW, HNSW_SQ8):
        index.hnsw.efConstruction = ef_construction
    if not index.is_trained:
        count = min(len(products), max(TRAINED_ON, MIN_VECTORS_PER_CELL * cells(*products.shape)))
        rows = np.sort(np.random.default_rng(0).choice(len(products), count, replace=False))
        index.train(products[rows])
    for start in range(0, len(products), ROWS_AT_ONCE):
        index.add(np.ascontiguousarray(products[start : start + ROWS_AT_ONCE]))
    return index


def search_parameters(kind: str, effort: Effort) -> Any:
    """Return FAISS's search parameters for an effort; None for Flat, which has none."""
    import faiss

    if not effort:
        return None
    if "efSearch" in effort:
        return faiss.SearchParametersHNSW(**effort)
    if "RaBitQ" in kind:
        scan = faiss.IVFRaBitQSearchParameters(nprobe=effort["nprobe"], qb=QUERY_BITS, centered=False)
        scan = faiss.SearchParametersPreTransform(index_params=scan)
    else:
        scan = faiss.SearchParametersIVF(nprobe=effort["nprobe"])
    return faiss.IndexRefineSearchParameters(k_factor=effort["refine"], base_index_params=scan)


def effort_name(effort: Effort) -> str:
    """Write an effort for people: "nprobe 64, refine 8"."""
    return ", ".join(f"{name} {value}" for name, value in effort.items())


def resident_bytes(file: Path) -> int:
    """Return by how many bytes a separate process grows when it reads the index; elsewhere than on Linux, the size of
    the file, which is about the same."""
    if not sys.platform.startswith("linux"):
        return file.stat().st_size
    done = subprocess.run([sys.executable, "-c", READER, str(file)], capture_output=True, text=True, check=True)
    return int(done.stdout)
