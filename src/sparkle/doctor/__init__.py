"""``sparkle doctor``: looks at everything Sparkle stands on and says how to mend what is wrong."""
