"""LoRA files of any program: names, strengths, layers by place, and their fusing into a model."""
