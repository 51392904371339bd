"""Heads: features at the split point -> result, one module a model family."""
