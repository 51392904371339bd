"""What exact decoding costs in rate: real streams, under integer probabilities, against the float network's ideal."""

from collections.abc import Sequence

import torch

from dtufc.arrays import Array
from dtufc.codecs.learned.codec import padded
from dtufc.codecs.learned.latents import Writer
from dtufc.codecs.learned.network_file import TrainedNetwork
from dtufc.entropy import Encoder


@torch.inference_mode()
def rate_overhead(
    trained: TrainedNetwork, planes: Sequence[Array], quality: float, padding: float | None = None
) -> float:
    """How many more bits the streams of all planes have than the float network says they need, as a share of those.

    Args:
        trained: with normal tables: fitted ones may need fewer bits than the network's own distributions.
        planes: [H, W] float32 levels each, of at most one tile.
        quality: in [0, 1].
        padding: of the planes; see `Preparation`.
    """
    network, rate = trained.network, torch.tensor([quality * (trained.num_rates - 1)])
    real = ideal = 0.0
    for plane in planes:
        units = padded(plane, padding)
        y = network.analysis(units, rate)
        y_rows, z_rows = (value[0].permute(1, 2, 0).numpy() for value in (y, network.hyper_analysis(y)))
        encoder = Encoder()
        trained.latents.transcode(Writer(encoder, trained.tables), (y.shape[2], y.shape[3]), y_rows, z_rows)
        real += 8 * len(encoder.finish())
        ideal += float(network(units, rate).bits.sum())
    return real / ideal - 1
