"""Training: options, the mesh of ranks, batches for pairs, the step, checkpoints, progress, and the loop."""
