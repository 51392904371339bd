"""Agreement of a result from coded features with that of the uncompressed model."""

import numpy as np

from dtufc.coding.arrays import Array


def mean_iou(a: Array, b: Array) -> float:
    """Mean of the intersection over union of foreground and of background; of boolean masks."""
    return float(np.mean([_iou(a, b), _iou(~a, ~b)]))


def _iou(a: Array, b: Array) -> float:
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0
