"""Backbones: input -> features at the split point, one module a model family."""
