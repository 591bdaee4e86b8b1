"""Exercise 5: child workflows, the tree that they make, and what becomes of it when its top is gone."""
