"""The output rules: each keeps what its examples and counterexamples promise, and the files keep their own rules."""

from __future__ import annotations

import random

import pytest
from bench.output_cuts import secret_parts

from sparkle.errors import PolicyError
from sparkle.llm.output import OutputValidator
from sparkle.llm.output.rule_files import RuleSpec, load_rule_files
from sparkle.llm.output.samples import expand
from sparkle.llm.output.scan import Scanner
from sparkle.llm.output.syntax import crosses_piece
from sparkle.llm.policy import AllowEntry, OutputPolicy
from sparkle.llm.verdict import Action, Mode

RULES = load_rule_files().rules
DEFAULT = OutputValidator(OutputPolicy())
EXAMPLES = [
    pytest.param(rule, text, id=f"{rule.id}-{i}") for rule in RULES for i, text in enumerate(rule.examples)
]
COUNTEREXAMPLES = [
    pytest.param(rule, text, id=f"{rule.id}-{i}")
    for rule in RULES
    for i, text in enumerate(rule.counterexamples)
]


def _seeds(template: str) -> range:
    return range(6) if "{" in template else range(1)


@pytest.mark.parametrize(("rule", "template"), EXAMPLES)
def test_a_rule_finds_its_examples(rule: RuleSpec, template: str) -> None:
    for seed in _seeds(template):
        text = expand(template, random.Random(seed))
        result = DEFAULT.check_text(text)
        assert rule.id in {f.rule for f in result.verdict.findings}, text
        if rule.mode is Mode.REDACT:
            assert result.verdict.action is Action.REDACT
            assert f"[REDACTED:{rule.kind}]" in result.text or "[REDACTED:" in result.text


@pytest.mark.parametrize(("rule", "template"), COUNTEREXAMPLES)
def test_a_rule_leaves_its_counterexamples_alone(rule: RuleSpec, template: str) -> None:
    for seed in _seeds(template):
        text = expand(template, random.Random(seed))
        findings = DEFAULT.check_text(text).verdict.findings
        assert not [f for f in findings if f.rule == rule.id and f.mode is rule.mode], text


def test_every_rule_has_examples_both_ways_and_reasons_in_both_languages() -> None:
    for rule in RULES:
        assert rule.reason.endswith(".")
        assert rule.reason_zh.endswith("。")
        if rule.family not in ("leak", "oversized", "crowded"):
            assert rule.examples, rule.id
            assert rule.counterexamples, rule.id


def test_there_are_more_than_ten_kinds_of_sensitive_data() -> None:
    kinds = {rule.kind for rule in RULES if rule.id.startswith(("pii.", "secret."))}
    assert len(kinds) >= 10
    assert {
        "api_key",
        "token",
        "private_key",
        "password",
        "card",
        "email",
        "phone",
        "id_number",
        "ssn",
        "ip",
        "iban",
    } <= kinds


def test_no_pattern_of_a_piece_rule_matches_a_character_that_ends_a_piece() -> None:
    families = load_rule_files().families
    for rule in RULES:
        if families[rule.family].finder == "piece":
            assert not [p for p in rule.patterns if crosses_piece(p)], rule.id


@pytest.mark.parametrize(
    "pattern", [r"a b", r"(a\s)", r"x.", r"[^a]", r"(?:^|[^a])(a[,;])", r"\w", r"(a|b c)", "(?:a\u4e00)?"]
)
def test_a_pattern_that_could_cross_a_cut_is_noticed(pattern: str) -> None:
    assert crosses_piece(pattern)


@pytest.mark.parametrize(
    "pattern", [r"(?:^|[^A-Za-z])(ab[0-9_.-]{3,})(?:[^a]|$)", r"[0-9]{3}-[0-9]{4}", r"(?:a|b)+@c"]
)
def test_a_pattern_of_one_piece_is_accepted(pattern: str) -> None:
    assert not crosses_piece(pattern)


def test_a_trigger_fires_wherever_a_rule_finds_something() -> None:
    scanner = Scanner(DEFAULT._compiled)  # pyright: ignore[reportPrivateUsage]  # asked for the trigger alone
    for rule in RULES:
        for template in rule.examples:
            text = expand(template, random.Random(3)).replace("\u00ad", "")
            if text.isascii():
                assert scanner.triggered(text.encode()), template


def test_a_redacted_example_holds_nothing_of_its_value() -> None:
    for rule in RULES:
        for template in rule.examples:
            text = expand(template, random.Random(7))
            out = DEFAULT.check_text(text).text
            for part in secret_parts(DEFAULT, text):
                assert part not in out, template


def test_the_policy_switches_a_rule_a_category_or_all() -> None:
    text = "mail bob.li@corp.cn, call 13812345678"
    off = OutputValidator(OutputPolicy(rules={"pii.email": Mode.OFF}))
    assert off.check_text(text).text == "mail bob.li@corp.cn, call [REDACTED:phone]"
    watch = OutputValidator(OutputPolicy(rules={"pii": Mode.WATCH}))
    result = watch.check_text(text)
    assert result.text == text
    assert result.verdict.action is Action.ALLOW
    assert {f.rule for f in result.verdict.findings} == {"pii.email", "pii.phone_cn"}
    block = OutputValidator(OutputPolicy(rules={"pii.phone": Mode.BLOCK}))
    result = block.check_text(text)
    assert result.verdict.action is Action.BLOCK
    assert result.text == "mail [REDACTED:email], call "
    nothing = OutputValidator(OutputPolicy(rules={"*": Mode.OFF}))
    assert nothing.check_text(text + " <script>").text == text + " <script>"


@pytest.mark.parametrize(
    "policy",
    [
        OutputPolicy(rules={"pii.emial": Mode.OFF}),
        OutputPolicy(rules={"xss": Mode.BLOCK}),
        OutputPolicy(allow=(AllowEntry(rule="pii.unknown", text="x"),)),
        OutputPolicy(allow=(AllowEntry(rule="pii.email", pattern="("),)),
        OutputPolicy(allow=(AllowEntry(rule="pii.email", pattern=r"(?=a)b"),)),
        OutputPolicy(allow=(AllowEntry(rule="pii.email"),)),
        OutputPolicy(placeholder=""),
        OutputPolicy(placeholder="  "),
        OutputPolicy(placeholder="{value}"),
        OutputPolicy(placeholder="{0}"),
        OutputPolicy(placeholder="{kind"),
    ],
)
def test_a_wrong_policy_is_an_error(policy: OutputPolicy) -> None:
    with pytest.raises(PolicyError):
        OutputValidator(policy)


def test_exceptions_let_a_value_pass_by_text_or_by_pattern() -> None:
    validator = OutputValidator(
        OutputPolicy(
            allow=(
                AllowEntry(rule="pii.email", text="Help@Uni.edu.cn"),
                AllowEntry(rule="pii.phone", pattern="400[0-9]+|1380000[0-9]{4}"),
                AllowEntry(rule="active", text="<iframe"),
            )
        )
    )
    text = "help@uni.edu.cn bob@uni.edu.cn 13800001234 13812341234"
    assert validator.check_text(text).text == "help@uni.edu.cn [REDACTED:email] 13800001234 [REDACTED:phone]"
    assert validator.check_text("<iframe src=x>").text == "<iframe src=x>"


def test_the_placeholder_is_the_policys() -> None:
    validator = OutputValidator(OutputPolicy(placeholder="〔已隐去{kind}〕"))
    assert validator.check_text("邮箱bob.li@corp.cn。").text == "邮箱〔已隐去email〕。"


def test_descriptions_tell_the_mode_under_the_policy() -> None:
    validator = OutputValidator(OutputPolicy(rules={"pii.ip": Mode.BLOCK}))
    by_id = {rule.id: rule for rule in validator.rules}
    assert len(by_id) == len(RULES)
    assert by_id["pii.ipv4_special"].default_mode is Mode.WATCH
    assert by_id["pii.ipv4_special"].mode is Mode.BLOCK
    assert by_id["leak.system_prompt"].mode is Mode.BLOCK


def test_findings_point_into_the_text_and_never_quote_it() -> None:
    text = "给我发 bob.li@corp.cn 或 <13812345678>"
    findings = DEFAULT.check_text(text, path="choices[0].message.content").verdict.findings
    assert [text[f.start : f.end] for f in findings] == ["bob.li@corp.cn", "13812345678"]
    for finding in findings:
        assert finding.layer == "output"
        assert finding.path == "choices[0].message.content"
        assert "bob" not in finding.reason + finding.reason_zh


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ｂｏｂ.ｌｉ＠ｃｏｒｐ.ｃｎ", "[REDACTED:email]"),
        ("１３８１２３４５６７８", "[REDACTED:phone]"),
        ("电话１３８－１２３４－５６７８", "电话[REDACTED:phone]"),
        ("bob\u200b.li@co\u00adrp.cn", "[REDACTED:email]"),
        ("138\u200b1234\u20605678 ok", "[REDACTED:phone] ok"),
        ("٠1٣٨١٢٣٤٥٦٧٨", "٠1٣٨١٢٣٤٥٦٧٨"),
        ("١٣٨١٢٣٤٥٦٧٨", "[REDACTED:phone]"),
        ("𝟏𝟑𝟖𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖", "[REDACTED:phone]"),
    ],
)
def test_disguised_characters_are_read_as_people_read_them(text: str, expected: str) -> None:
    assert DEFAULT.check_text(text).text == expected


@pytest.mark.parametrize(
    "text",
    [
        "Call `exec(code)` or run `rm -rf build/` to clean up; eval() is dangerous.",
        "死锁、性别、性质和死亡率都是普通的词。",
        "x = 12345.6789012345, 2^34 = 17179869184, 13! = 6227020800",
        "1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584",
        "| 2021 | 1234567 | 98.5% |\n| 2022 | 7654321 | 99.5% |",
        "sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "git show 9fceb02d0ae598e95dc970b74767f19372d61af8",
        "uuid 550e8400-e29b-41d4-a716-446655440000, order 2024-0315-889921, v1.22.333",
        "ISBN 978-7-302-42328-7; ISBN 9787302423287; DOI 10.1145/3292500.3330701",
        "2024-03-15 12:30:45.123456+08:00, 20240315123045, 1710477045123",
        "The password must have 12 characters. 密码应当包含数字和字母。",
        "std::vector<int> v; a::b::c(); if x<y and y>z: pass",
        "π ≈ 3.14159265358979323846264338327950288419716939937510",
        "Use 192.168.0.1 or 127.0.0.1 and mask 255.255.255.0.",
        "```html\n<script>alert(1)</script>\n<img src=x onerror=alert(1)>\n```",
        '行内代码 `<script>` 与 `onclick="f()"` 可以保留。',
    ],
)
def test_what_a_tutor_writes_is_no_finding(text: str) -> None:
    result = DEFAULT.check_text(text)
    assert result.text == text
    assert result.verdict.action is Action.ALLOW


def test_overlapping_findings_become_one_placeholder_of_the_most_severe_kind() -> None:
    text = "url postgres://app:s3cret-w0rd@db.corp.cn:5432 end"
    assert DEFAULT.check_text(text).text == "url postgres://[REDACTED:password]db.corp.cn:5432 end"


def test_a_lone_surrogate_or_a_nul_breaks_nothing() -> None:
    assert DEFAULT.check_text("a\ud800b bob.li@corp.cn\x00").text == "a\ud800b [REDACTED:email]\x00"
    assert DEFAULT.check_text("\udfff").text == "\udfff"
    assert DEFAULT.check_text("").text == ""
