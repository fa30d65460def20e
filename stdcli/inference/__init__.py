"""Inference: pictures and clips through a model."""
