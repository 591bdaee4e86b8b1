"""The testing suite: a subclass tested in a second, by time skipping, in your own pytest."""
