"""Exercise 6: one host fails; what becomes of those beside it."""
