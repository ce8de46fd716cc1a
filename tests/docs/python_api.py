"""The public Python names as Markdown: signatures, docstrings, fields with their meaning."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from enum import Enum
from typing import Any

import sparkle
from sparkle.errors import SparkleError

_HEADINGS = {"Args:": "Arguments", "Returns:": "Returns", "Raises:": "Raises", "Yields:": "Yields"}
_ROLE = re.compile(r":(?:class|meth|func|mod|data|attr):`~?(?:[\w.]*\.)?(\w+)`")
_ITEM = re.compile(r"^(\*{0,2}\w+(?:, \w+)*): (.*)$")
_ELSEWHERE = (sparkle.Settings, sparkle.Policy, SparkleError)
"""Settings, policy and errors have pages of their own."""


def python_api() -> str:
    """One part per public name, in the order of ``sparkle.__all__``."""
    parts: list[str] = []
    for name in sparkle.__all__:
        value: Any = getattr(sparkle, name)
        if isinstance(value, type) and issubclass(value, _ELSEWHERE):
            continue
        parts.append(_class(value) if isinstance(value, type) else _function(name, value, "###"))
    return "\n\n".join(parts)


def _class(kind: type[Any]) -> str:
    if issubclass(kind, Enum):
        values = ", ".join(f"`{member.value}`" for member in kind)
        return f"### {kind.__name__}\n\n{_prose(inspect.getdoc(kind))}\n\nValues: {values}."
    parts = [f"### {kind.__name__}", _prose(inspect.getdoc(kind))]
    fields = list(_fields(kind))
    if fields:
        rows = [f"| `{name}` | `{kind_}` | {meaning} |" for name, kind_, meaning in fields]
        parts.append("\n".join(["| field | type | meaning |", "|---|---|---|", *rows]))
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            parts.append(f"#### {kind.__name__}.{name}\n\n{_prose(inspect.getdoc(member))}")
        elif inspect.isfunction(member) or isinstance(member, staticmethod):
            parts.append(_function(f"{kind.__name__}.{name}", getattr(kind, name), "####"))
    return "\n\n".join(part for part in parts if part)


def _function(name: str, value: Any, level: str) -> str:
    inner = inspect.unwrap(value)
    prefix = "async " if inspect.iscoroutinefunction(inner) else ""
    if inspect.isasyncgenfunction(inner):
        prefix = "async with " if value is not inner else "async for "
    # Annotations are strings here (postponed evaluation); shown without their quotes.
    signature = re.sub(r"""(: |-> )(?:'([^']*)'|"([^"]*)")""", r"\1\2\3", str(inspect.signature(inner)))
    signature = re.sub(r"^\((?:self|cls)(?:, )?", "(", signature)
    return f"{level} {name}\n\n```text\n{prefix}{name}{signature}\n```\n\n{_prose(inspect.getdoc(value))}"


def _fields(kind: type[Any]) -> Iterator[tuple[str, str, str]]:
    """Fields of a dataclass or struct, with the string that stands below each in the source."""
    if not (hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__struct_fields__")):
        return
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            meaning = ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                meaning = _inline(" ".join(str(following.value.value).split()))
            yield (
                node.target.id,
                ast.unparse(node.annotation).replace("|", "\\|"),
                meaning.replace("|", "\\|"),
            )


def _inline(text: str) -> str:
    return _ROLE.sub(r"`\1`", text).replace("``", "`")


def _prose(doc: str | None) -> str:
    """A docstring as Markdown: its sections as bold words, their entries as lists; literal blocks are left out."""
    out: list[str] = []
    listing = literal = False
    for line in (doc or "").splitlines():
        if literal and (not line.strip() or line.startswith("    ")):
            continue
        literal = line.strip().endswith("::")
        if literal:
            line = line.removesuffix("::").rstrip()
        if line in _HEADINGS:
            listing = True
            out += [f"**{_HEADINGS[line]}**", ""]
            continue
        if line and not line.startswith(" "):
            listing = False
        item = _ITEM.match(line.strip()) if listing and not line.startswith("     ") else None
        text = f"- `{item[1]}`: {item[2]}" if item else line.strip() if listing else line
        out.append(("  " if listing and line.startswith("     ") else "") + _inline(text))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip()
