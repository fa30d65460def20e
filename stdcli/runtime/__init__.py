"""Where and how a command runs: devices, seeds, Ctrl-C."""
