"""Exercise 7: what each limit of a worker does, seen in the SDK's own metrics."""
