"""Teacher paths on disk, and in memory: the trajectory bank of Single Trajectory Distillation."""
