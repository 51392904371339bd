"""A package of somebody else's: a family of models and a task, one file a side."""
