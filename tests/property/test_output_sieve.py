"""A sieve passes over nothing that its rule accepts, and lanes say what the checks say one by one."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkle.llm.output import OutputValidator, finders
from sparkle.llm.output.identity_checks import luhn_ok
from sparkle.llm.output.lanes import luhn, mod97, weighted
from sparkle.llm.output.rules import Rule, compile_rules
from sparkle.llm.output.samples import expand
from sparkle.llm.output.text import segment_end, segment_start
from sparkle.llm.policy import OutputPolicy

FAMILIES = {family.name: family for family in compile_rules(OutputPolicy()).families}
RULES = {r.spec.id: r for f in FAMILIES.values() for r in f.rules if r.sieve is not None}
VALIDATOR = OutputValidator(OutputPolicy())
BETWEEN = [" ", " ", "\n", ",", "-", ".", "/", "_", "", "a", "1", "tel", "No.", "card:", "。", "é", "(", "  "]


def crowd(seed: int, rule: Rule, values: int = 12) -> str:
    """Values and near misses of a rule, some with signs changed, with what may stand between them."""
    rng = random.Random(seed)
    parts = [rng.choice(BETWEEN)]
    for _ in range(values):
        template = rng.choice((*rule.spec.examples, *rule.spec.examples, *rule.spec.counterexamples))
        signs = list(expand(template, rng))
        for _ in range(rng.choice((0, 0, 0, 1))):
            signs[rng.randrange(len(signs))] = rng.choice("0123456789aAfFxX:-+ .")
        parts += ["".join(signs), rng.choice(BETWEEN)]
    return "".join(parts)


def accepted(rule: Rule, text: str) -> set[int]:
    """Where the rule alone finds a value, tried everywhere."""
    starts: set[int] = set()
    for at in range(len(text)):
        for pattern in rule.bounded:
            match = pattern.match(text, at)
            if match and rule.accepts(text, at, match.end()):
                starts.add(at)
    data = text.encode()
    for find, group in rule.finders:
        byte = 0
        while (found := find(data, byte)) is not None:
            start, end = (len(data[:place].decode()) for place in found[group])
            byte = found[group][1]
            if rule.accepts(text, start, end):
                starts.add(start)
    return starts


@pytest.mark.parametrize("name", RULES)
@given(seed=st.integers(0, 2**48))
@settings(max_examples=60, deadline=None)
def test_a_sieve_passes_over_nothing_that_its_rule_accepts(name: str, seed: int) -> None:
    rule = RULES[name]
    text = crowd(seed, rule)
    assert rule.sieve is not None
    assert accepted(rule, text) <= {place.start for place in rule.sieve.places(text, 0, len(text))}


@pytest.mark.parametrize("name", RULES)
@given(seed=st.integers(0, 2**48))
@settings(max_examples=25, deadline=None)
def test_a_text_is_judged_alike_with_sieves_from_the_first_miss_on_and_without(name: str, seed: int) -> None:
    assert_alike(crowd(seed, RULES[name], 30))


def assert_alike(text: str) -> None:
    verdicts: list[object] = []
    for patience in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(finders, "PATIENCE", patience)
            verdicts.append(VALIDATOR.check_text(text))
    assert verdicts[0] == verdicts[1]


@given(st.lists(st.text(string.digits, min_size=1, max_size=19), max_size=40))
def test_luhn_in_lanes_is_luhn(values: list[str]) -> None:
    assert luhn(19)(values) == [k for k, value in enumerate(values) if luhn_ok(value)]


@given(st.lists(st.text(string.digits + string.ascii_uppercase, min_size=1, max_size=34), max_size=40))
def test_mod_97_in_lanes_is_mod_97(values: list[str]) -> None:
    numbers = [int("".join(str(int(sign, 36)) for sign in value)) for value in values]
    assert mod97(34)(values) == [k for k, number in enumerate(numbers) if number % 97 == 1]


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=20),
    st.integers(2, 60),
    st.lists(st.text(string.digits, min_size=20, max_size=20), max_size=20),
)
def test_a_weighted_sum_in_lanes_never_overflows(weights: list[int], modulus: int, texts: list[str]) -> None:
    numbers = bytes(max(0, code - 48) for code in range(256))
    values = [text[: len(weights)] for text in texts]
    sums = [sum(w * int(d) for w, d in zip(weights, value, strict=True)) for value in values]
    right = [k for k, total in enumerate(sums) if total % modulus == 0]
    assert weighted(numbers, weights, modulus)(values) == right


SIGNS = [
    *(
        "a",
        "b.",
        "c(",
        "_",
        "your",
        "you",
        "(",
        "[",
        "*",
        "`",
        '"',
        "'",
        " ",
        "1",
        "9",
        "!",
        "é",
        ".",
        "..",
        "x.y",
    ),
    *(
        "print(",
        "os.environ",
        "str",
        "A",
        "-",
        "“",
        "=",
        ",",
        ":",
        "password",
        "\n",
        "。",
        "****",
        "*****",
        "abc1!",
    ),
]

KEY_SIGNS = [
    "abc",
    "key-",
    "x_y.z",
    "0",
    "1234567",
    "aB3xK9qLmZ",
    "xxxx",
    "XXXXX",
    "Your",
    "-",
    "_",
    "~",
    "/",
    "+",
]
TRIGGER_SIGNS = [
    *(
        "password",
        "Passwd",
        "pwd",
        "paſsword",
        "密码",
        "口令",
        "--password",
        "--token",
        "bearer",
        "key",
        "KEY",
        "api",
        "token",
    ),
    *(
        "auth",
        "credential",
        "credentials",
        "client",
        "id",
        "private",
        "ſecret",
        "secret",
        "令牌",
        "a",
        " for ",
        " is",
        "is now",
    ),
    *(
        " ",
        " ",
        "=",
        "==",
        ":",
        "：",
        "->",
        ":=",
        "设为",
        "是",
        "\u00a0",
        "\x0b",
        "\x1c",
        "\n",
        "has been set to",
        "are",
    ),
    *("abcdefghijklmnopqrst", "Ab1!", "“", "'", "*", "é", "s", "_", ")"),
]


@given(
    st.lists(st.sampled_from(SIGNS), max_size=9), st.sampled_from(["password: ", "password is ", "密码是"])
)
@settings(max_examples=200, deadline=None)
def test_what_is_passed_over_as_no_password_is_none(parts: list[str], lead: str) -> None:
    text = lead + "".join(parts)
    rule = FAMILIES["password"].rules[0]
    never = FAMILIES["password"].never
    assert never is not None
    if never.match(text, len(lead)):
        assert taken(text, len(lead), rule) is None


@given(
    st.lists(st.sampled_from([*SIGNS, *KEY_SIGNS]), max_size=12),
    st.sampled_from(["token: ", "api_key = ", "密钥："]),
)
@settings(max_examples=200, deadline=None)
def test_what_is_passed_over_as_no_secret_is_none(parts: list[str], lead: str) -> None:
    text = lead + "".join(parts)
    never = FAMILIES["secret_value"].never
    assert never is not None
    if never.match(text, len(lead)):
        assert taken(text, len(lead), FAMILIES["secret_value"].rules[0]) is None


def taken(text: str, at: int, rule: Rule) -> tuple[int, int] | None:
    """What a rule accepts behind a trigger that ends at a place."""
    before = finders._BEFORE_VALUE.match(text, at)  # pyright: ignore[reportPrivateUsage]  # the look itself is meant
    assert before is not None
    value = rule.bounded[0].match(text, before.end())
    return rule.accepts(text, *value.span()) if value else None


@given(
    parts=st.lists(
        st.one_of(st.sampled_from([*SIGNS, *TRIGGER_SIGNS]), st.sampled_from(TRIGGER_SIGNS)), max_size=30
    )
)
@settings(max_examples=200, deadline=None)
def test_a_sieve_of_triggers_finds_those_that_the_screen_finds(parts: list[str]) -> None:
    text, family = "".join(parts), FAMILIES["password"]
    assert family.sieve is not None
    assert family.screen is not None
    data, byte, found = text.encode(), 0, list[int]()
    while (spans := family.screen(data, byte)) is not None:
        byte = spans[1][1]
        found.append(len(data[:byte].decode()))
    assert [match.end() for match in family.sieve.finditer(text)] == found


@pytest.mark.parametrize("name", [r.spec.id for f in ("key", "url_credentials") for r in FAMILIES[f].rules])
@given(seed=st.integers(0, 2**48))
@settings(max_examples=60, deadline=None)
def test_the_sieve_of_keys_passes_over_no_segment_with_a_key(name: str, seed: int) -> None:
    family, rule = next((f, rule) for f in FAMILIES.values() for rule in f.rules if rule.spec.id == name)
    text = stubbed(seed, crowd(seed, rule))
    assert family.sieve is not None
    places = {match.start() for match in family.sieve.finditer(text)}
    for start in accepted(rule, text):
        first = segment_start(text, start, 0)
        assert any(first <= place < segment_end(text, start) for place in places), text[first:]


@given(seed=st.integers(0, 2**48))
@settings(max_examples=100, deadline=None)
def test_keys_and_passwords_are_judged_alike_with_sieves_from_the_first_miss_on_and_without(
    seed: int,
) -> None:
    rng = random.Random(seed)
    rules = [
        rule
        for name in ("key", "url_credentials", "password", "secret_value")
        for rule in FAMILIES[name].rules
    ]
    text = "".join(stubbed(rng.random(), crowd(rng.getrandbits(32), rng.choice(rules), 6)) for _ in range(8))
    assert_alike(text)


def stubbed(seed: float, text: str) -> str:
    """The text with words of placeholders and rows of one sign written over some of it."""
    rng = random.Random(seed)
    for _ in range(rng.choice((0, 2, 5))):
        at = rng.randrange(len(text))
        new = rng.choice(("your", "xxxx", "XXXX", "example", "-", "_", "/", " ", "a" * rng.randint(1, 50)))
        text = text[:at] + new + text[at + rng.choice((0, len(new))) :]
    return text
