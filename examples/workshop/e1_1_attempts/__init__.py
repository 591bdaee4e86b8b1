"""Exercise 1.1: the history of an activity that fails on its first attempt."""
