"""Model loading: the only package that knows diffusers and transformers."""
