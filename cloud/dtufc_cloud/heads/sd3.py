"""The decoder of a Stable Diffusion 3's autoencoder: a latent -> an image."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dtufc.coding.arrays import Array
from dtufc.errors import InputError
from dtufc.models.profile import Profile
from dtufc.serving.limits import MAX_LATENT_POSITIONS
from dtufc_cloud.heads import check_finite, signed_gradient


class Sd3Head:
    """The decoder alone."""

    num_layers = 1

    def __init__(self, folder: Path, profile: Profile, device: torch.device, dtype: torch.dtype) -> None:
        if profile.split != 1:
            raise InputError(field="split", problem=f"{profile.split} of 1", remedy="Give 1: it has one place to cut")
        whole = AutoencoderKL.from_pretrained(folder / "vae", dtype=dtype, local_files_only=True)
        whole.encoder = None  # images never come here
        self._decoder = whole.to(device).eval().requires_grad_(False)
        self._channels = int(whole.config.latent_channels)
        self.example_shape = (self._channels, 8, 8)
        self._device, self._dtype = device, dtype

    def check(self, shape: tuple[int, ...]) -> None:
        """[latent channels, h, w], no more positions than an image of the largest size has."""
        if len(shape) != 3 or shape[0] != self._channels or shape[1] * shape[2] > MAX_LATENT_POSITIONS:
            remedy = f"Send [{self._channels}, height, width] of at most {MAX_LATENT_POSITIONS} positions"
            raise InputError(field="frame", problem=f"features of shape {shape}", remedy=remedy)

    def forward(self, features: Tensor) -> Tensor:
        """Latent [16, h, w] -> colours [3, H, W] from -1 to 1, float32, differentiable by the latent."""
        config = self._decoder.config
        latent = features.to(self._device, self._dtype)[None] / config.scaling_factor + config.shift_factor
        colours: Tensor = self._decoder.decode(latent).sample[0]
        return colours.float().cpu()

    def gradient(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Of all colours, under random signs."""
        return signed_gradient(self.forward, features, generator)

    @torch.inference_mode()
    def image(self, features: Tensor) -> Array:
        """Latent [16, h, w] -> uint8[H, W, 3]."""
        colours = (check_finite(self.forward(features)) / 2 + 0.5).clamp(0, 1)
        return np.rint(colours.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
