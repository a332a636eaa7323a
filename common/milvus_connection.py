"""Connect to Milvus: a server or cluster by its address, or a local file served by milvus-lite inside this process.

Every failure is a `CourseError` that says what to do. A local file belongs to one process at a time; the indices of one
process share it, and it is released when the last of them is closed.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from pathlib import Path
from threading import Lock
from typing import Any

from common.errors import CourseError

TOKEN = "MILVUS_TOKEN"
"""Environment variable with the server's credentials: a token, or "user:password"."""
CONNECT_SECONDS = 10
CALL_SECONDS = 60
CONNECT_FAILED, NOT_FOUND = 2, 100  # Milvus' error codes for no connection and no such collection
# pymilvus sends a keep-alive every ten seconds, upon which milvus-lite closes the connection.
NO_KEEPALIVE = {"grpc.keepalive_time_ms": 2**31 - 1, "grpc.keepalive_permit_without_calls": False}

_open_files: Counter[str] = Counter()
_open_files_lock = Lock()


class MilvusConnection:
    """Call a Milvus server or file. uri: as given, without a password. local: whether it is a file."""

    def __init__(self, uri: str | Path) -> None:
        """Connect to "shop.db", a local file (in fact a folder) made if missing, or to "http://host:19530".

        The token of a server is read from `MILVUS_TOKEN`. Raises CourseError if the packages are not installed, uri is
        neither, or nothing answers there.
        """
        self.uri, self.local = without_password(uri), is_local(uri)
        pymilvus, self._servers = _packages()
        self._errors = (pymilvus.MilvusException, *_rpc_errors())
        options = {"grpc_options": NO_KEEPALIVE} if self.local else {"token": os.environ.get(TOKEN, "")}
        try:
            self._client = pymilvus.MilvusClient(str(uri), dedicated=True, timeout=CONNECT_SECONDS, **options)
        except self._errors as error:
            raise self._unreachable(error) from error
        self._file = os.path.abspath(uri) if self.local else None
        if self._file:
            with _open_files_lock:
                _open_files[self._file] += 1

    def call(self, method: str, *arguments: Any, timeout: float | None = CALL_SECONDS, **options: Any) -> Any:
        """Call a method of `pymilvus.MilvusClient` and return its answer. timeout: seconds; None for work of unknown
        length. Raises CourseError if the server refuses or does not answer."""
        if self._client is None:
            raise CourseError(f"this index was closed; load it again from {self.uri}.")
        try:
            return getattr(self._client, method)(*arguments, timeout=timeout, **options)
        except self._errors as error:
            code = getattr(error, "code", None)  # Milvus' own; without one the transport failed
            if code == NOT_FOUND:
                raise CourseError(
                    f"{self.uri}: the collection is gone; the index was built again since it was loaded, or dropped. "
                    "Load it again."
                ) from error
            if code == CONNECT_FAILED or not isinstance(code, int):
                raise self._unreachable(error) from error
            raise CourseError(f"Milvus at {self.uri} refused {method}: {_reason(error)}") from error

    def collection_of(self, alias: str) -> str | None:
        """Return the collection that an alias stands for, None if there is no such alias."""
        if alias not in self.call("list_aliases")["aliases"]:
            return None
        return self.call("describe_alias", alias)["collection_name"]

    def close(self) -> None:
        """Disconnect, and release a local file for other processes. Closing twice is no error."""
        client, self._client = self._client, None
        if client is None:
            return
        client.close()
        if self._file:
            with _open_files_lock:
                _open_files[self._file] -= 1
                if not _open_files[self._file]:
                    del _open_files[self._file]
                    self._servers.release_server(self._file)

    def _unreachable(self, error: Exception) -> CourseError:
        if self.local:
            return CourseError(
                f"{self.uri}: cannot be opened as a Milvus file: another process has it open, or it was not written by "
                "milvus-lite 3.2 or later. Close it there, or choose another path."
            )
        return CourseError(
            f"no Milvus server answers at {self.uri}: {_reason(error)}. Start it, correct the address, or set {TOKEN} "
            'to what it asks for; a path such as "shop.db" needs no server.'
        )


def is_local(uri: str | Path) -> bool:
    """Return whether uri names a local file. Raises CourseError if it names neither that nor a server."""
    if str(uri).endswith(".db"):
        return True
    if not re.match(r"(https?|tcp)://[^/]", str(uri)):
        raise CourseError(
            f'{without_password(uri)}: give a local file, "shop.db", or the address of a server, "http://host:19530".'
        )
    return False


def without_password(uri: str | Path) -> str:
    """Return uri as it may be shown."""
    return re.sub(r"//[^/]*@", "//", str(uri))


def _packages() -> tuple[Any, Any]:
    try:
        import pymilvus
        from milvus_lite.server_manager import server_manager_instance
    except ImportError as error:
        raise CourseError(
            'searching with Milvus needs two more packages: pip install "product-search-course[scale]" '
            f"({error.name} is missing)."
        ) from error
    for name in ("pymilvus", "milvus_lite"):  # they also raise the errors that they log
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return pymilvus, server_manager_instance


def _rpc_errors() -> tuple[type[Exception], ...]:
    import grpc

    return (grpc.RpcError, grpc.FutureTimeoutError)


def _reason(error: Exception) -> str:
    """Return the first line of an error."""
    text = getattr(error, "message", None) or (error.details() if hasattr(error, "details") else None) or str(error)
    return (str(text).strip() or type(error).__name__).splitlines()[0].rstrip(".")
