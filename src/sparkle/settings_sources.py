"""Where settings come from, as one tree of names to values: file, then ``SPARKLE_*`` variables, then overrides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from sparkle.errors import ConfigurationError

PREFIX = "SPARKLE_"

_SERVICE_LINK = re.compile(
    r"SPARKLE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


def settings_tree(
    environ: Mapping[str, str], file: str | Path | None, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge the sources, the strongest last.

    Args:
        environ: Variables; ``SPARKLE_CONFIG`` names the file where ``file`` is ``None``.
        file: YAML file.
        overrides: Dotted names to values; ``None`` values are skipped.

    Raises:
        ConfigurationError: The file cannot be read, a variable's JSON is broken, or a value stands where a
            section is needed. Messages never repeat a value.
    """
    path = file or environ.get(PREFIX + "CONFIG")
    tree = _read_file(Path(path)) if path else {}
    ours = [n for n in environ if n.startswith(PREFIX) and not _is_not_ours(n, environ[n])]
    # Shorter names first: SPARKLE_QUOTA={...} beside SPARKLE_QUOTA__X=... means the same in any order.
    for name in sorted(ours, key=lambda n: (n.count("__"), n)):
        parts = name[len(PREFIX) :].lower().split("__")
        _put(tree, parts, _from_variable(name, environ[name]), name)
    for dotted, value in overrides.items():
        if value is not None:
            _put(tree, dotted.split("."), value, dotted)
    _honour_openai_variables(tree, environ)
    return tree


def _read_file(path: Path) -> dict[str, Any]:
    try:
        data: Any = msgspec.yaml.decode(path.read_bytes())
    except OSError as exc:
        raise ConfigurationError(f"settings file {path}: {exc.strerror or exc}") from None
    except msgspec.DecodeError:
        # The parser's own message quotes the file's lines, which may hold a key.
        raise ConfigurationError(f"settings file {path} is not valid YAML") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigurationError(f"settings file {path} must hold a mapping")
    return cast("dict[str, Any]", data)


def _is_not_ours(name: str, value: str) -> bool:
    """Whether it names the file, or Kubernetes set it: a Service called sparkle puts its address into every pod."""
    return (
        name == PREFIX + "CONFIG"
        or _SERVICE_LINK.fullmatch(name) is not None
        or (name.endswith("PORT") and value.startswith(("tcp://", "udp://", "sctp://")))
    )


def _from_variable(name: str, value: str) -> Any:
    if value[:1] not in ("[", "{"):
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        raise ConfigurationError(f"settings: {name} begins like JSON but is not valid JSON") from None


def _put(tree: dict[str, Any], parts: list[str], value: Any, source: str) -> None:
    node = tree
    for part in parts[:-1]:
        child: Any = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise ConfigurationError(f"settings: {source}: {part!r} is a value, not a section")
        node = cast("dict[str, Any]", child)
    node[parts[-1]] = value


def _honour_openai_variables(tree: dict[str, Any], env: Mapping[str, str]) -> None:
    base = env.get("OPENAI_BASE_URL", "")
    provider = tree.setdefault("provider", {})
    if base and isinstance(provider, dict):
        section = cast("dict[str, Any]", provider)
        if not section.get("upstream") and not section.get("upstreams"):
            section["upstream"] = base
