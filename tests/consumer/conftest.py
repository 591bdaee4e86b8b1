"""The project is somebody else's: its tests run in its own environment."""

collect_ignore = ["project"]
