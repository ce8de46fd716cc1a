"""``sparkle demo``: the main job as a story that can be read and watched."""
