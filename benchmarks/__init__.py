"""Benchmarks that compare the same work on the same bytes: `python -m benchmarks loader pack step tenpatch cold`."""
