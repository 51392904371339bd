"""Research: training, evaluation, the paper's tables. Uses everything; nothing uses it."""
