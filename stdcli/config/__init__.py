"""What the user may set: schemas, layering, presets. Never imports torch."""
