"""Layer 1, the input: normalise, rules, classifier, verdict. Fails closed."""

from sparkle.llm.safety.classifier import Classifier, ClassifierScore
from sparkle.llm.safety.guard import Explanation, InputResult, LLMSafety
from sparkle.llm.safety.rules import RuleInfo

__all__ = ["Classifier", "ClassifierScore", "Explanation", "InputResult", "LLMSafety", "RuleInfo"]
