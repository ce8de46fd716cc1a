"""Benchmarks of the gateway and its parts: ``python -m bench`` (docs/benchmarks.md says how to read them)."""
