"""``sparkle redteam``: attacks that are found when written plainly, written in other ways."""
