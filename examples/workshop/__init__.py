"""The workshop, exercise by exercise: by hand, and with the library."""
