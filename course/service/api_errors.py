"""Answer every error of the API in one format: `{"error": "<in words>"}`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as AnyHTTPException

from common.errors import CourseError
from course.service import rendering
from course.service.answers import NotBuilt, Overloaded, UnknownProduct, UnusablePicture

log = logging.getLogger(__name__)

STATUS: Mapping[type[CourseError], int] = {
    UnknownProduct: 404,
    UnusablePicture: 415,
    NotBuilt: 503,
    Overloaded: 503,
    CourseError: 422,
}
ALWAYS, WITH_BODY = (401, 421, 422, 500), (403, 408, 413, 415, 503)
"""Statuses of any operation, and further ones of an operation that receives a body."""
MEANING = {
    401: "The token is missing or wrong; only if the service was started with one.",
    403: "The page of another site asks, and the service was not started for that site.",
    404: "No product has that id, or it has no picture.",
    408: "The body did not arrive in time.",
    413: "What was sent is too large.",
    415: "The upload is not a picture that can be used, or the Content-Type is not what is asked for.",
    421: "The service does not know the name by which it was asked; only if it was started without a token.",
    422: "A value makes no sense; the error names the field.",
    500: "The service failed; its log has more under the request id.",
    503: "Not built yet; the error says what to run. Or, with the header Retry-After, too much waits or is being sent.",
}
RETRY_AFTER = {"Retry-After": "1"}
MOST_PROBLEMS, LONGEST_ECHO = 3, 25
"""Problems in one answer, and characters of a field's name in each."""

WORDS = {
    "extra_forbidden": "there is no such field here",
    "repeated": "may be given only once",
    "missing": "is missing",
    "value_error": "{error}",
    "string_pattern_mismatch": "must say something, without control characters",
    "string_unicode": "must be Unicode text, without half of a surrogate pair",
    "string_too_long": "may have at most {max_length} characters",
    "too_long": "may have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("model_type", "model_attributes_type"), "must be a JSON object"),
    "string_type": "must be text",
}
"""What is wrong, by pydantic's name for it; pydantic's own words are for programmers."""
NOT_A_FILE = "must be a file"


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI documentation of these statuses, and of those that any operation may answer."""
    return {
        status: {
            "description": MEANING[status],
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
        for status in sorted({*statuses, *ALWAYS})
    }


def install(api: FastAPI) -> None:
    """Make `api` answer every error in the one format."""
    api.add_exception_handler(CourseError, _course_error)
    api.add_exception_handler(RequestValidationError, _bad_request)
    api.add_exception_handler(AnyHTTPException, _http_error)


def error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer that says what is wrong."""
    return Response(
        rendering.render({"error": message}), status, media_type="application/json", headers=dict(headers or {})
    )


def answer_crash(request: Request, crash: Exception) -> Response:
    """Return the answer to an unexpected error: an id, under which the log has the traceback."""
    request_id = request.scope.get("state", {}).get("request_id") or uuid4().hex
    log.error("request %s failed", request_id, exc_info=crash)
    return error(500, f"internal error; request id {request_id}")


def in_words(problems: Sequence[Mapping[str, Any]]) -> str:
    """Say what pydantic found wrong, field by field. Of the request, only field names are repeated, shortened."""
    said = list(dict.fromkeys(_in_words(problem) for problem in problems))
    more = len(said) - MOST_PROBLEMS
    return " ".join(said[:MOST_PROBLEMS]) + (f" And {more} more." if more > 0 else "")


def _in_words(problem: Mapping[str, Any]) -> str:
    place = ".".join(_name(part) for part in problem["loc"][1:]) or "the body"
    said = WORDS[problem["type"]].format(**problem.get("ctx") or {}) if problem["type"] in WORDS else problem["msg"]
    return f"{place}: {NOT_A_FILE if said.startswith('Expected UploadFile') else said}."


def _name(part: object) -> str:
    text = str(part).encode("ascii", "backslashreplace").decode("ascii")
    return text if len(text) <= LONGEST_ECHO else f"{text[:LONGEST_ECHO]}..."


def _course_error(_: Request, wrong: CourseError) -> Response:
    status = next(STATUS[kind] for kind in type(wrong).__mro__ if kind in STATUS)
    return error(status, str(wrong), RETRY_AFTER if isinstance(wrong, Overloaded) else None)


def _bad_request(_: Request, wrong: RequestValidationError) -> Response:
    return error(422, in_words(wrong.errors()))


def _http_error(_: Request, wrong: AnyHTTPException) -> Response:
    if wrong.status_code == 404:
        return error(404, "There is nothing at this address; see /docs.")
    if wrong.status_code == 405:
        return error(405, "This address takes another method; see /docs.", wrong.headers)
    return error(wrong.status_code, str(wrong.detail), wrong.headers)
