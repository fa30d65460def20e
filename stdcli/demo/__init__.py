"""Inputs to try things on, made on the spot."""
