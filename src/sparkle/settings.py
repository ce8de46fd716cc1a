"""All settings in one object: defaults, then a YAML file, then ``SPARKLE_*`` variables, then what the command line says.

``SPARKLE_QUOTA__TOKENS_PER_DAY=5000`` sets ``settings.quota.tokens_per_day``; ``__`` nests, lists and maps are JSON.
An unknown ``SPARKLE_*`` variable or key is an error, because a misspelt limit is a limit that does not hold.
``sparkle settings`` prints every name with its default and meaning.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta, Struct

from sparkle.errors import ConfigurationError

PREFIX = "SPARKLE_"

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]


def _doc(text: str, **kwargs: Any) -> Any:
    return Meta(description=text, **kwargs)


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class ServerSettings(_Section):
    """The HTTP gateway."""

    host: Annotated[str, _doc("Address to listen on. Anything but loopback demands API keys.")] = "127.0.0.1"
    port: Annotated[int, _doc("Port to listen on; 0 takes a free one and prints it.", ge=0, le=65535)] = 8000
    workers: Annotated[int, _doc("Gateway processes sharing the port.", ge=1, le=64)] = 1
    require_keys: Annotated[bool | None, _doc("Demand an API key. Unset: only beyond loopback.")] = None
    max_body_bytes: Annotated[int, _doc("Largest request body accepted; above it 413.", ge=1024)] = 4 * 1024 * 1024
    max_json_depth: Annotated[int, _doc("Deepest nesting of a request body; above it 400.", ge=4, le=500)] = 64
    drain_seconds: Annotated[float, _doc("On SIGTERM, how long running calls may take to end.", ge=0)] = 30.0
    drain_delay_seconds: Annotated[float, _doc("How long /readyz says no before the port closes.", ge=0)] = 0.0
    idempotency_seconds: Annotated[int, _doc("How long an Idempotency-Key is remembered; 0 switches it off.", ge=0)] = (
        86_400
    )


class ScopeLimits(_Section):
    """Limits of one scope (team, key or everything together). 0 means no limit."""

    tokens_per_day: Annotated[Count, _doc("Tokens (prompt and answer) per day.")] = 0
    requests_per_minute: Annotated[Count, _doc("Requests per minute.")] = 0
    concurrency: Annotated[Count, _doc("Requests at the same time.")] = 0
    usd_per_day: Annotated[float, _doc("Money per day in US dollars.", ge=0)] = 0.0
    usd_per_month: Annotated[float, _doc("Money per calendar month in US dollars.", ge=0)] = 0.0


class QuotaSettings(_Section):
    """Quota and cost. The first five are per user; 0 means no limit."""

    tokens_per_day: Annotated[Count, _doc("Tokens (prompt and answer) per user and day.")] = 100_000
    requests_per_minute: Annotated[Count, _doc("Requests per user and minute.")] = 0
    concurrency: Annotated[Count, _doc("Requests of one user at the same time.")] = 0
    usd_per_day: Annotated[float, _doc("Money per user and day in US dollars.", ge=0)] = 0.0
    usd_per_month: Annotated[float, _doc("Money per user and calendar month in US dollars.", ge=0)] = 0.0
    team: Annotated[ScopeLimits, _doc("Limits of every team.")] = ScopeLimits()
    key: Annotated[ScopeLimits, _doc("Limits of every API key.")] = ScopeLimits()
    total: Annotated[ScopeLimits, _doc("Limits of all calls together.")] = ScopeLimits()
    timezone: Annotated[str, _doc("IANA zone in which days and months begin.")] = "UTC"
    store_url: Annotated[
        str, _doc("redis://, rediss:// or unix:// of a shared Valkey/Redis; empty: SQLite in the data folder.")
    ] = ""
    default_max_output_tokens: Annotated[
        int, _doc("Largest answer reserved when the caller sets no max_tokens.", ge=1)
    ] = 4_096
    max_output_tokens: Annotated[int, _doc("Largest answer a caller may ask for.", ge=1)] = 32_768
    min_output_tokens: Annotated[
        int, _doc("Smallest answer worth starting when the caller sets no max_tokens and little is left.", ge=1)
    ] = 64
    lease_seconds: Annotated[
        Seconds, _doc("A dead process's reservations return after this many seconds without its heartbeat.")
    ] = 10.0
    prices_file: Annotated[str, _doc("YAML price table that overrides the shipped one.")] = ""


class UpstreamSettings(_Section):
    """One OpenAI-compatible API."""

    name: Annotated[str, _doc("Name used in metrics, aliases and errors.")]
    base_url: Annotated[str, _doc("Base URL, e.g. https://api.openai.com/v1.")]
    api_key: Annotated[str, _doc("Key sent upstream; prefer api_key_env.")] = ""
    api_key_env: Annotated[str, _doc("Environment variable that holds the key.")] = ""
    models: Annotated[
        tuple[str, ...], _doc("Models it serves; glob patterns; empty: whatever no other upstream names.")
    ] = ()
    max_connections: Annotated[int, _doc("Largest connection pool per worker.", ge=1)] = 512


class ProviderSettings(_Section):
    """Where models are."""

    upstream: Annotated[str, _doc("Base URL of a single upstream (what --upstream sets).")] = ""
    upstreams: Annotated[tuple[UpstreamSettings, ...], _doc("Several upstreams, in order of preference.")] = ()
    aliases: Annotated[
        dict[str, tuple[str, ...]],
        _doc('Model name to "model" or "upstream/model" candidates, tried in order (fallback).'),
    ] = {}
    local_model: Annotated[str, _doc("GGUF file for the local model; empty: SmolLM2-135M from its wheel.")] = ""
    local_threads: Annotated[int, _doc("Threads of the local model; 0: all cores.", ge=0)] = 0
    connect_timeout: Annotated[Seconds, _doc("Seconds to connect.")] = 5.0
    first_byte_timeout: Annotated[Seconds, _doc("Seconds until the answer's headers.")] = 120.0
    idle_timeout: Annotated[Seconds, _doc("Seconds between two chunks of a stream.")] = 60.0
    total_timeout: Annotated[Seconds, _doc("Seconds for a whole call, retries included.")] = 600.0
    max_retries: Annotated[int, _doc("Retries of one upstream before the next one is tried.", ge=0, le=10)] = 2
    retry_base_seconds: Annotated[Seconds, _doc("Base of the exponential backoff (full jitter).")] = 0.25
    retry_max_seconds: Annotated[Seconds, _doc("Longest single backoff.")] = 8.0
    breaker_failures: Annotated[int, _doc("Consecutive failures that open an upstream's circuit.", ge=1)] = 5
    breaker_reset_seconds: Annotated[Seconds, _doc("Rest before an open circuit lets one call try.")] = 10.0


class MonitoringSettings(_Section):
    """Metrics, spans and the audit record."""

    audit: Annotated[bool, _doc("Write one audit record per call.")] = True
    audit_retention_days: Annotated[int, _doc("Days to keep audit files; 0 keeps them.", ge=0)] = 90
    tracing: Annotated[bool, _doc("OpenTelemetry GenAI spans (extra otel; OTEL_* configure the exporter).")] = False
    capture_content: Annotated[bool, _doc("Put message content into spans. Off unless you need it.")] = False
    log_level: Annotated[str, _doc("debug, info, warning or error.")] = "info"


class Settings(_Section):
    """Everything; built once by the composition root and passed in."""

    data_dir: Annotated[Path, _doc("Folder for databases, audit files and caches.")] = Path(".sparkle")
    policy: Annotated[str, _doc("Policy file (YAML); empty: the shipped default.")] = ""
    server: ServerSettings = ServerSettings()
    quota: QuotaSettings = QuotaSettings()
    provider: ProviderSettings = ProviderSettings()
    monitoring: MonitoringSettings = MonitoringSettings()


def load_settings(
    *,
    file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Build the settings.

    Args:
        file: YAML file with the same nesting as :class:`Settings`; ``None`` reads the one ``SPARKLE_CONFIG`` names.
        environ: Variables to read; ``None`` reads the process's own.
        overrides: Dotted names to values, strongest of all, e.g. ``{"server.port": 0}``; ``None`` values are skipped.

    Raises:
        ConfigurationError: Unknown name, wrong type or value out of range; the message names the setting.
    """
    env = dict(os.environ if environ is None else environ)
    path = file or env.pop(PREFIX + "CONFIG", None)
    env.pop(PREFIX + "CONFIG", None)
    tree = _read_file(Path(path)) if path else {}
    for name, value in env.items():
        if name.startswith(PREFIX):
            _put(tree, name[len(PREFIX) :].lower().split("__"), _maybe_json(value), name)
    for dotted, value in (overrides or {}).items():
        if value is not None:
            _put(tree, dotted.split("."), value, dotted)
    provider = tree.setdefault("provider", {})
    if isinstance(provider, dict) and not provider.get("upstream") and not provider.get("upstreams"):
        base = env.get("OPENAI_BASE_URL", "")
        if base:
            cast("dict[str, Any]", provider)["upstream"] = base
    try:
        return msgspec.convert(tree, Settings, strict=False, dec_hook=_decode_path)
    except msgspec.ValidationError as exc:
        raise ConfigurationError(f"settings: {_name_the_setting(str(exc))}") from None


def describe(settings: Settings | None = None) -> Iterator[tuple[str, str, str]]:
    """Every setting as ``(variable, value, meaning)``, in the order of the source. Keys are masked."""
    yield from _describe(settings or Settings(), PREFIX)


def _describe(section: Struct, prefix: str) -> Iterator[tuple[str, str, str]]:
    for field in msgspec.inspect.type_info(type(section)).fields:  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
        name: str = field.name  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        value = getattr(section, name)
        variable = prefix + name.upper()
        if isinstance(value, Struct):
            yield from _describe(value, variable + "__")
            continue
        meta = getattr(field.type, "extra_json_schema", None) or {}  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        shown = msgspec.json.encode(value, enc_hook=str).decode() if not isinstance(value, str) else value
        if name == "upstreams" and value:
            shown = "(set)"
        yield variable, shown, str(meta.get("description", ""))


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"expected a path, got {type(value).__name__}")


def _read_file(path: Path) -> dict[str, Any]:
    try:
        data: Any = msgspec.yaml.decode(path.read_bytes())
    except OSError as exc:
        raise ConfigurationError(f"settings file {path}: {exc.strerror or exc}") from None
    except msgspec.DecodeError as exc:
        raise ConfigurationError(f"settings file {path} is not valid YAML: {exc}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigurationError(f"settings file {path} must hold a mapping")
    return cast("dict[str, Any]", data)


def _maybe_json(value: str) -> Any:
    if value[:1] in "[{":
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    return value


def _put(tree: dict[str, Any], parts: list[str], value: Any, source: str) -> None:
    node = tree
    for part in parts[:-1]:
        child: Any = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise ConfigurationError(f"{source}: {part!r} is a value, not a section")
        node = cast("dict[str, Any]", child)
    node[parts[-1]] = value


def _name_the_setting(message: str) -> str:
    # msgspec ends its messages with " - at `$.quota.tokens_per_day`" or names an unknown field.
    text, _, where = message.partition(" - at `$")
    where = where.rstrip("`").lstrip(".")
    if "unknown field" in text:
        field = text.rsplit("`", 2)[1]
        full = f"{where}.{field}" if where else field
        return f"unknown setting {full!r} (variable {_variable(full)}); `sparkle settings` lists them all"
    return f"{where or 'value'} ({_variable(where)}): {text}" if where else text


def _variable(dotted: str) -> str:
    return PREFIX + dotted.upper().replace(".", "__")
