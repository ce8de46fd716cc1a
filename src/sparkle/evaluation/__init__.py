"""``sparkle evaluate``: how well a detector tells attacks from harmless texts, and where it errs."""
