"""Every rule finds its examples, leaves its counterexamples alone and can explain itself."""

from __future__ import annotations

import pytest

from sparkle.errors import ConfigurationError
from sparkle.llm.policy import InputPolicy, Trust
from sparkle.llm.safety import LLMSafety
from sparkle.llm.safety.engine import Engine, default_engine
from sparkle.llm.safety.judge import Judge, Judgement
from sparkle.llm.safety.layers import default_layers
from sparkle.llm.safety.rules import CombinationSpec, RuleFile, RuleSpec, SignalSpec, default_book, make_book
from sparkle.llm.verdict import Severity

BOOK = default_book()
SAFETY = LLMSafety(InputPolicy())
FAMILIES = (
    "injection.override",
    "injection.role_hijack",
    "injection.prompt_extraction",
    "injection.fake_turn",
    "injection.obfuscation",
    "injection.indirect",
    "injection.exfiltration",
)


def judge(text: str, trust: Trust = "untrusted") -> Judgement:
    return SAFETY.explain(text, trust=trust).judgement


def met(text: str, trust: Trust) -> set[str]:
    return {hit.rule for hit in judge(text, trust).hits}


def trust_for(rule: RuleSpec | CombinationSpec) -> Trust:
    return "indirect" if isinstance(rule, RuleSpec) and rule.scope == "indirect" else "untrusted"


@pytest.mark.parametrize("rule", [*BOOK.rules, *BOOK.combinations], ids=lambda rule: rule.id)
def test_a_rule_finds_its_examples_and_leaves_its_counterexamples_alone(
    rule: RuleSpec | CombinationSpec,
) -> None:
    missed = [text for text in rule.examples if rule.id not in met(text, trust_for(rule))]
    assert missed == []
    found = [text for text in rule.counterexamples if rule.id in met(text, trust_for(rule))]
    assert found == []


@pytest.mark.parametrize(
    ("combination", "signal"),
    [(combination.id, signal) for combination in BOOK.combinations for signal in combination.signals],
    ids=lambda value: value.id if isinstance(value, SignalSpec) else "",
)
def test_a_signal_finds_its_examples(combination: str, signal: SignalSpec) -> None:
    def signals(text: str) -> set[tuple[str, str]]:
        return {(hit.rule, hit.signal) for hit in judge(text).signals}

    assert [text for text in signal.examples if (combination, signal.id) not in signals(text)] == []
    assert [text for text in signal.counterexamples if (combination, signal.id) in signals(text)] == []


def test_every_pattern_compiles_in_both_variants() -> None:
    probes = Engine(BOOK).probes
    assert len(probes) > 2 * len(BOOK.rules)
    for probe in probes:
        probe.compile()


def test_every_pattern_needs_a_word_so_that_ordinary_text_runs_none() -> None:
    assert [probe.target.rule for probe in default_engine().probes if not probe.needed] == []


def test_all_families_of_injection_and_at_least_eight_kinds_of_xss_are_covered_in_both_languages() -> None:
    categories = {info.category for info in SAFETY.rules}
    assert set(FAMILIES) <= categories
    assert len({category for category in categories if category.startswith("xss.")}) >= 8
    for family in FAMILIES:
        languages = {lang for info in SAFETY.rules if info.category == family for lang in info.languages}
        assert {"en", "zh"} <= languages, family


@pytest.mark.parametrize("info", SAFETY.rules, ids=lambda info: info.id)
def test_a_rule_explains_itself_to_people_in_two_languages(info: object) -> None:
    rule = BOOK.infos[getattr(info, "id")]  # noqa: B009 - parametrize hands over objects
    assert rule.reason.endswith(".")
    assert rule.reason[0].isupper()
    assert rule.reason_zh.endswith("。")
    assert rule.severity in tuple(Severity)
    assert 0 < rule.score <= 1


def test_two_rules_with_one_id_are_refused() -> None:
    file = RuleFile(rules=(BOOK.rules[0],))
    with pytest.raises(ConfigurationError, match="stands twice"):
        make_book((file, file), {})


def spec(pattern: str) -> RuleSpec:
    return RuleSpec(
        id="injection.test.one", severity=Severity.LOW, score=0.5, patterns=(pattern,),
        reason="Test.", reason_zh="测试。", examples=("x",),
    )  # fmt: skip


@pytest.mark.parametrize("pattern", ["{unknown}", "(?:a", "[^一]", "[一-龥]", "a)", "(?P<name>a)"])
def test_a_pattern_that_means_nothing_names_its_rule(pattern: str) -> None:
    book = make_book((RuleFile(rules=(spec(pattern),)),), {})

    def compile_all() -> None:
        for probe in Engine(book).probes:
            probe.compile()

    with pytest.raises(ConfigurationError, match=r"injection\.test\.one"):
        compile_all()


def test_fragments_in_a_circle_are_refused() -> None:
    book = make_book((RuleFile(rules=(spec("{a}"),)),), {"a": "x{b}", "b": "y{a}"})
    with pytest.raises(ConfigurationError, match="circle"):
        Engine(book)


def test_signals_count_once_each_and_only_near_each_other() -> None:
    def combination(threshold: float) -> CombinationSpec:
        signals = tuple(
            SignalSpec(id=word, weight=0.5, patterns=(word,), examples=(word,)) for word in ("apple", "pear")
        )
        return CombinationSpec(
            id="injection.test.fruit", severity=Severity.LOW, score=0.5, threshold=threshold, signals=signals,
            reason="Test.", reason_zh="测试。", examples=("apple pear",),
        )  # fmt: skip

    def hits(text: str, threshold: float = 1.0) -> list[tuple[int, int]]:
        book = make_book((RuleFile(combinations=(combination(threshold),)),), {})
        judgement = Judge(Engine(book), default_layers()).judge(text, indirect=False)
        return [(hit.start, hit.end) for hit in judgement.hits]

    assert hits("apple pear") == [(0, 10)]
    assert hits("pear, then apple") == [(0, 16)]
    assert hits("apple apple apple") == []
    assert hits("apple" + " " * 7_000 + "pear") == []
    assert hits("apple" + " " * 7_000 + "pear apple") == [(7_005, 7_015)]
    assert hits("apple", threshold=0.5) == [(0, 5)]
