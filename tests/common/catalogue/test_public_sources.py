from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pandas as pd
import pytest

from common.catalogue import load_catalogue, product_text
from common.catalogue.download import CHORUS_ICECAT, PublicFile, PublicSource, public_files
from common.errors import CourseError
from common.settings import repository_root

DATA_HOME = os.environ.get("COURSE_DATA_HOME")  # as it was before the tests' own environment hides it


def real_data() -> Path:
    folder = Path(DATA_HOME) if DATA_HOME else repository_root().parent / "shared" / "data"
    if not (folder / "chorus-icecat").is_dir():
        pytest.skip("the public data sets are not on this machine")
    return folder


def test_chorus_adapter(chorus_home):
    catalogue = load_catalogue("chorus_icecat")
    product = catalogue.products.iloc[0]
    assert product[["product_id", "title", "brand", "colour", "material"]].tolist() == [
        "1",
        "Acme K1 keyboard",
        "Acme",
        "Black",
        "Steel",
    ]
    assert product["price"] == 49.95
    assert product["description"] == "Wireless & quiet"
    attributes = {"ssd form factor": "M.2", "operating temperature": "0 - 35", "bluetooth": True}
    assert json.loads(product["attributes"]) == attributes
    assert product_text(catalogue.products)[0].endswith(
        "ssd form factor: M.2, operating temperature: 0 - 35, bluetooth"
    )
    assert catalogue.queries[["query", "split"]].values.tolist() == [["keyboard", "val"], ["quiet keyboard", "val"]]
    assert catalogue.judgements["grade"].tolist() == [3, 0, 2]
    assert catalogue.judgements["label"].tolist() == ["E", "I", "S"]
    assert catalogue.quarantine["row"].tolist() == [5, 6]


def test_chorus_files_that_are_damaged_or_missing(chorus_home):
    (chorus_home / "chorus-icecat" / "products" / "2.json.zip").write_bytes(b"PK no")
    with pytest.raises(CourseError, match=r"2\.json\.zip: damaged"):
        load_catalogue("chorus_icecat")
    ratings = chorus_home / "chorus-icecat" / "Broad_Query_Set_rated.csv"
    ratings.unlink()
    with pytest.raises(CourseError, match=r"missing Broad_Query_Set_rated\.csv; get it from .*querqy/chorus"):
        load_catalogue("chorus_icecat")


def test_esci_adapter(esci_home):
    catalogue = load_catalogue("esci")
    assert catalogue.products["product_id"].str.endswith("_us").all()
    assert catalogue.products["title"].str.startswith("us kettle").all()
    judged = set(catalogue.judgements["product_id"])
    assert judged <= set(catalogue.products["product_id"])
    assert "0" not in set(catalogue.queries["query_id"])  # of the large version only
    product = catalogue.products.set_index("product_id").loc["B003_us"]
    assert product["description"] == "Steel body One litre Boils water & milk"
    assert product["colour"] == "Red" and pd.isna(product["brand"])
    by_label = catalogue.judgements.set_index("label")["grade"].groupby(level=0).unique().map(list).to_dict()
    assert by_label == {"E": [3], "S": [2], "C": [1], "I": [0]}


def test_esci_keeps_its_test_split_and_no_words_stand_on_both_sides(esci_home):
    catalogue = load_catalogue("esci")
    splits = catalogue.queries.set_index("query_id")["split"].to_dict()
    assert splits["2"] == splits["3"] == "test"
    assert "1" not in splits  # "steel kettle" is a test query, so the training query of the same words is set aside
    assert catalogue.quarantine["table"].value_counts().to_dict() == {"queries": 1, "judgements": 4}
    assert set(splits.values()) <= {"train", "val", "test"}


def test_esci_locales_and_versions(esci_home):
    spanish = load_catalogue("esci", locale="es")
    assert set(spanish.products["locale"]) == {"es"}
    everywhere = load_catalogue("esci", locale="all", small_version=False)
    assert len(everywhere.products) == 40
    titles = everywhere.products.set_index("product_id")["title"]
    assert titles["B000_us"] != titles["B000_es"]
    assert len(load_catalogue("esci", small_version=False).queries) == 8  # nine, less one that leaks
    with pytest.raises(CourseError, match="unknown locale 'de'"):
        load_catalogue("esci", locale="de")


def test_esci_missing_column_and_missing_files(esci_home, tmp_path):
    path = esci_home / "esci" / "shopping_queries_dataset_products.parquet"
    pd.read_parquet(path).rename(columns={"product_brand": "product_brnad"}).to_parquet(path)
    with pytest.raises(CourseError, match=r"products\.parquet: column 'product_brand' is missing.*'product_brnad'"):
        load_catalogue("esci")
    path.unlink()
    with pytest.raises(CourseError, match="no products file"):
        load_catalogue("esci")
    with pytest.raises(CourseError, match="there is no folder"):
        load_catalogue("esci", folder="elsewhere")


def test_esci_takes_a_feed_where_there_is_no_products_table(esci_home):
    (esci_home / "esci" / "shopping_queries_dataset_products.parquet").unlink()
    ids = sorted({f"B{n:03d}" for n in range(30)})
    lines = [json.dumps({"put": f"id::{i}", "fields": {"id": i, "title": f"kettle {i}", "brand": "Acme"}}) for i in ids]
    feed = esci_home / "esci" / "feed.jsonl"
    feed.write_text("\n".join(lines))
    catalogue = load_catalogue("esci")
    assert catalogue.products["brand"].eq("Acme").all()
    assert len(catalogue.judgements) > 10
    feed.write_text("[]")
    with pytest.raises(CourseError, match=r"feed\.jsonl: line 1"):
        load_catalogue("esci")


def test_wands_adapter(wands_home):
    catalogue = load_catalogue("wands")
    chair = catalogue.products.iloc[0]
    assert chair["category_path"] == "Furniture > Dining > Chairs"
    assert chair["colour"] == "brown, black"
    assert json.loads(chair["attributes"]) == {"class": "Chairs", "color": "brown, black", "legs": "4"}
    assert pd.isna(catalogue.products.iloc[1]["category_path"])
    assert catalogue.judgements["grade"].tolist() == [3, 0, 1]
    assert catalogue.judgements["label"].isna().all()
    assert catalogue.quarantine["reason"].tolist() == ["'Maybe' is not a number"]
    assert catalogue.queries["query"].tolist() == ["oak chair", "lamp, brass"]
    assert catalogue.queries["split"].isin(["train", "val", "test"]).all()


def test_wands_says_what_to_put_where(tmp_path, monkeypatch):
    with pytest.raises(
        CourseError, match=r"query\.csv, product\.csv, label\.csv; get it from .*WANDS.*COURSE_DATA_HOME"
    ):
        load_catalogue("wands")


def test_download_is_checked_kept_and_reported_when_it_fails(monkeypatch):
    import pooch

    content = b"product data"
    known = hashlib.sha256(content).hexdigest()
    source = PublicSource(
        "toy", "https://example.org/toy", "MIT", (PublicFile("a/b.txt", "https://example.org/b", known),)
    )
    asked = []

    def stand_in(url, known_hash, fname, path, progressbar):
        asked.append((url, known_hash))
        path.mkdir(parents=True)
        (path / fname).write_bytes(content)

    monkeypatch.setattr(pooch, "retrieve", stand_in)
    path = public_files(source)["a/b.txt"]
    assert path.read_bytes() == content
    assert public_files(source)["a/b.txt"] == path
    assert asked == [("https://example.org/b", f"sha256:{known}")]
    path.unlink()

    def offline(**_):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(pooch, "retrieve", offline)
    with pytest.raises(CourseError, match=r"toy: missing a/b\.txt \(download failed: no route.*example\.org/toy"):
        public_files(source)


def test_real_chorus(monkeypatch):
    home = real_data()
    for file in CHORUS_ICECAT.files:
        if file.sha256:
            assert hashlib.sha256((home / "chorus-icecat" / file.path).read_bytes()).hexdigest() == file.sha256
    monkeypatch.setenv("COURSE_DATA_HOME", str(home))
    catalogue = load_catalogue("chorus_icecat")
    assert (len(catalogue.products), len(catalogue.queries), len(catalogue.judgements)) == (19_406, 68, 1_796)
    assert catalogue.quarantine.empty
    assert all(product_text(catalogue.products))


def test_real_esci_rows(monkeypatch):
    monkeypatch.setenv("COURSE_DATA_HOME", str(real_data()))
    catalogue = load_catalogue("esci", folder="esci-sample")
    assert (len(catalogue.products), len(catalogue.queries), len(catalogue.judgements)) == (16, 1, 16)
    assert catalogue.judgements["grade"].value_counts().to_dict() == {3: 3, 2: 6, 0: 7}
    assert catalogue.queries["split"].tolist() == ["test"]
    assert catalogue.quarantine.empty
