"""A toy shop in the layout of Grocery Store: photos of blotches, their lists, iconic pictures and descriptions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

HEADER = (
    "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),"
    "Iconic Image Path (str),Product Description Path (str)"
)


def draw(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """Blotches in and around a colour, unlike those of any other seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blotches = np.random.default_rng(seed).integers(-60, 61, (6, 6, 3)) + np.array(colour)
    image = Image.fromarray(np.clip(blotches, 0, 255).astype(np.uint8))
    image.resize((32, 32), Image.Resampling.BICUBIC).save(path)


def write_grocery_store(home: Path, classes: Iterable[tuple], photos: Callable[[str, str], Iterable[int]]) -> Path:
    """Write the shop into a folder that COURSE_DATA_HOME can name, and return it.

    classes: name, number, coarse name, coarse number, place, colour. photos: of a split and a class's name, what each
    photo is drawn from; equal numbers give equal photos.
    """
    folder, lines = home / "grocery-store" / "dataset", [HEADER]
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name, fine, coarse_name, coarse, place, colour in classes:
        iconic = f"iconic-images-and-descriptions/{place}/{name}"
        lines.append(f"{name},{fine},{coarse_name},{coarse},/{iconic}_Iconic.png,/{iconic}_Description.txt")
        draw(folder / f"{iconic}_Iconic.png", colour, fine)
        (folder / f"{iconic}_Description.txt").write_text(f"This {name} is good to eat.")
        for split, listed in lists.items():
            for number, drawn in enumerate(photos(split, name)):
                path = f"{split}/{place}/{name}_{split}_{number}.png"
                draw(folder / path, colour, 1000 * (1 + fine) + 100 * len(split) + drawn)
                listed.append(f"{path}, {fine}, {coarse}")
    (folder / "classes.csv").write_text("\n".join(lines) + "\n")
    for split, listed in lists.items():
        (folder / f"{split}.txt").write_text("\n".join(listed) + "\n")
    return home
