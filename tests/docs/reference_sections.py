"""What the reference pages say that the code says better: settings, rules, errors, metrics, commands, endpoints.

Each function makes one section, as the Markdown that stands between ``<!-- generated:NAME:begin -->`` and
``<!-- generated:NAME:end -->``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any, cast

import click
import msgspec
from tests.docs.python_api import python_api

from sparkle.cli import main as command_line
from sparkle.errors import SparkleError
from sparkle.llm.monitoring.metrics import Metrics
from sparkle.llm.policy import Policy
from sparkle.llm.policy_file import default_policy_text
from sparkle.llm.policy_view import policy_rows
from sparkle.llm.safety.rules import default_book
from sparkle.series import Exposition
from sparkle.server.pages import openapi_document
from sparkle.settings import PREFIX, Settings, UpstreamSettings, describe
from sparkle.tasks.ledger_metrics import DECLARED as TASK_METRICS
from sparkle.tasks.short_metrics import ShortTaskMetrics

Row = Sequence[object]

_ERROR_HOMES = (
    "sparkle.errors",
    "sparkle.errors_tasks",
    "sparkle.server.idempotency",
    "sparkle.llm.providers.failures",
)
"""Modules that define errors; the tree's own comes first."""

_FAMILIES = {
    "injection.override": "Instruction override · 覆盖指令",
    "injection.role_hijack": "Role hijack · 角色劫持",
    "injection.prompt_extraction": "System-prompt extraction · 套取系统提示",
    "injection.fake_turn": "Fake turns and delimiters · 伪造对话与分隔符",
    "injection.obfuscation": "Encoding and obfuscation · 编码与混淆",
    "injection.indirect": "Instructions hidden in data · 资料中暗藏指令",
    "injection.exfiltration": "Exfiltration and tool abuse · 数据外传与工具滥用",
    "injection.model": "Learned classifier (later) · 学习型分类器（后续）",
    "xss": "Active content · 活动内容",
    "shape": "Lengths and shapes · 长度与形状",
    "secret": "Secrets · 密钥与口令",
    "pii": "Personal data · 个人信息",
    "active": "Active content in answers · 回答中的活动内容",
    "leak": "Leaked system prompt · 系统提示泄露",
}


def table(head: Sequence[str], rows: Iterable[Row]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def code(value: object) -> str:
    """``value`` as inline code; an empty one as nothing."""
    text = str(value)
    return f"`{text}`" if text else ""


# Settings -------------------------------------------------------------------------------------------------------


def settings() -> str:
    """Every setting by section: variable, default, meaning."""
    groups: dict[str, list[Row]] = {}
    for variable, value, meaning in describe(Settings()):
        section, _, rest = variable.removeprefix(PREFIX).partition("__")
        shown = "unset" if value == "null" else code(value)
        groups.setdefault(section if rest else "", []).append((code(variable), shown, meaning))
    parts: list[str] = []
    for section, rows in groups.items():
        about = _section_doc(section.lower()) if section else "The installation."
        parts.append(f"### {section.lower() or 'general'}\n\n{about}\n")
        parts.append(table(("variable", "default", "meaning"), rows) + "\n")
    parts.append("### One entry of `SPARKLE_PROVIDER__UPSTREAMS`\n")
    parts.append(table(("field", "default", "meaning"), _fields(UpstreamSettings)))
    return "\n".join(parts)


def _section_doc(name: str) -> str:
    section: object = getattr(Settings(), name)
    return (section.__doc__ or "").strip().splitlines()[0]


def _fields(struct: type[msgspec.Struct]) -> Iterator[Row]:
    from typing import get_type_hints

    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        notes = [n.description for n in getattr(hints[field.name], "__metadata__", ()) if n.description]
        default: Any = "" if field.required else field.default
        shown = "required" if field.required else code(_plain(default))
        yield code(field.name), shown, notes[-1] if notes else ""


def _plain(value: object) -> str:
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


# Rules ----------------------------------------------------------------------------------------------------------


def input_rules() -> str:
    """Rules of the input guard by family."""
    return _rules("input")


def output_rules() -> str:
    """Rules of the output guard by family."""
    return _rules("output")


def _rules(layer: str) -> str:
    groups: dict[str, list[Row]] = {}
    lenient = {
        info.id for info in default_book().infos.values() if layer == "input" and info.permissive == "watch"
    }
    for row in policy_rows(Policy()):
        if row["layer"] != layer:
            continue
        family = _family(str(row["rule"]))
        reasons = f"{row['reason']}<br>{row['reason_zh']}"
        mode = f"{row['mode']} (permissive: watch)" if row["rule"] in lenient else row["mode"]
        groups.setdefault(family, []).append((code(row["rule"]), row["severity"], mode, reasons))
    count = sum(len(rows) for rows in groups.values())
    parts = [f"{count} rules.\n"]
    for family in sorted(groups, key=list(_FAMILIES).index):
        parts.append(f"### {_FAMILIES[family]}\n")
        parts.append(table(("rule", "severity", "default", "reason · 原因"), groups[family]) + "\n")
    return "\n".join(parts).rstrip()


def _family(rule: str) -> str:
    return next(name for name in _FAMILIES if rule == name or rule.startswith(name + "."))


# Errors ---------------------------------------------------------------------------------------------------------


def errors() -> str:
    """Every error class: status, type, code, whether a retry can help."""
    homes = [import_module(name) for name in _ERROR_HOMES]
    classes = [c for home in homes for c in vars(home).values() if _is_error(c, home.__name__)]
    rows: list[Row] = []
    for kind in classes:
        meaning = (inspect.getdoc(kind) or "").splitlines()[0]
        retry = "yes" if kind.retryable else "no"
        told = {None: "", True: "`true`", False: "`false`"}[kind.should_retry]
        name = ("&nbsp;&nbsp;" * (len(kind.__mro__) - len(SparkleError.__mro__))) + code(kind.__name__)
        rows.append((name, kind.http_status, code(kind.code), code(kind.type), retry, told, meaning))
    head = ("error", "HTTP", "`code`", "`type`", "retry helps", "`x-should-retry`", "meaning")
    return table(head, rows)


def _is_error(value: object, home: str) -> bool:
    return isinstance(value, type) and issubclass(value, SparkleError) and value.__module__ == home


# Metrics --------------------------------------------------------------------------------------------------------


def metrics() -> str:
    """Every metric: name, type, labels, meaning."""
    rows = [(code(m.name), m.kind, ", ".join(map(code, m.labels)), m.help) for m in declared_metrics()]
    return table(("metric", "type", "labels", "meaning"), rows)


class DeclaredMetric(msgspec.Struct, frozen=True):
    """One metric as the code declares it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


def declared_metrics() -> list[DeclaredMetric]:
    """All metrics, in the order of the source."""
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    Metrics(registry)
    ShortTaskMetrics(Exposition(registry))
    # The registry's public face shows only series that exist; a metric without one is declared all the same.
    collectors: Any = registry._collector_to_names  # pyright: ignore[reportPrivateUsage]  no public way
    found: list[DeclaredMetric] = []
    for collector in cast("Iterable[Any]", collectors):
        family = collector.describe()[0]
        name = family.name + ("_total" if family.type == "counter" else "")
        found.append(DeclaredMetric(name, family.type, tuple(collector._labelnames), family.documentation))
    found += (DeclaredMetric(metric.name, metric.kind, metric.labels, metric.help) for metric in TASK_METRICS)
    return found


# Commands -------------------------------------------------------------------------------------------------------


def commands() -> str:
    """``--help`` of every command."""
    parts = [f"### `{name}`\n\n```text\n{text}\n```\n" for name, text in _helps(command_line, "sparkle")]
    return "\n".join(parts).rstrip()


def _helps(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    context = click.Context(command, info_name=name, terminal_width=100, max_content_width=100)
    context.help_option_names = ["-h", "--help"]
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                yield from _helps(found, f"{name} {child}")


# HTTP -----------------------------------------------------------------------------------------------------------


def endpoints() -> str:
    """Every path of the OpenAPI document with its summary and statuses."""
    document = openapi_document()
    parts: list[str] = []
    for tag in document["tags"]:
        rows: list[Row] = []
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    statuses = " ".join(operation["responses"])
                    rows.append((code(f"{method.upper()} {path}"), operation["summary"], statuses))
        parts.append(f"### {tag['name']}\n\n" + table(("path", "does", "answers"), rows) + "\n")
    return "\n".join(parts).rstrip()


# Policy ---------------------------------------------------------------------------------------------------------


def default_policy() -> str:
    """The shipped policy file."""
    return "<!-- file: policy-default.yaml -->\n```yaml\n" + default_policy_text().rstrip() + "\n```"


SECTIONS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "input-rules": input_rules,
    "output-rules": output_rules,
    "errors": errors,
    "metrics": metrics,
    "commands": commands,
    "endpoints": endpoints,
    "default-policy": default_policy,
    "python-api": python_api,
}
