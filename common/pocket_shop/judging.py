"""Make the incomplete judgements that a real data set would have: a pool of about 25 products per query.

Nobody can judge every product for every query. What gets judged is what some older engine showed or what shoppers
bought, and everything else is unjudged. The pool here is the union of the top of a plain keyword engine, the top of a
typo-tolerant one, and purchases. Its grades are true; its choice of products is biased, as in such pools.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from common.catalogue import product_text
from common.catalogue.contract import LABEL_OF_GRADE

_KEYWORD_DEPTH, _FUZZY_DEPTH, _PURCHASES = 11, 9, 9


def pool_judgements(products: pd.DataFrame, queries: pd.DataFrame, truth: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Return `judgements` (`query_id, product_id, grade, label`), about 25 per query, grade 0 included.

    `truth` holds `query_id, product_id, grade` > 0. Purchases are drawn from it with a chance that grows with the grade
    and with the product's popularity (Zipf), as clicks would.
    """
    rng = np.random.default_rng(seed)
    titles = products["title"].tolist()
    tops = [
        _tops(titles, queries["query"].tolist(), _KEYWORD_DEPTH, analyzer="word", sublinear_tf=True),
        _tops(product_text(products), queries["query"].tolist(), _FUZZY_DEPTH, analyzer="char_wb", ngram_range=(3, 4)),
    ]
    popularity = pd.Series(1.0 / (1.0 + rng.permutation(len(products))) ** 0.5, index=products["product_id"])
    grades = {query_id: rows.set_index("product_id")["grade"] for query_id, rows in truth.groupby("query_id")}
    ids = products["product_id"].to_numpy()
    pools = []
    for number, query_id in enumerate(queries["query_id"]):
        known = grades[query_id]
        shown = [ids[row] for top in tops for row in top[number]]
        pool = list(dict.fromkeys([*shown, *_purchases(known, popularity, rng)]))
        judged = known.reindex(pool).fillna(0).astype("int64").to_numpy()
        pools.append(pd.DataFrame({"query_id": query_id, "product_id": pool, "grade": judged}))
    judgements = pd.concat(pools, ignore_index=True)
    judgements["label"] = judgements["grade"].map(LABEL_OF_GRADE)
    return judgements


def _tops(documents: list[str], queries: list[str], depth: int, **analysis: object) -> list[np.ndarray]:
    """Return the row numbers of the `depth` best documents by TF-IDF for each query; none that shares no term."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(min_df=1, dtype=np.float32, **analysis)
    matrix = vectorizer.fit_transform(documents).T.tocsr()
    asked = vectorizer.transform(queries)
    tops = []
    for start in range(0, len(queries), 256):
        scores = (asked[start : start + 256] @ matrix).toarray()
        for row in scores:
            best = np.argsort(-row, kind="stable")[:depth]
            tops.append(best[row[best] > 0])
    return tops


def _purchases(known: pd.Series, popularity: pd.Series, rng: np.random.Generator) -> list[str]:
    weights = (10.0 ** known.to_numpy()) * popularity.loc[known.index].to_numpy()
    count = min(_PURCHASES, len(known))
    return list(rng.choice(known.index.to_numpy(), size=count, replace=False, p=weights / weights.sum()))
