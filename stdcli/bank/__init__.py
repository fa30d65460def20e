"""Banks of teacher trajectories: whole paths on disk, or one state per slot in memory."""
