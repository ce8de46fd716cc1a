"""Active content: elements that load or run code, event handlers, links that run code.

Outside Markdown code it is made harmless by redacting the part that makes it active: the element's opening up to its
``>``, the handler's name, the link's scheme. In Markdown code it is only watched, because a tutor shows code.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field, replace

from sparkle.llm.output.engine import compile_re2, finder
from sparkle.llm.output.markdown import CODE_REACH, Markdown, plain_end
from sparkle.llm.output.rules import RuleSet
from sparkle.llm.output.spans import Span
from sparkle.llm.output.tables import TABLES
from sparkle.llm.output.text import piece_around, piece_at
from sparkle.llm.output.tokens import Tokens
from sparkle.llm.verdict import Mode

_ELEMENTS = "|".join(TABLES.words("active_elements"))
_EVENTS = "|".join(TABLES.words("event_handlers"))
_ELEMENT = re.compile(rf"</?(?:{_ELEMENTS})(?=[\s/>\x00]|\Z)", re.IGNORECASE)
_TOKEN = re.compile(
    rf"(?P<element>{_ELEMENT.pattern})"
    r"|(?P<open><(?=[a-z/!?]))"
    rf"|(?<![a-z0-9])(?P<handler>on(?:{_EVENTS})(?![a-z0-9\-])|on[a-z]{{3,24}}(?==))"
    r"|(?<![a-z0-9])(?P<uri>(?:javascript|vbscript|livescript|mocha):(?=\S)|script:(?=\S)"
    r"|data:(?:text/html|text/xml|image/svg|application/x?html)|-moz-binding|expression\()"
    r"|(?P<entity>&(?:\#|colon;?|tab;|newline;))",
    re.IGNORECASE,
)
# Where a token can begin, for RE2: one pass at its speed over a long text instead of the search above.
_ELEMENT_START = rf"</?(?:{_ELEMENTS})(?:[\s/>\x00]|\z)"
_LINK_START = (
    r"(?:java|vb|live)?script:|mocha:|data:(?:text/|image/svg|application/x)|-moz-binding|expression\("
    r"|&(?:#|colon|tab;|newline;)"
)
_ATTRIBUTE_START = rf"\bon(?:(?:{_EVENTS})\b|[a-z]{{3,24}}=)|{_LINK_START}"
_OPEN = re.compile(r"<(?=[a-z/!?])", re.IGNORECASE)
_SCHEME = re.compile(r"(?:javascript|vbscript|livescript|data):", re.IGNORECASE)
_BROKEN = re.compile(r"(?:java|vb|live)[\s\x00-\x1f]{1,4}\Z", re.IGNORECASE)
_LINK = re.compile(r"(?:[(<\"'=]|\]:\s{0,3}<?)\Z")
_BEFORE_LINK = 8
"""Characters before an address that say whether it is a link."""
_LOOSE = 2048
"""Characters behind the last ``<`` in which a handler may still be an attribute to a lenient parser."""
_LONGEST_ELEMENT = 512
_PENDING = 4096


@dataclass(slots=True)
class ActiveState:
    """What is known at one point of a text."""

    markdown: Markdown = field(default_factory=Markdown)
    pending: str = ""
    """Text that the Markdown state has not taken in yet."""
    since_open: int = -1
    """Characters since the last raw ``<`` of an element; -1: none."""
    in_tag: bool = False
    quotes: int = 0
    """Bit 0 and 1: parity of double and single quotes since then."""
    swallow: int = 0
    """How many characters of a redacted element's attributes may still come."""

    def copy(self) -> ActiveState:
        """An independent copy."""
        return ActiveState(
            self.markdown.copy(), self.pending, self.since_open, self.in_tag, self.quotes, self.swallow
        )

    @property
    def busy(self) -> bool:
        """Whether the next text matters even without a trigger."""
        return self.in_tag or self.swallow > 0

    def skip(self, text: str) -> None:
        """Take note of text in which nothing active can stand."""
        if self.since_open >= 0:
            self.since_open += len(text)
        if self.markdown.distrusted:  # for the rest of the text: nothing is code any more
            return
        self.pending += text
        if len(self.pending) > _PENDING:
            self.sync()

    def sync(self) -> None:
        """Let the Markdown state catch up."""
        if self.pending:
            self.markdown.advance(self.pending)
            self.pending = ""


class ActiveScanner:
    """Finds active content; shared by all texts."""

    def __init__(self, rules: RuleSet, *, markdown: bool = True) -> None:
        found = {name: rules.by_id.get(f"active.{name}") for name in ("script", "handler", "uri")}
        self._rules = {name: rule for name, rule in found.items() if rule is not None}
        self._watched = {name: replace(rule, mode=Mode.WATCH) for name, rule in self._rules.items()}
        self._markdown = markdown
        where = "output family active"
        self._elements = finder(compile_re2(f"(?i){_ELEMENT_START}", where))
        self._attributes = finder(compile_re2(f"(?i){_ATTRIBUTE_START}", where))
        self._links = finder(compile_re2(f"(?i){_LINK_START}", where))
        self._starts = finder(compile_re2(f"(?i)<|{_ATTRIBUTE_START}", where))
        self._marks = finder(compile_re2(f"(?i){_ELEMENT_START}|{_ATTRIBUTE_START}", where))
        self._opens = finder(compile_re2(f"(?i)<|{_LINK_START}", where))

    def scan(
        self,
        text: str,
        low: int,
        high: int,
        state: ActiveState,
        *,
        triggered: bool,
        final: bool,
    ) -> tuple[list[Span], int]:
        """Spans in ``text[low:high]`` and how far they are settled; ``state`` moves on to ``high``.

        When less than
        ``high`` is settled the state is spoilt and the caller starts again with the lower end.
        """
        if not self._rules:
            return [], high
        if not triggered and not state.busy:
            state.skip(text[low:high])
            return [], high
        tokens, calm, starts = Tokens(_TOKEN, self._starts, text, low, high), False, self._starts
        if tokens.data is not None:
            calm = self._markdown and not state.markdown.distrusted and self._links(tokens.data, 0) is None
            if final and self._attributes(tokens.data, 0) is None:
                # Nothing follows, so only what a finding can depend on matters.
                if not state.swallow and self._elements(tokens.data, 0) is None:
                    return [], high
                starts = self._elements
        spans: list[Span] = []
        at = self._swallow(text, low, high, state, spans) if state.swallow else low
        if calm and at == low:
            at = self._shown(tokens, at, state, spans)
        fenced_to = low  # up to here all is code of one fence
        while True:
            # Where nothing is code, of the elements' beginnings only the last one before a token matters.
            sparse = tokens.data is not None and starts is self._starts and self._never_code(state)
            loose = state.in_tag or 0 <= state.since_open <= _LOOSE
            tokens.find = (
                self._marks if sparse else self._opens if starts is self._starts and not loose else starts
            )
            if not (token := tokens.next(at)):
                break
            start, end = token.span()
            if token.lastgroup == "uri" and not (sparse or state.in_tag or _link_before(text, start)):
                tokens.skip(token)
                continue  # the name of a language, say: nothing to know about its place
            if (
                calm
                and not state.markdown.distrusted
                and (paragraph := text.rfind("\n\n", at, start) + 2) > 1
            ):
                at = _pass(text, at, paragraph, state)
                at = self._shown(tokens, at, state, spans)
            if start < at:
                continue
            if sparse:
                at = _last_open(text, at, start, state)
            _pass(text, at, start, state)
            at = start
            kind = str(token.lastgroup)
            span = self._span(token, kind, text, state, low)
            if kind not in ("element", "open") and span is None:
                continue
            code = start < fenced_to or self._is_code(text, start, state, final=final)
            if code is None:
                return [], piece_at(text, low, start)
            if code and start >= fenced_to and state.markdown.fence and not state.markdown.fence_indent:
                mark = text.find(state.markdown.fence[:3], start, high)
                fenced_to = mark if mark >= 0 else high
            if kind in ("element", "open") and not code:
                state.since_open, state.in_tag, state.quotes = 0, True, 0
            if span is not None:
                rule = (self._watched if code else self._rules)[_RULE_OF[kind]]
                at = self._report(Span(*span, rule), at, text, high, state, spans)
            at = _pass(text, at, max(at, min(end, high)), state)
        if sparse:
            at = _last_open(text, at, high, state)
        _pass(text, at, high, state)
        return spans, high

    def _shown(self, tokens: Tokens, at: int, state: ActiveState, spans: list[Span]) -> int:
        """Past plain Markdown in which elements stand in code only (most answers are nothing else); they are watched.

        Returns ``at`` itself where the text, or what came before it, is not as plain as that.
        """
        text, high, data = tokens.text, tokens.high, tokens.data
        if data is None or state.in_tag or state.swallow:
            return at
        state.sync()
        if not state.markdown.plain:
            return at
        loose = 0 <= state.since_open <= _LOOSE
        start = tokens.byte(at)
        stop = plain_end(data, start, tokens.byte(min(high, at + _LOOSE)) if loose else len(data))
        if stop == start:
            return at
        end = at + tokens.characters(data[start:stop])
        if loose:  # a handler may be an attribute
            near = text[at : min(end, at + _LOOSE - state.since_open + 1)].encode()
            handler = self._attributes(near, 0)
            if handler is not None:
                end = at + len(near[: near.rfind(b"\n", 0, handler[0][0]) + 1].decode())
                if "```" in text[at:end] or end == at:
                    return at  # the line may stand in a fence
        if state.since_open >= 0:
            state.since_open += end - at
        rule = self._watched.get("script")
        if rule is not None:
            found = [e.span() for e in _ELEMENT.finditer(text, at, end)]
            if rule.allow:
                found = [(a, b) for a, b in found if not rule.excepted(text[a:b])]
            spans += [Span(a, b, rule) for a, b in found]
        return end

    def _never_code(self, state: ActiveState) -> bool:
        return not self._markdown or state.markdown.distrusted

    def _is_code(self, text: str, start: int, state: ActiveState, *, final: bool) -> bool | None:
        if self._never_code(state):
            return False
        state.sync()
        last = final and len(text) <= start + CODE_REACH
        return state.markdown.code(text[start : start + CODE_REACH], final=last)

    def _report(
        self, span: Span, at: int, text: str, high: int, state: ActiveState, spans: list[Span]
    ) -> int:
        if span.rule.allow and span.rule.excepted(text[span.start : span.end]):
            return at
        spans.append(span)
        at = _pass(text, at, max(at, min(span.end, high)), state)
        if span.rule.spec.id == "active.script" and span.rule.enforced:
            state.swallow = _LONGEST_ELEMENT
            at = self._swallow(text, at, high, state, spans)
        return at

    def _span(
        self, token: re.Match[str], kind: str, text: str, state: ActiveState, low: int
    ) -> tuple[int, int] | None:
        if kind == "open" or _RULE_OF[kind] not in self._rules:
            return None
        start, end = token.span()
        loose = 0 <= state.since_open <= _LOOSE
        if kind == "handler":
            assigned = text[end : end + 1] == "="
            return (start, end) if state.in_tag or (loose and assigned) else None
        if kind == "uri":
            before = text[max(0, start - _BEFORE_LINK) : start]
            if token.group().lower() == "script:" and not (loose and _BROKEN.search(before)):
                return None
            return (start, end) if state.in_tag or _link_before(text, start) else None
        if kind == "entity":
            begin, stop = piece_around(text, low, start)
            plain = re.sub(r"[\s\x00-\x1f]", "", html.unescape(text[begin:stop]))
            return (start, stop) if (loose or "](" in plain) and _SCHEME.search(plain) else None
        return start, end

    def _swallow(self, text: str, low: int, high: int, state: ActiveState, spans: list[Span]) -> int:
        limit = min(high, low + state.swallow)
        close = text.find(">", low, limit)
        end = limit if close < 0 else close + 1
        state.swallow = 0 if close >= 0 else state.swallow - (end - low)
        if end > low:
            spans.append(Span(low, end, self._rules["script"], continued=True))
        return _pass(text, low, end, state)


def _link_before(text: str, start: int) -> bool:
    """Whether what begins at ``start`` stands where a link begins."""
    return _LINK.search(text, max(0, start - _BEFORE_LINK), start) is not None


def _last_open(text: str, start: int, end: int, state: ActiveState) -> int:
    """Move on to the last beginning of an element in ``text[start:end]``; ``start`` where there is none."""
    at = end
    while (at := text.rfind("<", start, at)) >= 0:
        if _OPEN.match(text, at):
            state.skip(text[start:at])
            state.since_open, state.in_tag, state.quotes = 0, True, 0
            return at
    return start


def _pass(text: str, start: int, end: int, state: ActiveState) -> int:
    """Move on to ``end``; an element ends at the first ``>`` outside an odd number of quotes. Returns ``end``."""
    at = start
    while state.in_tag and at < end:
        close = text.find(">", at, end)
        stop = end if close < 0 else close + 1
        part = text[at:stop]
        state.quotes ^= part.count('"') % 2 | (part.count("'") % 2) << 1
        state.in_tag = close < 0 or state.quotes != 0
        at = stop
    if end > start:
        if not state.markdown.distrusted:
            state.skip(text[start:end])
        elif state.since_open >= 0:
            state.since_open += end - start
    return end


_RULE_OF = {"element": "script", "handler": "handler", "uri": "uri", "entity": "uri"}
