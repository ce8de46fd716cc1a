"""The guard of one text that comes in chunks. A whole text is a stream of one chunk: there is no second way."""

from __future__ import annotations

from sparkle.llm.output.grace import opening
from sparkle.llm.output.held import Held
from sparkle.llm.output.leak import NO_PROMPT, LeakTracker, PromptGuard, index_back
from sparkle.llm.output.notes import Notes
from sparkle.llm.output.rules import Rule, RuleSet
from sparkle.llm.output.scan import LOOK_BEHIND, Scanner, ScanState
from sparkle.llm.output.spans import Span, merge
from sparkle.llm.output.text import (
    CONTEXT,
    MAX_PIECE,
    fold,
    oversized,
    piece_around,
    piece_at,
    piece_end,
    run_start,
    settled,
)
from sparkle.llm.verdict import Mode, Verdict

_LEAK_SLICE = 4096
_SLICE = 32_768
LONG = 2 * _SLICE
"""A whole text of more characters is judged in slices."""
"""Characters of a whole text that are judged at a time: once it is too crowded no rule has looked much further."""


class OutputStream:
    """What may leave of one channel of one answer.

    ``feed`` and ``finish`` return text that may leave. For every way of cutting a text into chunks the texts returned
    add up to the same result. Not safe for concurrent use; memory is bounded.
    """

    __slots__ = (
        "_blocked", "_early", "_fed", "_guard", "_held", "_known", "_leak", "_leaks", "_low", "_notes", "_over",
        "_oversize", "_rules", "_run", "_scanner", "_state", "_text", "_unready", "_withheld",
    )  # fmt: skip

    def __init__(
        self, scanner: Scanner, rules: RuleSet, guard: PromptGuard | None = None, path: str = ""
    ) -> None:
        self._scanner = scanner
        self._rules = rules
        self._guard = guard or NO_PROMPT
        self._notes = Notes(path)
        self._text = ""  # folded: context that has left, then what is held
        self._low = 0  # where what is held begins
        self._run = 0  # where the run at the end begins
        self._held = Held()
        self._known: tuple[list[int] | None] | None = None  # what the triggers say of a whole text, told once
        self._early = 0  # of the first word, what has left already
        self._unready = 0  # how long what is held has to be before it is looked at again
        self._state = ScanState()
        self._leak = LeakTracker(self._guard) if self._guard.active else None
        self._fed = 0  # up to where the leak tracker has read
        self._leaks: list[tuple[int, int, Rule]] = []
        self._oversize = False  # inside a piece that is withheld
        self._withheld: Rule | None = None  # why nothing leaves any more although the text goes on
        self._over = False
        self._blocked = False

    @property
    def blocked(self) -> bool:
        """Whether a blocking rule has ended the text; nothing leaves any more."""
        return self._blocked

    @property
    def held(self) -> int:
        """Code points that are kept in memory because they may not leave yet."""
        return len(self._held.raw)

    @property
    def verdict(self) -> Verdict:
        """What has been found so far."""
        return self._notes.verdict

    def feed(self, chunk: str) -> str:
        """Take in a chunk; the text that may leave now, possibly empty.

        Raises:
            ValueError: after :meth:`finish`.
        """
        if self._over:
            if self._blocked:
                return ""
            raise ValueError("the stream is finished")
        if not chunk:
            return ""
        if self._oversize:
            chunk = self._skip_oversize(chunk)
            if not chunk:
                return ""
        return self.take(chunk, *fold(chunk))

    def take(self, chunk: str, folded: str, marks: list[int]) -> str:
        """Like :meth:`feed`, for a chunk that has been folded already and is not empty."""
        if self._withheld is not None:
            self._held.offset += len(chunk)
            self._notes.extend(self._withheld, self._held.offset)
            return ""
        self._append(chunk, folded, marks)
        if len(self._text) - self._low > MAX_PIECE:
            return self._feed_long()
        return self._advance(len(self._text), final=False)

    def take_all(self, text: str, folded: str, marks: list[int], known: list[int] | None) -> str:
        """A whole text at once: like :meth:`take` and :meth:`finish`, in one pass where it is as short as answers are.

        ``known`` are the families that its triggers name (:meth:`Scanner.triggered`).
        """
        if len(text) > LONG:
            out = [self.feed(text[at : at + _SLICE]) for at in range(0, len(text), _SLICE)]
            return "".join(out) + self.finish()
        if len(folded) > MAX_PIECE and next(oversized(folded, 0), None) is not None:
            return self.take(text, folded, marks) + self.finish()
        self._append(text, folded, marks)
        self._known = (known,)
        return self.finish()

    def finish(self) -> str:
        """The rest of the text."""
        if self._over:
            return ""
        out = self._advance(len(self._text), final=True) if self._withheld is None else ""
        self._over = True
        return out

    def _append(self, chunk: str, folded: str, marks: list[int]) -> None:
        old = len(self._text)
        self._held.append(chunk, marks, old - self._low)
        self._text += folded
        start = run_start(self._text, len(self._text), old)
        if start > old:  # else the run at the end goes on
            self._run = start

    def _feed_long(self) -> str:
        out = ""
        while not self._over and self._withheld is None:
            found = next(oversized(self._text, self._low), None)
            if found is None:
                return out + self._advance(len(self._text), final=False)
            start, end = found
            out += self._advance(start, final=True)
            if self._over or self._withheld is not None:
                break
            out += self._drop_oversize(end - start)
        return out

    def _drop_oversize(self, width: int) -> str:
        """Redact the piece that begins what is held; what follows is judged as a text of its own."""
        lead = self._open(self._text)
        start, end, early = self._low, self._low + width, self._early
        self._early = 0
        rule = self._rules.by_id.get("secret.oversized")
        active = self._state.active
        active.skip(self._text[start:end])
        raw_end = self._held.end(width)
        out = self._held.raw[early:raw_end]
        if rule is not None:
            self._notes.take([Span(start, end, rule)], self._held, start, end)
            if rule.mode is Mode.BLOCK:
                return self._block(lead)
            out = rule.placeholder if rule.enforced else out
        tail = self._text[end:]
        self._oversize = not tail and piece_end(self._text, start) < 0 and rule is not None and rule.enforced
        self._held.consume(width, raw_end)
        self._text = tail
        self._low = self._fed = self._unready = 0
        self._run = run_start(tail, len(tail), 0)
        self._state = ScanState(active=active, judged=self._state.judged, elements=self._state.elements)
        active.swallow, active.in_tag = 0, False
        self._leaks = []
        if self._leak is not None:
            self._leak.reset()
        return lead + out

    def _skip_oversize(self, chunk: str) -> str:
        """What of a chunk stands behind the piece that is withheld."""
        folded, marks = fold(chunk)
        end = piece_end(folded, 0, soft_after=0)
        if end < 0:
            self._held.withhold(chunk)
            self._state.active.skip(folded)
            return ""
        self._oversize = False
        if end:  # invisible characters that were kept stood inside the piece
            self._held.consume(0, len(self._held.raw))
        raw_end = end + sum(mark < end for mark in marks)
        self._held.offset += raw_end
        self._state.active.skip(folded[:end])
        return chunk[raw_end:]

    def _advance(self, limit: int, *, final: bool) -> str:
        text = self._text if limit == len(self._text) else self._text[:limit]
        low = self._low
        high = limit if final else settled(text, low, self._run)
        if self._leak is not None and high > low:
            high = self._look_for_leaks(self._leak, text, low, high, final=final)
        if high <= low and (not final or limit < len(self._text)):
            return "" if final else self._open(text)
        if not final and limit - low < self._unready:
            return ""
        if self._known is None:
            known = self._scanner.triggered(text[max(0, low - LOOK_BEHIND) :].encode())
        else:
            known, self._known = self._known[0], None
        spans: list[Span] = []
        if known is None and self._state.idle:
            self._state.active.skip(text[low:high])
        else:
            spans, high, self._state = self._scan(text, high, known, final=final)
            if high <= low and not final and not self._state.crowded:
                # Values that share their pieces ("4111 1111 1111 1111,4111 ...") can hold back thousands of
                # characters, which must not be judged anew with every chunk.
                self._unready = (limit - low) * 9 // 8 if limit - low > CONTEXT else 0
                return self._open(text)
        spans += [Span(start, end, rule) for start, end, rule in self._leaks if start < high]
        if self._state.crowded:
            return self._withhold(text, spans, high)
        return self._emit(text, spans, high, final=final)

    def _scan(
        self, text: str, high: int, known: list[int] | None, *, final: bool
    ) -> tuple[list[Span], int, ScanState]:
        while True:
            spans, high, state = self._scanner.scan(text, self._low, high, known, self._state, final=final)
            crossing = [s for s, e, rule in self._leaks if rule.enforced and s < high < e]
            if not crossing or state.crowded:  # a copy that reaches into what is withheld needs no end
                return spans, high, state
            high = min(crossing)

    def _look_for_leaks(self, leak: LeakTracker, text: str, low: int, high: int, *, final: bool) -> int:
        while self._fed < high:
            end = min(high, self._fed + _LEAK_SLICE)
            found = leak.feed(text[self._fed : end].encode())
            self._fed = end
            for start_byte, end_byte, name in found:
                self._add_leak(
                    name,
                    piece_at(text, low, max(low, index_back(text, end, leak.total - start_byte))),
                    index_back(text, end, leak.total - end_byte + 1) + 1,
                )
        if final:
            return high
        if leak.held:
            high = min(high, piece_at(text, low, max(low, index_back(text, self._fed, leak.held))))
        return min([high, *(s for s, e, rule in self._leaks if rule.mode is Mode.REDACT and s < high < e)])

    def _add_leak(self, name: str, start: int, end: int) -> None:
        rule = self._rules.by_id.get(name)
        if rule is None:
            return
        if self._leaks and self._leaks[-1][2].spec.id == name and start < self._leaks[-1][1]:
            start, end = min(start, self._leaks[-1][0]), max(end, self._leaks[-1][1])
            rule = self._leaks.pop()[2]
        if rule.mode is Mode.REDACT and end - start > MAX_PIECE:
            rule = rule.blocking()  # too much to hold back until it ends
        self._leaks.append((start, end, rule))

    def _emit(self, text: str, spans: list[Span], high: int, *, final: bool) -> str:
        low, held = self._low, self._held
        raw = held.raw
        # Invisible characters at the end stay with what follows: they may stand inside a value that goes on.
        raw_high = len(raw) if final and high == len(self._text) else held.end(high - low)
        if not spans:
            out = raw[:raw_high]
        else:
            free = opening(text) if held.offset == 0 and low == 0 else 0
            if free:
                spans = [s if s.start >= free else s._replace(start=free) for s in spans if s.end > free]
            pieces: list[str] = []
            position = 0
            for group in merge(spans):
                if group.placeholder:
                    pieces.append(raw[position : held.start(group.start - low)])
                if group.blocks:
                    self._notes.take(spans, held, low, group.start, group.end)
                    return self._block("".join(pieces))
                pieces.append(group.placeholder)
                position = max(position, held.end(group.end - low))
            pieces.append(raw[position:raw_high])
            out = "".join(pieces)
            self._notes.take(spans, held, low, high)
        early = self._early
        self._early = 0
        self._drop(high, raw_high)
        return out[early:]

    def _withhold(self, text: str, spans: list[Span], high: int) -> str:
        """What may leave before ``high``, where there begins to be too much to judge; nothing leaves from there on."""
        _, stop = piece_around(text, self._low, high)
        width = stop - high
        out = self._emit(text, spans, high, final=False)
        rule = self._rules.by_id.get("secret.crowded")
        if self._over or rule is None:
            return out
        if rule.mode is Mode.BLOCK:
            self._notes.add(rule, self._held.offset, self._held.original(self._held.end(width) - 1) + 1)
            return self._block(out)
        end = self._held.original(len(self._held.raw))
        self._notes.add(rule, self._held.offset, end)
        self._withheld, self._text, self._leaks, self._leak = rule, "", [], None
        self._low = self._run = self._fed = 0
        self._held = Held()
        self._held.offset = end
        return out + rule.placeholder

    def _drop(self, high: int, raw_high: int) -> None:
        self._held.consume(high - self._low, raw_high)
        self._leaks = [leak for leak in self._leaks if leak[1] > high] if self._leaks else self._leaks
        self._low, self._unready = high, 0
        cut = high - CONTEXT
        if cut > CONTEXT:
            self._text = self._text[cut:]
            self._low -= cut
            self._run -= cut
            self._fed -= cut
            self._leaks = [(s - cut, e - cut, rule) for s, e, rule in self._leaks]

    def _open(self, text: str) -> str:
        """Of an answer that has only begun, the first word, which need not wait."""
        end = opening(text) if self._held.offset == 0 and self._low == 0 else 0
        if end > self._early and self._held.end(end) != end:
            return ""  # an invisible character stands in it
        out = self._held.raw[self._early : end]
        self._early = max(self._early, end)
        return out

    def _block(self, out: str) -> str:
        self._blocked = self._over = True
        self._text = ""
        self._held = Held()
        return out[self._early :]
