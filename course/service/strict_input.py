"""Accept only what is documented: no unknown parameter, no other content type, no file on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, get_origin

from fastapi import Request, Response, params
from fastapi.datastructures import FormData
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.routing import Match
from starlette.types import Receive, Scope

from common.errors import CourseError
from course.service.api_errors import answer_crash, in_words

if TYPE_CHECKING:
    from fastapi._compat import ModelField

LARGEST_FIELD = 2**17
"""Bytes of one text field of a form; `body_limit` has already limited the whole body."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class StrictRoute(APIRoute):
    """Refuse unknown and repeated parameters and form fields (422), and a body of another type (415).

    Another method on the route's address is refused here (405), not passed on to what is mounted behind. An unexpected
    error is answered here (500), where the middlewares around still see an answer.
    """

    def get_route_handler(self) -> Handler:
        answer, parameters = super().get_route_handler(), _lists(self.dependant.query_params)
        fields, takes = _lists(self.dependant.body_params), None
        if self.body_field is not None:
            is_form = isinstance(self.body_field.field_info, params.Form)
            takes = "multipart/form-data" if is_form else "application/json"

        async def strict(request: Request) -> Response:
            try:
                if request.scope["query_string"]:
                    _check_names("query", request.query_params.multi_items(), parameters)
                if takes is not None:
                    _check_type(request.headers.get("content-type", ""), takes)
                return await answer(StrictRequest(request.scope, request.receive, fields))
            except (HTTPException, RequestValidationError, CourseError):
                raise
            except Exception as error:
                return answer_crash(request, error)

        return strict

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return (Match.FULL if match is Match.PARTIAL else match), child


class StrictRequest(Request):
    """A request whose form never touches the disk, and whose JSON is UTF-8.

    fields: the names of its form's fields, and whether each may repeat.
    """

    def __init__(self, scope: Scope, receive: Receive, fields: dict[str, bool]) -> None:
        super().__init__(scope, receive)
        self.fields = fields

    async def json(self) -> Any:
        """Return the body; HTTPException 422 if it is not UTF-8, not JSON, or nested too deep."""
        try:
            return json.loads((await self.body()).decode())
        except (ValueError, RecursionError):
            raise HTTPException(422, "the body: is not JSON.") from None

    async def form(self, **limits: Any) -> FormData:
        """Return the form; HTTPException 422 if it cannot be read, or has fields it should not have."""
        parser = _MemoryParser(self.headers, self.stream(), **limits)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise HTTPException(422, f"The form cannot be read: {error.message}") from None
        try:
            _check_names("body", form.multi_items(), self.fields)
        except HTTPException:
            await form.close()
            raise
        return form


class _MemoryParser(MultiPartParser):
    spool_max_size = 0  # no limit, so that a SpooledTemporaryFile stays in memory


def _lists(fields: Iterable[ModelField]) -> dict[str, bool]:
    """Return the names, and whether each may be repeated."""
    return {field.alias: get_origin(field.field_info.annotation) is list for field in fields}


def _check_names(place: str, items: Iterable[tuple[str, Any]], known: dict[str, bool]) -> None:
    counts = Counter(name for name, _ in items)
    wrong = [("extra_forbidden", name) for name in counts if name not in known]
    wrong += [("repeated", name) for name, count in counts.items() if count > 1 and not known.get(name, True)]
    if wrong:
        raise HTTPException(422, in_words([{"type": kind, "loc": (place, name), "msg": kind} for kind, name in wrong]))


def _check_type(given: str, takes: str) -> None:
    kind = given.partition(";")[0].strip().lower()
    if kind != takes:
        raise HTTPException(415, f"Send the question as {takes}; its Content-Type says otherwise or is missing.")
