"""A run's folder in, `report.html` out: `python -m report --run-dir DIR`."""
