"""The decoder of a Stable Diffusion 3's autoencoder: a latent -> a picture."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dtufc.coding.arrays import Array
from dtufc_cloud.heads import finite


class Sd3Head:
    """The decoder alone."""

    def __init__(self, folder: Path, split: int, device: torch.device, dtype: torch.dtype) -> None:
        whole = AutoencoderKL.from_pretrained(folder / "vae", dtype=dtype, local_files_only=True)
        whole.encoder = None  # pictures never come here
        self._decoder = whole.to(device).eval().requires_grad_(False)
        self._device, self._dtype = device, dtype

    def forward(self, features: Tensor) -> Tensor:
        """Latent [16, h, w] -> colours [3, H, W] from -1 to 1, float32, differentiable by the latent."""
        config = self._decoder.config
        latent = features.to(self._device, self._dtype)[None] / config.scaling_factor + config.shift_factor
        colours: Tensor = self._decoder.decode(latent).sample[0]
        return colours.float().cpu()

    @torch.inference_mode()
    def picture(self, features: Tensor) -> Array:
        """Latent [16, h, w] -> uint8[H, W, 3]."""
        colours = (finite(self.forward(features)) / 2 + 0.5).clamp(0, 1)
        return np.rint(colours.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
