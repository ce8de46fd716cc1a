"""Names of the OpenTelemetry GenAI semantic conventions, all in one place because their status is
Development.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ (attributes of a client span).
Names that begin with ``sparkle.`` are our own.
"""

from __future__ import annotations

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"

REQUEST_ID = "sparkle.request_id"
OUTCOME = "sparkle.outcome"
POLICY_HASH = "sparkle.policy.hash"
FINDING_EVENT = "sparkle.finding"
FINDING_RULE = "sparkle.finding.rule"
FINDING_CATEGORY = "sparkle.finding.category"
FINDING_LAYER = "sparkle.finding.layer"
FINDING_MODE = "sparkle.finding.mode"


def span_name(operation: str, model: str) -> str:
    """The name of a call's span, e.g. ``chat gpt-4o``."""
    return f"{operation} {model}"
