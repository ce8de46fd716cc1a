"""Reading a policy file: YAML in, one checked :class:`Policy` out, or every problem with its line.

YAML 1.1 reads the bare word ``off`` as false and lets a later key silently replace an earlier one of the same
name. In a file that says what is forbidden both are traps: here ``off`` means the mode and a repeated key is
an error.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from sparkle.errors import PolicyError
from sparkle.llm.policy import DEFAULT_ROLES, AllowEntry, Policy
from sparkle.validation import Problem, did_you_mean, find_problems

if TYPE_CHECKING:
    import yaml

_MAX_BYTES = 1_000_000
_OFF_SECTIONS = (("input", "rules"), ("output", "rules"), ("input", "roles"))

Lines = dict[tuple[str | int, ...], int]


def default_policy_text() -> str:
    """The shipped policy file, comments included: the place to start from."""
    return (files("sparkle.llm") / "policies" / "default.yaml").read_text("utf-8")


def load_policy(path: str | Path | None = None) -> Policy:
    """Read and check a policy file; ``None`` or an empty path reads the shipped default.

    Rule names are not checked here: only the guards know their rules and refuse unknown names.

    Raises:
        PolicyError: The file cannot be read, is not YAML or breaks the schema. The message names file, line,
            field and what is allowed; ``details["problems"]`` lists the problems one by one.
    """
    if path is None or path == "":
        return parse_policy(default_policy_text(), source="default policy")
    return parse_policy(read_policy_bytes(Path(path)), source=str(path))


def read_policy_bytes(path: Path) -> bytes:
    """The bytes of a policy file.

    Raises:
        PolicyError: It cannot be read, is no regular file (a pipe could be waited for without end), or is larger than
            a megabyte.
    """
    try:
        # Without O_NONBLOCK the mere opening of a pipe waits for somebody to write into it.
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            os.close(opened)
            raise PolicyError(f"policy {path}: not a regular file; name a YAML file")
        with open(opened, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as exc:
        raise PolicyError(f"policy {path}: {exc.strerror or exc}") from None
    if len(data) > _MAX_BYTES:
        raise PolicyError(f"policy {path}: larger than {_MAX_BYTES:,} bytes")
    return data


def parse_policy(text: str | bytes, *, source: str) -> Policy:
    """Check the text of a policy file; ``source`` names it in errors. Raises as :func:`load_policy`."""
    tree, lines, problems = _read_yaml(text, source)
    tree = _spell_off(tree)
    problems += find_problems(tree, Policy)
    if not problems:
        policy = msgspec.convert(tree, Policy)
        problems = list(_semantic_problems(policy))
        if not problems:
            return policy
    said = [_say(problem, source, lines) for problem in problems]
    raise PolicyError("; ".join(said), details={"problems": said})


def policy_hash(policy: Policy) -> str:
    """16 hexadecimal digits that stand for what a policy says, whatever the order or comments of its file."""
    return hashlib.sha256(msgspec.json.encode(policy, order="deterministic")).hexdigest()[:16]


def _read_yaml(text: str | bytes, source: str) -> tuple[Any, Lines, list[Problem]]:
    import yaml

    lines: Lines = {}
    problems: list[Problem] = []
    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)  # refuses control characters at once
        node = loader.get_single_node()
        if node is None:
            return {}, lines, problems
        _walk(node, (), lines, problems, ())
        tree: Any = loader.construct_document(node)  # pyright: ignore[reportUnknownMemberType]  untyped there
    except (
        yaml.YAMLError,
        RecursionError,
        ValueError,
    ) as exc:  # ValueError: a date that is none, as 2026-99-99
        message = _yaml_message(exc, source)
        raise PolicyError(message, details={"problems": [message]}) from None
    finally:
        if loader is not None:
            loader.dispose()
    return tree, lines, problems


def _walk(
    node: yaml.Node,
    path: tuple[str | int, ...],
    lines: Lines,
    problems: list[Problem],
    above: tuple[yaml.Node, ...],
) -> None:
    """Note the line of every field and report repeated keys, before the reader merges them."""
    import yaml

    lines.setdefault(path, node.start_mark.line + 1)
    if any(node is ancestor for ancestor in above):
        raise yaml.YAMLError("an alias contains itself")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            key = str(cast("object", key_node.value))
            here = (*path, key)
            if key in seen:
                line = key_node.start_mark.line + 1
                problems.append(
                    Problem(here, f"is given twice (again in line {line}); one of them would be lost")
                )
            seen.add(key)
            lines.setdefault(here, key_node.start_mark.line + 1)
            _walk(value, here, lines, problems, (*above, node))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(cast("list[yaml.Node]", node.value)):
            _walk(item, (*path, index), lines, problems, (*above, node))


def _yaml_message(exc: Exception, source: str) -> str:
    mark = getattr(exc, "problem_mark", None)
    what = getattr(exc, "problem", None) or (str(exc) if isinstance(exc, ValueError) else "cannot be read")
    place = f"{source}:{mark.line + 1}" if mark is not None else source
    return f"{place}: not valid YAML: {what}"


def _spell_off(tree: Any) -> Any:
    """Turn the false that YAML makes of ``off`` back into the mode, where a mode or a trust is expected."""
    if not isinstance(tree, dict):
        return tree
    copy: dict[Any, Any] = dict(cast("dict[Any, Any]", tree))
    for section, name in _OFF_SECTIONS:
        outer = copy.get(section)
        inner = cast("dict[Any, Any]", outer).get(name) if isinstance(outer, dict) else None
        if isinstance(outer, dict) and isinstance(inner, dict):
            spelt = {k: "off" if v is False else v for k, v in cast("dict[Any, Any]", inner).items()}
            copy[section] = {**cast("dict[Any, Any]", outer), name: spelt}
    layer = copy.get("input")
    if isinstance(layer, dict) and isinstance(cast("dict[Any, Any]", layer).get("deep"), bool):
        inputs = cast("dict[Any, Any]", layer)
        copy["input"] = {**inputs, "deep": "on" if inputs["deep"] else "off"}
    return copy


def _semantic_problems(policy: Policy) -> Iterator[Problem]:
    """What no field's type can say."""
    for section, rules in (("input", policy.input.rules), ("output", policy.output.rules)):
        for key in rules:
            if "*" in key[:-1]:
                yield Problem((section, "rules", key), "a * may only stand at the end, e.g. injection.*")
    for section, entries in (("input", policy.input.allow), ("output", policy.output.allow)):
        for index, entry in enumerate(entries):
            yield from _allow_problems(entry, (section, "allow", index))
    yield from _role_problems(policy.input.roles)
    try:
        policy.output.placeholder.format(kind="email")
    except (LookupError, ValueError, AttributeError):
        yield Problem(("output", "placeholder"), "may hold {kind} and no other braces")


def _allow_problems(entry: AllowEntry, path: tuple[str | int, ...]) -> Iterator[Problem]:
    if bool(entry.text) == bool(entry.pattern):
        yield Problem(path, "needs either text or pattern; a rule is switched off by its mode, under rules")
    if entry.pattern and (reason := _pattern_problem(entry.pattern)):
        yield Problem((*path, "pattern"), f"is not a pattern that RE2 accepts: {reason}")


def _pattern_problem(pattern: str) -> str | None:
    import re2

    options = re2.Options()
    options.log_errors = False  # the error is returned; RE2 would also write it to stderr
    refusal = cast("type[Exception]", re2.error)  # pyright: ignore[reportUnknownMemberType]  untyped library
    try:
        re2.compile(pattern, options=options)  # pyright: ignore[reportUnknownMemberType]  untyped library
    except refusal as exc:
        reason: object = exc.args[0]
        return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
    return None


def _role_problems(roles: Mapping[str, str]) -> Iterator[Problem]:
    for role in roles:
        if role not in DEFAULT_ROLES:
            hint = did_you_mean(role, DEFAULT_ROLES)
            known = ", ".join(DEFAULT_ROLES)
            yield Problem(("input", "roles", role), f"unknown role{hint}; allowed here: {known}")


def _say(problem: Problem, source: str, lines: Lines) -> str:
    path = problem.path
    while path and path not in lines:
        path = path[:-1]  # a missing field has no line; its section has
    return f"{source}:{lines[path]}: {problem}" if path in lines else f"{source}: {problem}"
