"""Exercise 1: approval by signal and by update, with a timeout."""
