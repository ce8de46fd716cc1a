"""The evasions, one file a family."""
