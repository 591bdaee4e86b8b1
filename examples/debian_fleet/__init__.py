"""Patch real Debian hosts over SSH, on one machine. Start with README.md."""
