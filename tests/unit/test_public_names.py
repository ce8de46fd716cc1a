"""The public names: sorted, importable, and quick to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sparkle


def test_the_names_are_sorted_and_unique() -> None:
    assert list(sparkle.__all__) == sorted(set(sparkle.__all__))


@pytest.mark.parametrize("name", sparkle.__all__)
def test_a_public_name_can_be_imported(name: str) -> None:
    value = getattr(sparkle, name)
    assert getattr(value, "__name__", name) == name
    assert value.__doc__
    assert name in dir(sparkle)


def test_every_public_error_belongs_to_the_one_tree() -> None:
    errors = [getattr(sparkle, name) for name in sparkle.__all__ if name.endswith("Error")]
    assert all(issubclass(error, sparkle.SparkleError) for error in errors)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sparkle.nothing  # pyright: ignore[reportUnknownVariableType, reportAttributeAccessIssue]  that is the test


def test_importing_the_package_loads_no_heavy_library() -> None:
    heavy = (
        "aiohttp",
        "uvicorn",
        "starlette",
        "prometheus_client",
        "re2",
        "phonenumbers",
        "redis",
        "openai",
        "rich",
    )
    code = f"import sys, sparkle, sparkle.cli; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_star_import_gives_exactly_the_public_names() -> None:
    scope: dict[str, object] = {}
    exec("from sparkle import *", scope)
    assert {name for name in scope if not name.startswith("__")} == set(sparkle.__all__)
