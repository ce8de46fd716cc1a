"""What can be asked for a judgement: the guard in this process, or a running Sparkle over HTTP."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from sparkle.errors import ConfigurationError, ProviderError
from sparkle.evaluation.presets import with_preset
from sparkle.llm.guards import Guards
from sparkle.llm.policy import Policy
from sparkle.llm.policy_file import load_policy
from sparkle.llm.verdict import Action, Verdict

Messages = Sequence[Mapping[str, Any]]

_TIMEOUT_SECONDS = 60.0
_SCAN_PATH = "/v1/guard/scan"


@dataclass(frozen=True, slots=True)
class Judged:
    """What a detector says about one text or conversation."""

    score: float
    """In [0, 1]; only its order matters to figures at a fixed false-positive rate."""
    flagged: bool
    """Whether it would not pass as it is: blocked or redacted."""
    rules: tuple[str, ...] = ()
    """Enforced rules that were met, the highest score first."""
    milliseconds: float = 0.0
    """Time the judgement took, as this process saw it."""


class Detector(Protocol):
    """Judges texts."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        ...

    def judge(self, text: str, role: str) -> Judged:
        """Judge one text as part of a conversation; ``role`` says whose it is."""
        ...

    def judge_messages(self, messages: Messages) -> Judged:
        """Judge a conversation."""
        ...


def judged(verdict: Verdict, milliseconds: float) -> Judged:
    """A guard's verdict as a figure."""
    enforced = sorted(
        (finding for finding in verdict.findings if finding.mode in ("block", "redact")),
        key=lambda finding: -finding.score,
    )
    rules = tuple(dict.fromkeys(finding.rule for finding in enforced))
    return Judged(verdict.score, verdict.action is not Action.ALLOW, rules, milliseconds)


class GuardDetector:
    """The input guard of a policy, in this process: all its layers, as the gateway builds them."""

    def __init__(self, policy: Policy, name: str = "sparkle") -> None:
        self._safety = Guards.build(policy, wait=True).safety
        self.name = name

    def judge(self, text: str, role: str) -> Judged:
        """Judge one text with the trust that the policy gives ``role``."""
        began = time.perf_counter()
        verdict = self._safety.check_text(text, trust=self._safety.trust_of(role))
        return judged(verdict, (time.perf_counter() - began) * 1e3)

    def judge_messages(self, messages: Messages) -> Judged:
        """Judge a conversation as the guarded call does.

        Raises:
            InvalidRequestError: a message has content of no known shape.
        """
        began = time.perf_counter()
        verdict = self._safety.check_messages(messages).verdict
        return judged(verdict, (time.perf_counter() - began) * 1e3)


def open_guard(policy: str | None = None, preset: str | None = None) -> GuardDetector:
    """The guard of a policy file (``None``: the shipped default), at one of its presets.

    Raises:
        PolicyError: the file is wrong, or the policy knows no such preset.
    """
    return GuardDetector(with_preset(load_policy(policy), preset), preset or "sparkle")


class RemoteDetector:
    """A running Sparkle, asked over ``POST /v1/guard/scan``: the policy and classifier that it runs with.

    Args:
        url: its base URL, with or without ``/v1``.
        api_key: sent as bearer token where given; never shown.

    Raises:
        ConfigurationError: ``url`` is no http or https URL.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"{url!r} is no http or https URL of a running Sparkle")
        self.name = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
        self._path = parts.path.rstrip("/").removesuffix("/v1") + _SCAN_PATH
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=_TIMEOUT_SECONDS)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def judge(self, text: str, role: str) -> Judged:
        """Judge one text. Raises as :meth:`judge_messages`."""
        return self.judge_messages([{"role": role, "content": text}])

    def judge_messages(self, messages: Messages) -> Judged:
        """Judge a conversation.

        Raises:
            ProviderError: it cannot be reached, or answers with an error or something unexpected.
        """
        began = time.perf_counter()
        answer = self._ask(json.dumps({"messages": messages}).encode())
        spent = (time.perf_counter() - began) * 1e3
        try:
            score, action = float(answer["score"]), str(answer["action"])
            enforced = [f for f in answer["findings"] if f.get("mode") in ("block", "redact")]
            rules = tuple(dict.fromkeys(str(finding["rule"]) for finding in enforced))
        except (LookupError, TypeError, ValueError, AttributeError):
            raise ProviderError(f"{self.name} answered something other than a verdict") from None
        return Judged(score, action != Action.ALLOW, rules, spent)

    def _ask(self, body: bytes) -> dict[str, Any]:
        for attempt in (0, 1):
            try:
                self._connection.request("POST", self._path, body, self._headers)
                response = self._connection.getresponse()
                raw = response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                # A kept connection may have been closed meanwhile; a fresh one that fails is a fault.
                if attempt:
                    raise ProviderError(f"{self.name} cannot be reached: {type(error).__name__}") from None
        else:
            raise AssertionError("the loop ends by break or by an error")
        try:
            answer: object = json.loads(raw)
        except ValueError:
            answer = None
        if response.status != http.client.OK or not isinstance(answer, dict):
            raise ProviderError(f"{self.name} answered {response.status} to {self._path}")
        return cast("dict[str, Any]", answer)
