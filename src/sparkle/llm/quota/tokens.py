"""Exact OpenAI token counts, offline.

Text is counted by the Rust extension of ``bpe-openai``, which carries its vocabularies. Only that extension
is loaded: the package around it takes half a second to import. A vocabulary is loaded when first needed (some
80 ms and 66 MB). Counting walks those tables, which other work has usually pushed out of the caches: where a bound
will do, ``count_messages(..., exact=False)`` takes the number of bytes (every token stands for at least one).
"""

from __future__ import annotations

import fnmatch
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import msgspec
from msgspec import Struct

from sparkle.errors import ConfigurationError
from sparkle.llm.quota.media import ImageCost, audio_tokens, file_tokens, image_tokens

Encoding = Literal["o200k_base", "cl100k_base"]

# What the chat format adds, from OpenAI's cookbook "How to count tokens with tiktoken".
_PER_MESSAGE = 3
_PER_NAME = 1
_PRIMING = 3
# A tool call is rendered with its kind and recipient around name and arguments; a definition with its frame
# around the TypeScript-like text. Both are estimates on the large side: a reservation must not be too small.
_PER_TOOL_CALL = 8
_PER_TOOL = 8
_TOOLS_FRAME = 12
_LARGEST_CACHE = 1_024
_PIECE = 8_192
_BEFORE_A_WORD = re.compile(r"[^\W\d_] (?=[^\W\d_])")


class _Tokenizer(Protocol):
    def count(self, text: str) -> int: ...


class _Bytes:
    """The bound: no text has more tokens than bytes."""

    def count(self, text: str) -> int:
        return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


_BYTES = _Bytes()
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


class _EncodingRule(Struct, frozen=True, forbid_unknown_fields=True):
    encoding: Encoding
    models: tuple[str, ...]


class _ImageRule(Struct, frozen=True, forbid_unknown_fields=True):
    base: int
    tile: int
    models: tuple[str, ...]


class _TemplateRule(Struct, frozen=True, forbid_unknown_fields=True):
    base: int
    message: int
    models: tuple[str, ...]


class _Rules(Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    default: Encoding
    encodings: tuple[_EncodingRule, ...]
    images: tuple[_ImageRule, ...]
    templates: tuple[_TemplateRule, ...]


class TokenCounter:
    """Counts what a prompt and an answer cost in tokens.

    Plain chats are exact for OpenAI models. Tool definitions, images, audio and files are estimates on the
    large side.
    """

    def __init__(self) -> None:
        raw = resources.files(__package__ or "sparkle.llm.quota").joinpath("encodings.yaml").read_bytes()
        try:
            rules = msgspec.yaml.decode(raw, type=_Rules)
        except msgspec.DecodeError as exc:
            raise ConfigurationError(f"the shipped encodings.yaml: {exc}") from None
        self._default: Encoding = rules.default
        self._encodings: list[tuple[re.Pattern[str], Encoding]] = [
            (_compiled(rule.models), rule.encoding) for rule in rules.encodings
        ]
        self._images = [(_compiled(rule.models), ImageCost(rule.base, rule.tile)) for rule in rules.images]
        self._templates = [(_compiled(rule.models), rule) for rule in rules.templates]
        self._tokenizers: dict[Encoding, _Tokenizer] = {}
        self._models: dict[str, tuple[Encoding, ImageCost]] = {}

    def encoding_for(self, model: str) -> Encoding:
        """Name of the vocabulary a model is counted with."""
        return self._known(model)[0]

    def template_tokens(self, model: str, messages: int) -> int:
        """At least what a model's own chat template adds to ``messages`` messages beyond OpenAI's chat format."""
        rule = next((rule for pattern, rule in self._templates if pattern.match(_bare(model))), None)
        return 0 if rule is None else rule.base + rule.message * messages

    def count_text(self, text: str, model: str) -> int:
        """Tokens of a bare text. Any text counts: lone surrogates as replacement characters."""
        return _count(self._tokenizer(self._known(model)[0]), text)

    def count_messages(
        self,
        messages: Sequence[Mapping[str, Any]],
        model: str,
        tools: Sequence[Any] | None = None,
        *,
        response_format: Any = None,
        others: Mapping[str, Any] | None = None,
        exact: bool = True,
    ) -> int:
        """Tokens of a chat prompt in OpenAI's format.

        Args:
            messages: Chat messages; malformed parts are counted by their JSON rather than refused.
            model: Decides vocabulary and image price.
            tools: Tool definitions (or the older ``functions``), if any.
            response_format: A JSON schema is part of the prompt, too.
            others: Further fields of the request that can hold prompt text (``functions``, ``prediction``,
                ``documents`` ...), counted by their JSON.
            exact: ``False``: at least as many tokens, for next to nothing and without loading a vocabulary.
        """
        encoding, image = self._known(model)
        tokenizer = self._tokenizer(encoding) if exact else _BYTES
        return _prompt(tokenizer, image, messages, tools, response_format, others)

    def bound_text(self, text: str) -> int:
        """At least as many tokens as ``text`` has under any vocabulary, for next to nothing."""
        return _BYTES.count(text)

    def _known(self, model: str) -> tuple[Encoding, ImageCost]:
        found = self._models.get(model)
        if found is None:
            name = _bare(model)
            encoding = self._default
            for pattern, candidate in self._encodings:
                if pattern.match(name):
                    encoding = candidate
                    break
            image = next((i for pattern, i in self._images if pattern.match(name)), ImageCost(85, 170))
            # Names come from callers, so the memory of them is bounded.
            if len(self._models) >= _LARGEST_CACHE:
                self._models.clear()
            found = self._models[model] = (encoding, image)
        return found

    def _tokenizer(self, encoding: Encoding) -> _Tokenizer:
        found = self._tokenizers.get(encoding)
        if found is None:
            found = self._tokenizers[encoding] = _load(encoding)
        return found


def _prompt(
    tokenizer: _Tokenizer,
    image: ImageCost,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] | None,
    response_format: Any,
    others: Mapping[str, Any] | None,
) -> int:
    total = _PRIMING + (_json(tokenizer, others) if others else 0)
    for message in messages:
        total += _PER_MESSAGE
        for key, value in message.items():
            if value is None:
                continue
            if key == "role" and isinstance(value, str) and value in _ROLES:
                total += 1  # every role's name is one token in every vocabulary
            elif isinstance(value, str):
                total += _count(tokenizer, value) + (_PER_NAME if key == "name" else 0)
            elif key == "content" and isinstance(value, list):
                total += sum(_part(tokenizer, image, part) for part in cast("list[Any]", value))
            elif key == "tool_calls" and isinstance(value, list):
                total += sum(_call(tokenizer, call) for call in cast("list[Any]", value))
            else:
                total += _json(tokenizer, value)
    if tools:
        total += _TOOLS_FRAME + sum(_PER_TOOL + _json(tokenizer, _definition(tool)) for tool in tools)
    if isinstance(response_format, Mapping) and "json_schema" in response_format:
        total += _TOOLS_FRAME + _json(tokenizer, cast("Mapping[str, Any]", response_format)["json_schema"])
    return total


def _part(tokenizer: _Tokenizer, image: ImageCost, part: Any) -> int:
    if isinstance(part, str):
        return _count(tokenizer, part)
    if not isinstance(part, Mapping):
        return _json(tokenizer, part)
    total = 0
    rest: dict[str, Any] = {}
    for key, value in cast("Mapping[str, Any]", part).items():
        if key in ("text", "refusal") and isinstance(value, str):
            total += _count(tokenizer, value)
        elif key == "image_url":
            total += image_tokens(value, image)
        elif key == "input_audio":
            total += audio_tokens(value)
        elif key == "file":
            total += file_tokens(value)
        elif key != "type":
            rest[key] = value
    return total + (_json(tokenizer, rest) if rest else 0)


def _call(tokenizer: _Tokenizer, call: Any) -> int:
    fields: Mapping[str, Any] = cast("Mapping[str, Any]", call) if isinstance(call, Mapping) else {}
    function = fields.get("function")
    if not isinstance(function, Mapping):
        return _PER_TOOL_CALL + _json(tokenizer, call)
    named = cast("Mapping[str, Any]", function)
    return _PER_TOOL_CALL + sum(
        _count(tokenizer, v) if isinstance(v, str) else _json(tokenizer, v) for v in named.values() if v
    )


def _definition(tool: Any) -> Any:
    if not isinstance(tool, Mapping):
        return tool
    fields = cast("Mapping[str, Any]", tool)
    return fields.get("function", fields) if set(fields) <= {"type", "function"} else fields


def _json(tokenizer: _Tokenizer, value: Any) -> int:
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        # Lone surrogates, exotic objects: their Python form is longer than their JSON, never shorter.
        text = repr(value)
    return _count(tokenizer, text)


def _count(tokenizer: _Tokenizer, text: str) -> int:
    if len(text) <= 2 * _PIECE:
        return _count_piece(tokenizer, text)
    return sum(_count_piece(tokenizer, piece) for piece in _pieces(text))


def _count_piece(tokenizer: _Tokenizer, text: str) -> int:
    try:
        return tokenizer.count(text)
    except UnicodeEncodeError:
        return tokenizer.count(text.encode("utf-8", "replace").decode())


def _pieces(text: str) -> Iterator[str]:
    """A long text in pieces of at most 2 x :data:`_PIECE` characters, cut where vocabularies cut anyway if possible.

    The tokenizer holds the interpreter's lock while it counts, and needs 2.5 s for a megabyte of dashes: between two
    pieces other threads get their turn. A cut inside a word adds a token at most.
    """
    start = 0
    while len(text) - start > 2 * _PIECE:
        found = _BEFORE_A_WORD.search(text, start + _PIECE, start + 2 * _PIECE)
        end = found.start() + 1 if found else start + 2 * _PIECE
        yield text[start:end]
        start = end
    yield text[start:]


def _bare(model: str) -> str:
    return model.lower().rpartition("/")[2]


def _compiled(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(p.lower()) for p in patterns))


def _load(encoding: Encoding) -> _Tokenizer:
    bindings = _bindings()
    return cast("_Tokenizer", bindings.tokenizer_for_encoding(encoding))


def _bindings() -> Any:
    name = "bpe_openai._bindings"
    if name in sys.modules:
        return sys.modules[name]
    package = importlib.util.find_spec("bpe_openai")
    for folder in (package.submodule_search_locations or ()) if package else ():
        for file in sorted(Path(folder).glob("_bindings*.so")) + sorted(Path(folder).glob("_bindings*.pyd")):
            spec = importlib.util.spec_from_file_location(name, file)
            if spec is not None and spec.loader is not None:
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                sys.modules[name] = module
                return module
    # Another layout of the wheel: the slow way.
    return importlib.import_module(name)
