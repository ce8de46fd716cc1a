"""The terminal chat behind ``sparkle chat``."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape

from sparkle.demo.server import ServeProcess
from sparkle.errors import ConfigurationError, MissingExtraError


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What ``sparkle chat`` was told."""

    url: str | None
    model: str | None
    user: str
    system: str | None
    api_key: str = field(repr=False)
    max_tokens: int


def run(options: ChatOptions) -> None:
    """Chat until the person leaves.

    Raises:
        MissingExtraError: The OpenAI SDK is not installed.
    """
    try:
        import openai
    except ImportError:
        raise MissingExtraError("demo", "sparkle chat") from None
    console = Console()
    with ExitStack() as stack:
        url = options.url
        if url is None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="sparkle-chat-")))
            with console.status("starting the local model …"):
                url = stack.enter_context(ServeProcess(folder)).url + "/v1"
        client = openai.OpenAI(base_url=_with_v1(url), api_key=options.api_key)
        try:
            model = options.model or client.models.list().data[0].id
        except (openai.OpenAIError, LookupError, TypeError, ValueError) as exc:
            raise ConfigurationError(_unreachable(url, exc)) from None
        console.print(f"[dim]{model} at {url}; an empty line or /quit ends[/]")
        messages: list[Any] = [{"role": "system", "content": options.system}] if options.system else []
        while True:
            try:
                text = console.input("[bold cyan]you:[/] ").strip()
            except (EOFError, KeyboardInterrupt):
                break
            if text in ("", "/quit"):
                break
            _turn(console, client, model, messages, text, options)


def _with_v1(url: str) -> str:
    """The API's base URL, also where only the server's address was given."""
    return url if urlsplit(url).path.strip("/") else url.rstrip("/") + "/v1"


def _unreachable(url: str, exc: Exception) -> str:
    import openai

    if isinstance(exc, openai.AuthenticationError):
        return f"{url} wants an API key: --api-key or OPENAI_API_KEY"
    if isinstance(exc, openai.APIStatusError):
        return f"{url} answered {exc.status_code}; is it an OpenAI-compatible API?"
    if isinstance(exc, openai.APIConnectionError):
        return f"nothing answers at {url}; start a server with `sparkle serve`, or leave --url out"
    return f"{url} offers no models; is it an OpenAI-compatible API?"


def _turn(
    console: Console, client: Any, model: str, messages: list[Any], text: str, options: ChatOptions
) -> None:
    """One question and its answer; a refused question leaves the history as it was."""
    import openai

    asked = [*messages, {"role": "user", "content": text}]
    parts: list[str] = []
    try:
        stream = client.chat.completions.create(
            model=model, messages=asked, stream=True, user=options.user, max_tokens=options.max_tokens
        )
        console.print("[bold green]model:[/] ", end="")
        for chunk in stream:
            piece = chunk.choices[0].delta.content if chunk.choices else None
            if piece:
                parts.append(piece)
                console.print(piece, end="", markup=False, highlight=False)
        console.print()
    except openai.APIError as exc:
        body = cast("dict[str, Any]", exc.body) if isinstance(exc.body, dict) else {}
        console.print(f"[red]{escape(str(body.get('message') or exc.message))}[/]")
        for finding in body.get("findings", []):
            console.print(
                f"  [dim]{escape(finding['rule'])}: {escape(finding['reason'])} {escape(finding['reason_zh'])}[/]"
            )
        return
    messages[:] = [*asked, {"role": "assistant", "content": "".join(parts)}]
