"""Benchmarks, run from a clone: `python -m bench`, `python -m bench.static`; see NOTES.md."""
