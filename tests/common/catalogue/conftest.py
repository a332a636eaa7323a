"""Catalogues and files to test with. All generated here; nothing comes from a public data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_artifacts(tmp_path_factory, monkeypatch):
    """No test writes into, or reads from, the artifacts of the person who runs it."""
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path_factory.mktemp("artifacts")))
    monkeypatch.delenv("COURSE_DATA_HOME", raising=False)


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    """A small catalogue with something in every table."""
    return {
        "products": pd.DataFrame(
            {
                "product_id": ["p1", "p2", "p3"],
                "title": ["Red mug", "كوب أزرق 🫖", "שולחן עץ"],
                "brand": ["Acme", None, "Oak & Co"],
                "price": [4.5, None, 120.0],
                "attributes": ['{"volume": "300 ml", "dishwasher safe": true}', None, None],
                "group_id": ["g1", "g1", None],
                "split": ["train", "train", "test"],
            }
        ),
        "queries": pd.DataFrame(
            {
                "query_id": ["q1", "q2"],
                "query": ["red mug", "table"],
                "kind": ["category", None],
                "split": ["train", "test"],
            }
        ),
        "judgements": pd.DataFrame(
            {
                "query_id": ["q1", "q1", "q2"],
                "product_id": ["p1", "p2", "p3"],
                "grade": [3, 2, 0],
                "label": ["E", "S", None],
            }
        ),
        "category_candidates": pd.DataFrame(
            {
                "product_id": ["p1", "p1"],
                "category_path": ["Kitchen > Mugs", "Kitchen"],
                "is_true": [True, False],
                "position": [0, 1],
            }
        ),
        "pairs": pd.DataFrame({"a_id": ["p1"], "b_id": ["p3"], "label": [1], "outfit_id": ["o1"], "split": ["train"]}),
        "truth": pd.DataFrame({"query_id": ["q1", "q1"], "product_id": ["p1", "p2"], "grade": [3, 2]}),
        "captions": pd.DataFrame({"product_id": ["p1"], "caption": ["a red mug on a table"]}),
    }


@pytest.fixture
def draw(tmp_path):
    """`draw(name, colour)` writes a small one-colour picture and returns its path."""

    def write(
        name: str, colour: tuple[int, int, int] = (200, 30, 40), size: tuple[int, int] = (32, 24), **options
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path, **options)
        return path

    return write


@pytest.fixture
def noise_jpeg(tmp_path) -> Path:
    """A picture whose file is long enough to be cut in the middle."""
    path = tmp_path / "noise.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def esci_home(tmp_path, monkeypatch) -> Path:
    """A data home with generated rows in the true schema of ESCI: 40 products, 12 queries, two locales.

    ``B000`` is in both locales with other texts. Query 1 and query 2 are the same words in train and test.
    """
    home = tmp_path / "home"
    (home / "esci").mkdir(parents=True)
    locales = ["us"] * 30 + ["es"] * 10
    ids = [f"B{n:03d}" for n in range(30)] + [f"B{n:03d}" for n in range(10)]
    pd.DataFrame(
        {
            "product_id": ids,
            "product_title": [f"{locale} kettle {pid}" for pid, locale in zip(ids, locales, strict=True)],
            "product_description": ["<p>Boils <b>water</b> &amp; milk</p>" if n % 2 else None for n in range(40)],
            "product_bullet_point": ["Steel body\nOne litre"] * 40,
            "product_brand": ["Acme", None] * 20,
            "product_color": [None, "Red"] * 20,
            "product_locale": locales,
        }
    ).to_parquet(home / "esci" / "shopping_queries_dataset_products.parquet")
    rows = []
    for query in range(12):
        locale = "us" if query < 9 else "es"
        words = "steel kettle" if query in (1, 2) else f"kettle number {query}"
        for rank in range(4):
            rows.append(
                {
                    "example_id": len(rows),
                    "query": words.upper() if query == 2 else words,
                    "query_id": query,
                    "product_id": f"B{(query * 3 + rank) % (30 if locale == 'us' else 10):03d}",
                    "product_locale": locale,
                    "esci_label": "ESCI"[rank],
                    "small_version": int(query != 0),
                    "large_version": 1,
                    "split": "test" if query in (2, 3, 9) else "train",
                }
            )
    pd.DataFrame(rows).to_parquet(home / "esci" / "shopping_queries_dataset_examples.parquet")
    monkeypatch.setenv("COURSE_DATA_HOME", str(home))
    return home


@pytest.fixture
def wands_home(tmp_path, monkeypatch) -> Path:
    """A data home with a few generated rows in the true schema of WANDS."""
    home = tmp_path / "home"
    folder = home / "wands"
    folder.mkdir(parents=True)
    (folder / "query.csv").write_text("query_id\tquery\tquery_class\n0\toak chair\tChairs\n1\tlamp, brass\tLamps\n")
    columns = ["product_id", "product_name", "product_class", "category hierarchy", "product_description"]
    columns += ["product_features", "rating_count", "average_rating", "review_count"]
    chair = ["0", "oak chair", "Chairs", "Furniture / Dining / Chairs", "a solid chair"]
    chair += ["color : brown|color : black| : x|legs:4", "1", "5", "1"]
    lamp = ["1", "brass lamp", *[""] * 7]
    (folder / "product.csv").write_text("".join("\t".join(row) + "\n" for row in (columns, chair, lamp)))
    (folder / "label.csv").write_text(
        "id\tquery_id\tproduct_id\tlabel\n0\t0\t0\tExact\n1\t0\t1\tIrrelevant\n2\t1\t1\tPartial\n3\t1\t0\tMaybe\n"
    )
    monkeypatch.setenv("COURSE_DATA_HOME", str(home))
    return home


@pytest.fixture
def chorus_home(tmp_path, monkeypatch) -> Path:
    """A data home with generated rows as Chorus writes them."""
    import zipfile

    home = tmp_path / "home"
    folder = home / "chorus-icecat" / "products"
    folder.mkdir(parents=True)
    for number in range(1, 5):
        record = {
            "id": str(number),
            "name": f"K{number}",
            "title": f"Acme K{number} keyboard",
            "short_description": "Wireless<br />&amp; quiet",
            "supplier": "Acme",
            "price": 4995,
            "attr_t_product_colour": "Black",
            "attr_t_material": "Steel",
            "attr_t_ssd_form_factor": "M.2",
            "attr_t_operating_temperature__t_t_": "0 - 35",
            "attr_n_package_weight": 3.0,
            "attr_b_bluetooth": True,
        }
        with zipfile.ZipFile(folder / f"{number}.json.zip", "w") as archive:
            archive.writestr(f"{number}.json", json.dumps([record]))
    ratings = "query,docid,rating\nkeyboard,1,3\nkeyboard,2,0\nquiet keyboard,3,2\nkeyboard,99,3\nkeyboard,4,7\n"
    (home / "chorus-icecat" / "Broad_Query_Set_rated.csv").write_text(ratings)
    monkeypatch.setenv("COURSE_DATA_HOME", str(home))
    return home
