"""Where and how a command runs: devices, seeds, the run record."""
