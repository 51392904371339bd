"""Trains what is shipped: the codecs' networks, the small Stable Diffusion 3, the profiles."""
