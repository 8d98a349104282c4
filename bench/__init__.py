"""Benchmarks, run from a clone: `python -m bench.<name>`. Findings are kept in NOTES.md."""
