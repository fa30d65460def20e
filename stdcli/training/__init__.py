"""Training parts that know no method: weight averaging, checkpoints, logs."""
