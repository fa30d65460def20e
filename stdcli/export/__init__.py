"""Students as files for other programs: LoRAs by diffusers' and kohya's names, merged models."""
