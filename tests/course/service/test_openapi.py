"""The document held to its word: schemathesis asks what it allows and what it forbids, and sees what is answered."""

from __future__ import annotations

import io
from collections import Counter

import pytest
import schemathesis
from hypothesis import strategies as st
from PIL import Image
from schemathesis.engine import events, from_schema

from course.service.api import PICTURE_TYPES, build_api

OPERATIONS = 11
NO_PICTURE = {"positive_data_acceptance": {"expected-statuses": ["2xx", "404", "415", "503"]}}
"""No document can say which bytes are a picture."""
CHECKS = {
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "unsupported_method",
    "allow_header_conformance",
}


@pytest.fixture(scope="module", autouse=True)
def pictures() -> None:
    """Where a picture is asked for, schemathesis sends one."""
    drawn = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(drawn, "JPEG")
    for media_type in PICTURE_TYPES:
        schemathesis.openapi.media_type(media_type, st.just(drawn.getvalue()))


def prices_in_order(_, case) -> bool:
    """False for a question that is refused for what no schema can say: that price_min is the smaller."""
    filters = case.body.get("filters") if isinstance(case.body, dict) else None
    prices = [filters.get(name) for name in ("price_min", "price_max")] if isinstance(filters, dict) else [None]
    return not all(isinstance(price, int | float) for price in prices) or prices == sorted(prices)


def of_a_text(label: str | None, failure: str) -> bool:
    """Whether a number was sent for a text in a form, which has no numbers, and was taken for a text."""
    return label == "POST /categories" and "violates `type`" in failure


def hold_to_document(service, examples: int, *phases: str, built: bool = True) -> tuple[Counter, Counter]:
    """Run these phases of schemathesis with all its checks; returns how often each check was made, and each status
    answered, by operation. Fails on whatever a check finds."""
    allowed = ["2xx", "3xx", "4xx", *([] if built else ["503"])]
    config = schemathesis.Config.from_dict(
        {
            "seed": 0,
            "generation": {"max-examples": examples, "deterministic": True, "database": "none", "no-shrink": True},
            "phases": {name: {"enabled": name in phases} for name in ("examples", "coverage", "fuzzing", "stateful")},
            "checks": {"not_a_server_error": {"expected-statuses": allowed}},
            "operations": [{"include-path": path, "checks": NO_PICTURE} for path in ("/search/image", "/categories")],
        }
    )
    schema = schemathesis.openapi.from_asgi("/openapi.json", build_api(service, hosts=["testserver"]), config=config)
    schema.hook("filter_case")(prices_in_order)
    checks, statuses, wrong = Counter(), Counter(), []
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            wrong.append(str(event))
        if not isinstance(event, events.ScenarioFinished):
            continue
        for made in (check for checked in event.recorder.checks.values() for check in checked):
            checks[made.name] += 1
            if made.failure_info is not None and not of_a_text(event.label, str(made.failure_info.failure)):
                wrong.append(
                    f"{event.label}, {made.name}: {made.failure_info.failure}\n{made.failure_info.code_sample}"
                )
        answers = (one.response for one in event.recorder.interactions.values())
        statuses.update((event.label, answer.status_code) for answer in answers if answer is not None)
    assert wrong == [], "\n\n".join(wrong[:5])
    return checks, statuses


def test_a_few_of_each(service):
    checks, statuses = hold_to_document(service, 1, "coverage")
    assert set(checks) >= CHECKS
    assert len({label for label, _ in statuses}) == OPERATIONS
    answered = {label for label, status in statuses if status == 200}
    assert answered >= {"POST /search", "POST /search/image", "POST /categories", "GET /health", "GET /scoreboard"}


@pytest.mark.slow
def test_whatever_the_document_allows_and_forbids(service):
    checks, statuses = hold_to_document(service, 25, "examples", "coverage", "fuzzing")
    assert checks["negative_data_rejection"] > 300
    assert {status for _, status in statuses} == {200, 404, 405, 415, 422}


@pytest.mark.slow
def test_where_nothing_is_built(empty_service):
    _, statuses = hold_to_document(empty_service, 25, "examples", "coverage", "fuzzing", built=False)
    assert statuses["POST /search", 503] and statuses["GET /scoreboard", 503]
    assert {label for label, status in statuses if status == 200} == {"GET /health", "GET /index-info"}


def test_everything_is_described(service):
    document = build_api(service, token="secret").openapi()
    operations = {(path, name): one for path, methods in document["paths"].items() for name, one in methods.items()}
    assert len(operations) == OPERATIONS
    for key, operation in operations.items():
        assert operation["description"] and operation["tags"], key
        assert {"401", "422", "500"} <= set(operation["responses"]), key
        refused = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        assert {str(one["content"]) for one in refused.values()} == {
            "{'application/json': {'schema': {'$ref': '#/components/schemas/Error'}}}"
        }
        assert all(parameter["description"] for parameter in operation.get("parameters", ())), key
    inputs = ("SearchQuestion", "Filters", "Body_search_image", "Body_categories")
    for name in inputs:
        fields = document["components"]["schemas"][name]
        assert fields["additionalProperties"] is False
        assert all("description" in one or "$ref" in one for one in fields["properties"].values()), name
    assert document["security"] == [{"token": []}] and operations["/health", "get"]["security"] == []
    assert "security" not in build_api(service).openapi()


def test_the_document_names_the_systems(service, empty_service):
    def systems(one):
        return build_api(one).openapi()["components"]["schemas"]["SearchQuestion"]["properties"]["system"]["anyOf"]

    assert systems(service) == [{"type": "string", "enum": ["BM25", "MiniLM"]}, {"type": "null"}]
    assert systems(empty_service) == [{"type": "null"}]
