"""Training of a small teacher from a folder of pictures: codec, style pairs, denoiser."""
