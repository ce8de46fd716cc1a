"""``python -m training.record``: write the scores of the shipped weights for a small committed set of our own texts.

A test compares them, so that nobody changes weights, features or the encoder's arithmetic without noticing.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from sparkle.llm.safety.classifier import Classifier
from sparkle.llm.safety.classifier_learned import shipped_classifier
from sparkle.llm.safety.views import View

TEXTS = Path(__file__).with_name("recorded.yaml")
OUT = Path("tests/unit/classifier_recorded.json")


def _score(classifier: Classifier, text: str) -> float:
    said = classifier.score(View("text", text), indirect=False)
    return round(said.score, 4) if said else 0.0


def main() -> None:
    """Judge and write."""
    texts = msgspec.yaml.decode(TEXTS.read_bytes(), type=dict[str, list[str]])
    fast, both = shipped_classifier("off"), shipped_classifier("on", wait=True)
    rows = [
        {
            "text": text,
            "label": int(kind == "attacks"),
            "fast": _score(fast, text),
            "both": _score(both, text),
        }
        for kind in ("attacks", "harmless")
        for text in texts[kind]
    ]
    OUT.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
