"""The checkpoint `sd3-emoji`: a small Stable Diffusion 3, trained on emoji and their names."""
