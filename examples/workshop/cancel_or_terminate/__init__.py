"""Cancellation against termination: what each of them leaves behind on the hosts."""
