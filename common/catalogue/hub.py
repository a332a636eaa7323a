"""Find the Parquet files of a data set of the Hugging Face hub: in the data home, else downloaded by `datasets`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from common.atomic import atomic_folder
from common.errors import CourseError
from common.settings import artifacts_root, data_home


@dataclass(frozen=True)
class HubSource:
    """Describe a data set of the hub: its `name`, `splits` and `config` there, its `folder` below the data home."""

    name: str
    folder: str
    splits: tuple[str, ...]
    config: str | None = None

    def where_to_get(self) -> str:
        """Return what to put where, for an error."""
        names, config = ", ".join(f"{split}-….parquet" for split in self.splits), self.config
        home = data_home()
        place = f"{self.folder} below the folder that COURSE_DATA_HOME names" if home is None else home / self.folder
        return f"put the files {names} of {self.name}{f', folder {config},' if config else ''} into {place}"


def hub_files(source: HubSource) -> dict[str, list[Path]]:
    """Return the files of each split, in the order of their names.

    A file is known by the name of its split in its own name or its folder's (``train-00000-of-00012.parquet``,
    ``test/0000.parquet``); those below a folder named by the source's config come first. Raises `CourseError` if a
    split has none and cannot be had.
    """
    home, downloads = data_home(), artifacts_root() / "downloads" / source.folder
    for place in (downloads,) if home is None else (home / source.folder, downloads):
        found = _files_of_splits(source, place)
        if all(found.values()):
            return found
        if any(found.values()):
            missing = ", ".join(split for split in source.splits if not found[split])
            raise CourseError(f"{place}: no Parquet file of {missing}; {source.where_to_get()}")
    _download(source, downloads)
    return _files_of_splits(source, downloads)


def _files_of_splits(source: HubSource, place: Path) -> dict[str, list[Path]]:
    paths = [path.relative_to(place) for path in sorted(place.rglob("*.parquet"))] if place.is_dir() else []
    paths = [path for path in paths if source.config in path.parts] or paths
    found: dict[str, list[Path]] = {split: [] for split in source.splits}
    for path in paths:
        named = re.search(rf"(?<![a-z])({'|'.join(source.splits)})(?![a-z])", "/".join(path.parts[-2:]))
        if named:
            found[named[1]].append(place / path)
    return found


def _download(source: HubSource, target: Path) -> None:
    try:
        import datasets

        splits = datasets.load_dataset(source.name, *filter(None, [source.config]))
        with atomic_folder(target) as staging:
            for split in source.splits:
                splits[split].to_parquet(str(staging / f"{split}.parquet"))
    except Exception as error:  # the network, the hub and the disk raise errors of many kinds
        failed = f"the download failed ({type(error).__name__})"
        raise CourseError(f"{source.folder}: no files, and {failed}; {source.where_to_get()}") from None
