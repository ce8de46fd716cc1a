"""What a pattern of the input guard reads of a long text is bounded, however the text is made."""

from __future__ import annotations

import pytest
from bench.input_guard import made_of

from sparkle.llm.safety import probe
from sparkle.llm.safety.engine import Engine
from sparkle.llm.safety.rules import default_book

PROBES = Engine(default_book()).probes
SIZE = 200_000


@pytest.mark.parametrize("number", range(0, len(PROBES), 40))
def test_the_ends_of_sentences_are_looked_for_no_further_than_they_are_read(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    look = probe.after_stop

    def counted(data: bytes, start: int, end: int) -> int:
        nonlocal read
        after = look(data, start, end)
        read += after - start
        return after

    monkeypatch.setattr(probe, "after_stop", counted)
    for seed in range(2):
        read = 0
        hits = list(PROBES[number].spans(made_of(PROBES[number].source, SIZE, seed), 64))
        assert len(hits) <= 64
        assert read <= 2 * probe.EXACT_BYTES
