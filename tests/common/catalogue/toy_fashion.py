"""A small fashion shop in the layouts of fashion_products. Brands and titles are made up here, pictures are noise."""

from __future__ import annotations

import csv
import io
import itertools
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

HEADER = ["id", "gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "year", "usage"]
HEADER += ["productDisplayName"]
TYPES = {
    "Tshirts": ("Apparel", "Topwear", "T-shirt"),
    "Jackets": ("Apparel", "Topwear", "Jacket"),
    "Watches": ("Accessories", "Watches", "Watch"),
    "Handbags": ("Accessories", "Bags", "Handbag"),
    "Sports Shoes": ("Footwear", "Shoes", "Sports Shoes"),
    "Casual Shoes": ("Footwear", "Shoes", "Shoes"),
}
BRANDS = ("Larkfield", "Quillmoor Mill", "Benn & Ash", "Tovik")
COLOURS = ("Black", "Blue", "Navy Blue", "Red")
PICTURED = 24
"""Products with a picture of their own: the first ones."""


def regular_rows() -> list[list[str]]:
    """Every type, colour and brand for men, women and both; ids from 1000 on. Some brands are spelt without spaces."""
    rows = []
    everything = itertools.product(TYPES, COLOURS, BRANDS, ("Men", "Women", "Unisex"))
    for number, (kind, colour, brand, gender) in enumerate(everything):
        master, sub, noun = TYPES[kind]
        usage = ("Casual", "Sports", "Formal", "NA")[number % 4]
        season = ("Summer", "Winter", "Spring", "Fall")[number // 4 % 4]
        spelling = brand if number % 5 else brand.replace(" ", "")
        title = f"{spelling} {gender} {colour} {noun} Model {number}"
        rows.append([str(1000 + number), gender, master, sub, kind, colour, season, "2024", usage, title])
    return rows


def odd_rows() -> list[list[str]]:
    """Products that need care; 11 and 12 share a title, 12 and 13 a picture, 14 has a damaged one, 15 none, and 18 has
    neither title nor picture."""
    start = ["Men", "Apparel", "Topwear", "Tshirts"]
    return [
        ["11", *start, "Red", "Summer", "2024", "Casual", "Tovik Men  Red T-shirt"],
        ["12", *start, "Red", "Summer", "2024", "Casual", "TOVIK men red t-shirt"],
        ["13", *start, "Black", "Summer", "", "Casual", "Tovik Men Dark T-shirt"],
        ["14", *start, "NA", "", "2024.0", "NA", "Tovik Men T-shirt with a Broken Picture"],
        ["15", "Men", "Accessories", "Belts", "Tshirts", "Red", "Summer", "2024", "Casual", "Tovik Men Odd Place"],
        ["16", *start, "Red", "Summer", "2024", "Casual", ""],
        ["17", *start, "Red", "Summer", "2024", "Casual", "NA"],
        ["18", *start, "Red", "Summer", "2024", "Casual", ""],
    ]


def noise(seed: int) -> bytes:
    """A small JPEG unlike that of any other seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def pictures() -> dict[str, bytes]:
    """The bytes of each picture by product."""
    own = {row[0]: noise(int(row[0])) for row in regular_rows()[:PICTURED]}
    return own | {"11": noise(1), "12": noise(2), "13": noise(2), "14": noise(4)[:200], "16": noise(6), "17": noise(7)}


def write_fashion(home: Path, layout: str = "folder", lines: tuple[str, ...] = ()) -> Path:
    """Write the shop into `home` and return it. layout: "folder", "zip", "below" (folder and table in a sub-folder) or
    "parquet". lines: more lines of the table."""
    place = home / "archive" if layout == "below" else home
    (place / "images").mkdir(parents=True) if layout in ("folder", "below") else place.mkdir(parents=True)
    rows = [*regular_rows(), *odd_rows()]
    if layout == "parquet":
        return _write_parquet(home, rows)
    with (place / "styles.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *rows])
        file.writelines(line + "\n" for line in lines)
    if layout == "zip":
        with zipfile.ZipFile(place / "images.zip", "w") as archive:
            for name, content in pictures().items():
                archive.writestr(f"images/{name}.jpg", content)
    else:
        for name, content in pictures().items():
            (place / "images" / f"{name}.jpg").write_bytes(content)
    return home


def _write_parquet(home: Path, rows: list[list[str]]) -> Path:
    table = pd.DataFrame(rows, columns=HEADER)
    table["id"] = table["id"].astype("int64")
    table["year"] = pd.to_numeric(table["year"]).astype("float64")
    shown = pictures()
    table["image"] = [{"bytes": shown.get(row[0]), "path": None} for row in rows]
    (home / "data").mkdir()
    middle = len(table) // 2
    for part, piece in enumerate((table[:middle], table[middle:])):
        piece.to_parquet(home / "data" / f"train-0000{part}-of-00002.parquet", index=False)
    return home
