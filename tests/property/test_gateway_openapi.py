"""The running server keeps to its OpenAPI document, whatever is sent: no 500, no undocumented answer."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Generator
from importlib import import_module
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from tests.support.background import upstream_in_thread
from tests.support.serve import serving

from sparkle.server.pages import openapi_document

# Generic over the types of the schema it reads, and so untyped here; the one place where that is said.
schemathesis: Any = import_module("schemathesis")
checks: Any = import_module("schemathesis.checks")
openapi_checks: Any = import_module("schemathesis.specs.openapi.checks")

SCHEMA = schemathesis.openapi.from_dict(openapi_document())
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
]
EXAMPLES = 20
OPERATIONS = [(path, method) for path, methods in openapi_document()["paths"].items() for method in methods]
WITH_BODY = [(path, method) for path, method in OPERATIONS if method == "post"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    folder = tmp_path_factory.mktemp("openapi")
    environ = {"SPARKLE_QUOTA__TOKENS_PER_DAY": "0"}
    with upstream_in_thread() as up, serving(folder, upstream=up.url, environ=environ) as running:
        up.answer("Light is fast.", usage=(3, 4))
        yield running.url
        assert "Traceback" not in running.output
        assert "ERROR" not in running.output


@pytest.fixture(scope="module")
def session() -> Generator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_what_fits_the_document_is_answered_as_documented(
    server: str, session: requests.Session, path: str, method: str
) -> None:
    check(server, session, path, method, schemathesis.GenerationMode.POSITIVE)


@pytest.mark.parametrize(("path", "method"), WITH_BODY)
def test_what_does_not_fit_the_document_is_refused_as_documented(
    server: str, session: requests.Session, path: str, method: str
) -> None:
    check(server, session, path, method, schemathesis.GenerationMode.NEGATIVE)


def check(server: str, session: requests.Session, path: str, method: str, mode: Any) -> None:
    strategy = SCHEMA[path][method.upper()].as_strategy(generation_mode=mode)
    examples = EXAMPLES if (path, method) in WITH_BODY else 3
    slow_is_fine: list[Any] = list(HealthCheck)

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=slow_is_fine,
    )
    @given(case=strategy)
    def run(case: Any) -> None:
        response = case.call(base_url=server, session=session, timeout=20)
        assert response.headers["x-request-id"]
        case.validate_response(response, checks=CHECKS)

    run()


def test_the_server_serves_the_document_it_ships(server: str) -> None:
    with urllib.request.urlopen(server + "/openapi.json") as answer:
        assert json.load(answer) == openapi_document()
