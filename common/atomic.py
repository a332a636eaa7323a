"""Write files and folders so that a kill leaves none half written: a reader finds the whole old one or the whole new
one.

Everything is written under a hidden staging folder *beside* its target (the same file system, so that the final rename
is atomic), flushed to the disk, and renamed. A killed writer leaves only its staging folder, which no reader looks at
and a later writer removes.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from common.errors import CourseError

STAGING_PREFIX = ".staging-"
ABANDONED_AFTER_SECONDS = 24 * 3600
FLUSH_ONE_BY_ONE = 64


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path of the same file name; on success it replaces ``path`` in one move.

    On an error the temporary file is removed and ``path`` is as it was. The name is kept because libraries choose
    a format by it (``numpy.save`` appends ``.npy``, Pillow reads the suffix).
    """
    path = Path(path)
    with _staging_beside(path) as staging:
        temporary = staging / path.name
        yield temporary
        if not temporary.is_file():
            raise CourseError(f"{path.name}: nothing was written to the temporary file")
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; on success it is renamed to ``path`` in one move.

    For content-addressed folders (the name holds a digest of what is inside): a folder that already stands there is
    complete, because nothing else puts it there, and is kept; the new copy is dropped. On an error nothing appears.
    Raises ``CourseError`` when ``path`` is a file.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise CourseError(f"{path}: a file stands where a folder should be written; move it away")
    with _staging_beside(path) as staging:
        temporary = staging / path.name
        temporary.mkdir()
        yield temporary
        flush_tree(temporary)
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
        _flush(path.parent)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically. NaN and infinity are refused: they are not JSON."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises ``CourseError`` naming the file when it is absent or is not JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CourseError(f"{path}: there is no such file") from None
    except ValueError as error:
        raise CourseError(f"{path}: not valid JSON ({error})") from None


def flush_tree(folder: Path) -> None:
    """Flush every file and folder below ``folder`` to the disk, so that no rename gets there before its content."""
    paths = [folder, *folder.rglob("*")]
    if len(paths) > FLUSH_ONE_BY_ONE:
        os.sync()  # 3,000 photos take 0.05 s; one fsync for each took 11 s
        return
    for path in paths:
        _flush(path)


def sweep(folder: Path) -> None:
    """Remove staging folders in ``folder`` whose writer is gone: dead on this machine, or a day without a change."""
    for staging in folder.glob(f"{STAGING_PREFIX}*"):
        if _is_abandoned(staging):
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _staging_beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    staging = path.parent / f"{STAGING_PREFIX}{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _is_abandoned(staging: Path) -> bool:
    machine, _, rest = staging.name.removeprefix(STAGING_PREFIX).partition("-")
    pid = rest.partition("-")[0]
    if machine == _machine() and pid.isdigit():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # alive, but another user's
    try:
        newest = max(entry.stat().st_mtime for entry in (staging, *staging.rglob("*")))
    except OSError:
        return False  # its writer is moving it right now
    return time.time() - newest > ABANDONED_AFTER_SECONDS


def _machine() -> str:
    return sha256(socket.gethostname().encode()).hexdigest()[:8]


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
