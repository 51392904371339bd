"""Photographs, texts and prompts out of packages, and the features of real models on them."""
