"""A trained run judged: its network over ten views of each image, errors with intervals, beside the published ones."""
