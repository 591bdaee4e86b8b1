"""The parts alone, in workflows that have nothing to do with patching. Start with README.md."""
