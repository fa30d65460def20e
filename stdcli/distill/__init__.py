"""Few-step students: methods, losses, the training run."""
