"""A run's folder in, `report.html` and its pictures out: `python -m report --run DIR`."""
