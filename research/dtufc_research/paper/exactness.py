"""The rate of exact decoding: code lengths under integer probabilities, against the floating-point network's ideal."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int32

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import write_varint
from dtufc.coding.codecs.learned.codec import padded
from dtufc.coding.codecs.learned.latents import Writer
from dtufc.coding.codecs.learned.network_file import TrainedNetwork
from dtufc.coding.entropy import PRECISION, Encoder, Tables
from dtufc_research.training.networks import Elic, Hyperprior


@dataclass(frozen=True, slots=True)
class Overhead:
    """Overhead of real streams over the code length of the floating-point network.

    Attributes:
        share: of its code length, under integer probabilities: the cost of exact decoding.
        end_bytes: a stream: rounding up to whole words, with any probabilities.
    """

    share: float
    end_bytes: float


class _Measured(Encoder):
    """An encoder that also adds up the code length of what it is given.

    Attributes:
        bits: under the integer tables, escapes as they are written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bits = 0.0

    def write(self, tables: Tables, row: int, symbols: Int32[Array, " n"]) -> None:
        super().write(tables, row, symbols)
        radius, frequencies = tables.radius(row), tables.rows[row].astype(np.float64)
        is_beyond = np.abs(symbols) > radius
        entries = np.where(is_beyond, 2 * radius + 1, symbols + radius)
        self.bits += float(np.sum(PRECISION - np.log2(frequencies[entries])))
        self.bits += 8 * sum(len(write_varint(2 * (abs(s) - radius - 1))) for s in symbols[is_beyond].tolist())


@torch.inference_mode()
def rate_overhead(
    trained: TrainedNetwork,
    network: Hyperprior | Elic,
    planes: Sequence[Array],
    quality: float,
    padding: float | None = None,
) -> Overhead:
    """Overhead of the streams of all planes over the code length of the floating-point network.

    Args:
        trained: with normal tables: fitted ones may need fewer bits than the network's own distributions.
        network: the same, with its likelihoods.
        planes: [H, W] float32 levels each, of at most one tile.
        quality: in [0, 1].
        padding: of the planes; see `PlaneTransform`.
    """
    rate = torch.tensor([quality * (trained.num_rates - 1)])
    real = coded = ideal = 0.0
    for plane in planes:
        inputs = padded(plane, padding)
        y = network.analysis(inputs, rate)
        y_rows, z_rows = (value[0].permute(1, 2, 0).numpy() for value in (y, network.hyper_analysis(y)))
        encoder = _Measured()
        trained.latents.transcode(Writer(encoder, trained.tables), (y.shape[2], y.shape[3]), y_rows, z_rows)
        real += 8 * len(encoder.finish())
        coded += encoder.bits
        ideal += float(network(inputs, rate).bits.sum())
    return Overhead(share=coded / ideal - 1, end_bytes=(real - coded) / 8 / len(planes))
