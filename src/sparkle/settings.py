"""All settings in one object: defaults, then a YAML file, then ``SPARKLE_*``, then the command line.

``SPARKLE_QUOTA__TOKENS_PER_DAY=5000`` sets ``settings.quota.tokens_per_day``; ``__`` nests, lists and maps
are JSON.
An unknown ``SPARKLE_*`` variable or key is an error, because a misspelt limit is a limit that does not hold.
``sparkle settings`` prints every name with its default and meaning.
"""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_type_hints
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Struct

from sparkle.errors import ConfigurationError
from sparkle.masking import masked
from sparkle.settings_base import Count, Seconds
from sparkle.settings_base import Section as _Section
from sparkle.settings_base import doc as _doc
from sparkle.settings_sources import PREFIX, settings_tree
from sparkle.settings_tasks import TasksSettings
from sparkle.validation import Problem, find_problems


class ServerSettings(_Section, frozen=True):
    """The HTTP gateway."""

    host: Annotated[str, _doc("Address to listen on. Anything but loopback demands API keys.")] = "127.0.0.1"
    port: Annotated[int, _doc("Port to listen on; 0 takes a free one and prints it.", ge=0, le=65535)] = 8000
    workers: Annotated[int, _doc("Gateway processes sharing the port.", ge=1, le=64)] = 1
    require_keys: Annotated[bool | None, _doc("Demand an API key. Unset: only beyond loopback.")] = None
    max_body_bytes: Annotated[int, _doc("Largest request body accepted; above it 413.", ge=1024)] = (
        4 * 1024 * 1024
    )
    max_json_depth: Annotated[int, _doc("Deepest nesting of a request body; above it 400.", ge=4, le=500)] = (
        64
    )
    drain_seconds: Annotated[float, _doc("On SIGTERM, how long running calls may take to end.", ge=0)] = 30.0
    drain_delay_seconds: Annotated[float, _doc("How long /readyz says no before the port closes.", ge=0)] = (
        0.0
    )
    idempotency_seconds: Annotated[
        int, _doc("How long an Idempotency-Key is remembered; 0 switches it off.", ge=0)
    ] = 86_400


class ScopeLimits(_Section, frozen=True):
    """Limits of one scope (team, key or everything together). 0 means no limit."""

    tokens_per_day: Annotated[Count, _doc("Tokens (prompt and answer) per day.")] = 0
    requests_per_minute: Annotated[Count, _doc("Requests per minute.")] = 0
    concurrency: Annotated[Count, _doc("Requests at the same time.")] = 0
    usd_per_day: Annotated[float, _doc("Money per day in US dollars.", ge=0)] = 0.0
    usd_per_month: Annotated[float, _doc("Money per calendar month in US dollars.", ge=0)] = 0.0


class QuotaSettings(_Section, frozen=True):
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
        str,
        _doc("redis://, rediss:// or unix:// of a shared Valkey/Redis; empty: SQLite in the data folder."),
    ] = ""
    default_max_output_tokens: Annotated[
        int, _doc("Largest answer reserved when the caller sets no max_tokens.", ge=1)
    ] = 4_096
    max_output_tokens: Annotated[int, _doc("Largest answer a caller may ask for.", ge=1)] = 32_768
    min_output_tokens: Annotated[
        int,
        _doc("Smallest answer worth starting when the caller sets no max_tokens and little is left.", ge=1),
    ] = 64
    lease_seconds: Annotated[
        Seconds, _doc("A dead process's reservations return after this many seconds without its heartbeat.")
    ] = 10.0
    prices_file: Annotated[str, _doc("YAML price table that overrides the shipped one.")] = ""


class UpstreamSettings(_Section, frozen=True):
    """One OpenAI-compatible API."""

    name: Annotated[str, _doc("Name used in metrics, aliases and errors.")]
    base_url: Annotated[str, _doc("Base URL, e.g. https://api.openai.com/v1.")]
    api_key: Annotated[str, _doc("Key sent upstream; prefer api_key_env.")] = ""
    api_key_env: Annotated[str, _doc("Environment variable that holds the key.")] = ""
    models: Annotated[
        tuple[str, ...], _doc("Models it serves; glob patterns; empty: whatever no other upstream names.")
    ] = ()
    max_connections: Annotated[int, _doc("Largest connection pool per worker.", ge=1)] = 512


class ProviderSettings(_Section, frozen=True):
    """Where models are."""

    upstream: Annotated[str, _doc("Base URL of a single upstream (what --upstream sets).")] = ""
    upstreams: Annotated[
        tuple[UpstreamSettings, ...], _doc("Several upstreams, in order of preference.")
    ] = ()
    aliases: Annotated[
        dict[str, tuple[str, ...]],
        _doc('Model name to "model" or "upstream/model" candidates, tried in order (fallback).'),
    ] = msgspec.field(default_factory=dict[str, tuple[str, ...]])
    local_model: Annotated[
        str, _doc("GGUF file for the local model; empty: SmolLM2-135M from its wheel.")
    ] = ""
    local_threads: Annotated[int, _doc("Threads of the local model; 0: all cores but one.", ge=0)] = 0
    connect_timeout: Annotated[Seconds, _doc("Seconds to connect.")] = 5.0
    first_byte_timeout: Annotated[Seconds, _doc("Seconds until the answer's headers.")] = 120.0
    idle_timeout: Annotated[Seconds, _doc("Seconds between two chunks of a stream.")] = 60.0
    total_timeout: Annotated[Seconds, _doc("Seconds for a whole call, retries included.")] = 600.0
    max_retries: Annotated[
        int, _doc("Retries of one upstream before the next one is tried.", ge=0, le=10)
    ] = 2
    retry_base_seconds: Annotated[Seconds, _doc("Base of the exponential backoff (full jitter).")] = 0.25
    retry_max_seconds: Annotated[Seconds, _doc("Longest single backoff.")] = 8.0
    breaker_failures: Annotated[int, _doc("Consecutive failures that open an upstream's circuit.", ge=1)] = 5
    breaker_reset_seconds: Annotated[Seconds, _doc("Rest before an open circuit lets one call try.")] = 10.0


class MonitoringSettings(_Section, frozen=True):
    """Metrics, spans and the audit record."""

    audit: Annotated[bool, _doc("Write one audit record per call.")] = True
    audit_retention_days: Annotated[int, _doc("Days to keep audit files; 0 keeps them.", ge=0)] = 90
    tracing: Annotated[
        bool, _doc("OpenTelemetry GenAI spans (extra otel; OTEL_* configure the exporter).")
    ] = False
    capture_content: Annotated[bool, _doc("Put message content into spans. Off unless you need it.")] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _doc("debug, info, warning or error.")
    ] = "info"


class Settings(_Section, frozen=True):
    """Everything; built once by the composition root and passed in."""

    data_dir: Annotated[Path, _doc("Folder for databases, audit files and caches.")] = Path(".sparkle")
    policy: Annotated[str, _doc("Policy file (YAML); empty: the shipped default.")] = ""
    server: ServerSettings = ServerSettings()
    quota: QuotaSettings = QuotaSettings()
    provider: ProviderSettings = ProviderSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    tasks: TasksSettings = TasksSettings()


def load_settings(
    *,
    file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Build the settings.

    Args:
        file: YAML file with the same nesting as :class:`Settings`; ``None`` reads the one ``SPARKLE_CONFIG``
            names.
        environ: Variables to read; ``None`` reads the process's own.
        overrides: Dotted names to values, strongest of all, e.g. ``{"server.port": 0}``; ``None`` values are
            skipped.

    Raises:
        ConfigurationError: Unknown name, wrong type or value out of range; the message names every such
            setting and never repeats a secret. ``details["problems"]`` lists them one by one.
    """
    tree = settings_tree(os.environ if environ is None else environ, file, overrides or {})
    problems = list(find_problems(tree, Settings, strict=False, dec_hook=_decode_path))
    if not problems:
        settings = msgspec.convert(tree, Settings, strict=False, dec_hook=_decode_path)
        problems = list(_contradictions(settings))
        if not problems:
            return settings
    lines = [_say(full) for problem in problems for full in _whole_names(problem, tree)]
    raise ConfigurationError(f"settings: {'; '.join(lines)}", details={"problems": lines})


def describe(settings: Settings | None = None) -> Iterator[tuple[str, str, str]]:
    """Every setting as ``(variable, value, meaning)``, in the order of the source. Secrets are masked."""
    yield from _describe(settings or Settings(), PREFIX)


def _describe(section: Struct, prefix: str) -> Iterator[tuple[str, str, str]]:
    hints = get_type_hints(type(section), include_extras=True)
    for name in section.__struct_fields__:
        value = getattr(section, name)
        variable = prefix + name.upper()
        if isinstance(value, Struct):
            yield from _describe(value, variable + "__")
            continue
        notes = (
            meta.description for meta in getattr(hints[name], "__metadata__", ()) if isinstance(meta, Meta)
        )
        # The outermost note is the setting's own; inner ones belong to reused types.
        yield variable, _shown(name, value), next((note for note in reversed(list(notes)) if note), "")


def _shown(name: str, value: Any) -> str:
    value = masked(name, value)
    if isinstance(value, str | Path):
        return str(value)
    return msgspec.json.encode(_plain(value)).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, Struct):
        return {n: _plain(masked(n, getattr(value, n))) for n in value.__struct_fields__}
    if isinstance(value, tuple):
        return [_plain(item) for item in cast("tuple[Any, ...]", value)]
    return value


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    raise ValueError(f"expected a path, got {type(value).__name__}")


def _contradictions(settings: Settings) -> Iterator[Problem]:
    """What no single field's type can say."""
    try:
        ZoneInfo(settings.quota.timezone)
    except (
        KeyError,
        ValueError,
        OSError,
    ):  # unknown name; not a name at all; a directory of the zone database
        yield Problem(("quota", "timezone"), 'must be an IANA time zone such as "UTC" or "Asia/Shanghai"')
    names = [upstream.name for upstream in settings.provider.upstreams]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem(
            ("provider", "upstreams"), f"two upstreams are named {name!r}; aliases could not tell them apart"
        )


def _whole_names(problem: Problem, tree: dict[str, Any]) -> Iterator[Problem]:
    """An unknown section as the settings that stand in it: SPARKLE_SEVER__PORT is to be called by its name."""
    value: Any = tree
    for part in problem.path:
        value = cast("dict[str, Any]", value).get(str(part)) if isinstance(value, dict) else None
    if problem.message.startswith("unknown name") and isinstance(value, dict) and value:
        for name in cast("dict[str, Any]", value):
            yield from _whole_names(Problem((*problem.path, name), problem.message), tree)
    else:
        yield problem


_WRITTEN = {"array": '["first", "second"]', "object": '{"name": ...}'}


def _say(problem: Problem) -> str:
    # A variable holds a whole list, so its name ends where the first list position stands.
    names = list(itertools.takewhile(lambda part: isinstance(part, str), problem.path))
    variable = PREFIX + "__".join(str(part) for part in names).upper()
    if problem.message.startswith("unknown name") and len(names) == len(problem.path):
        hint = f"; did you mean {near}?" if (near := _nearest(variable)) else ""
        return f"unknown setting {problem.where!r} ({variable}){hint} `sparkle settings` lists them all"
    if not problem.path:
        return problem.message
    # Whoever writes a variable thinks of a text, and is not helped by the name of a type.
    how = next((how for kind, how in _WRITTEN.items() if f"expected {kind}" in problem.message), "")
    hint = f"; write it as JSON: {variable}='{how}'" if how and len(names) == len(problem.path) else ""
    return f"{problem.where} ({variable}) {problem.message}{hint}"


def _nearest(variable: str) -> str | None:
    """The known variable that was probably meant: SPARKLE_PORT means SPARKLE_SERVER__PORT."""
    known = [name for name, _, _ in describe()]
    same_end = [name for name in known if name.endswith("__" + variable.removeprefix(PREFIX))]
    near = same_end or difflib.get_close_matches(variable, known, n=1, cutoff=0.8)
    return near[0] if near else None
