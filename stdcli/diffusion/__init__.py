"""Diffusion mathematics: levels, jumps, conversions, guidance, noise and the K-step loop. Torch only."""
