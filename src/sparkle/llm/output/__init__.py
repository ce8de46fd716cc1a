"""Layer 4, the output guard."""

from sparkle.llm.output.leak import PromptGuard
from sparkle.llm.output.result import OutputResult
from sparkle.llm.output.rules import RuleDescription
from sparkle.llm.output.stream import OutputStream
from sparkle.llm.output.validator import OutputValidator

__all__ = ["OutputResult", "OutputStream", "OutputValidator", "PromptGuard", "RuleDescription"]
