"""Load any source by its name; a catalogue is built once and then read from the artifacts."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

from common.artifacts import fingerprint
from common.atomic import atomic_folder
from common.catalogue.catalogue import Catalogue
from common.catalogue.contract import FORMAT_VERSION
from common.catalogue.store import MANIFEST
from common.digests import file_sha256
from common.errors import CourseError
from common.progress import tell
from common.settings import artifacts_root, resolve_profile

SOURCES = {
    "pocket_shop": "common.pocket_shop.shop",
    "chorus_icecat": "common.catalogue.chorus_icecat",
    "esci": "common.catalogue.esci",
    "wands": "common.catalogue.wands",
    "ms_marco": "common.catalogue.ms_marco",
    "abo": "common.catalogue.abo",
    "grocery_store": "common.catalogue.grocery_store",
    "luma": "common.catalogue.luma",
    "fashion_products": "common.catalogue.fashion_products",
    "shopify_taxonomy": "common.catalogue.shopify_taxonomy",
    "shopify_catalogue": "common.catalogue.shopify_catalogue",
    "your_own": "common.catalogue.your_own",
}
"""Module of each source. It has ``build_catalogue(folder, *, …parameters) -> Catalogue`` (`folder`: where it may write
pictures) and, if it reads files, ``find_files(**parameters) -> dict[str, Path]``. A module constant ``VERSION`` is
raised when the same parameters and files give another catalogue than before; ``PROFILE_PARAMETERS`` holds, by profile,
the parameters that differ from the defaults."""


def load_catalogue(name: str, *, profile: str | None = None, **parameters: Any) -> Catalogue:
    """Return the catalogue of a source by name (see `SOURCES`), or a saved one by the path of its folder.

    A source may have a smaller default for a profile (the pocket shop in profile smoke); `parameters` override it.

    A catalogue is kept under the artifacts in a folder named by source, parameters and content of its files: a changed
    file or parameter makes another. Rows set aside are counted on standard error.

    Raises `CourseError` for an unknown source or parameter and for files that are missing or break the contract.
    """
    if name not in SOURCES:
        if (Path(name) / MANIFEST).is_file() and not parameters:
            return Catalogue.load(name)
        raise CourseError(f"no catalogue {name!r}; choose one of {', '.join(SOURCES)} or the folder of a saved one")
    module = import_module(SOURCES[name])
    of_profile = getattr(module, "PROFILE_PARAMETERS", {}).get(resolve_profile(profile), {})
    parameters = _all_parameters(name, module.build_catalogue, of_profile | parameters)
    files = module.find_files(**parameters) if hasattr(module, "find_files") else {}
    key = {
        "parameters": parameters,
        "files": {role: _file_key(path) for role, path in files.items()},
        "versions": [FORMAT_VERSION, getattr(module, "VERSION", 1)],
    }
    folder = artifacts_root() / "catalogues" / f"{name}@{fingerprint(key)}"
    if not folder.is_dir():
        with atomic_folder(folder) as staging:
            module.build_catalogue(staging, **parameters).write_tables(staging)
    catalogue = Catalogue.load(folder)
    _report_quarantine(catalogue)
    return catalogue


def _all_parameters(name: str, build: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters with the defaults of those not given, so that spelling out a default changes nothing."""
    known = [p for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for parameter in given:
        if parameter not in {p.name for p in known}:
            listed = ", ".join(p.name for p in known) or "none"
            raise CourseError(f"load_catalogue({name!r}): unknown parameter {parameter!r}; there are: {listed}")
    missing = [p.name for p in known if p.default is p.empty and p.name not in given]
    if missing:
        raise CourseError(f"load_catalogue({name!r}): parameter {missing[0]!r} is needed")
    return {p.name: given.get(p.name, p.default) for p in known}


def _file_key(path: Path | list[Path]) -> Any:
    """Return what identifies the state of an input: a file's digest; of many files their names, sizes and times."""
    if isinstance(path, list):
        stats = ((one, one.stat()) for one in path if one.is_file())
        return [[one.as_posix(), stat.st_size, stat.st_mtime_ns] for one, stat in stats]
    return file_sha256(path)


def _report_quarantine(catalogue: Catalogue) -> None:
    if len(catalogue.quarantine):
        tell(f"{catalogue.source}: {len(catalogue.quarantine):,} rows set aside (catalogue.quarantine):")
        for row in catalogue.quarantine_summary().head(5).itertuples():
            tell(f"  {row.rows:,} x {row.table}.{row.column}: {row.reason}")
