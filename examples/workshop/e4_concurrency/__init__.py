"""Exercise 4: clusters and hosts one after the other, then in parallel within limits."""
