"""Models: profiles, weights, and cutting a model in two."""
