"""Sparkle: the backend an LLM product stands on."""
