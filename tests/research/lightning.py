"""What Lightning and torch say of each other while a training is resumed as it is meant to be. All else is an error."""

import pytest

EXPECTED = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "Checkpoint directory .* exists and is not empty",
        "Precision bf16-mixed is not supported by the model summary",
        "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
        "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
        "You're resuming from a checkpoint that ended before the epoch ended",
        "The number of training batches .* is smaller than the logging interval",
    )
]
