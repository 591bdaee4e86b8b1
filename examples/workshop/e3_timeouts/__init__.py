"""Exercise 3: an update that is too slow, and one whose worker is killed."""
