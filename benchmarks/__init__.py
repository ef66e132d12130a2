"""Benchmarks that compare the same work on the same bytes: `python -m benchmarks`; a GPU node: `… .gpu_check`."""
