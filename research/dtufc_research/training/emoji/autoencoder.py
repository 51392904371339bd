"""The image half of the checkpoint: `AutoencoderKL`, 64 x 64 images to 16 x 16 latents of 16 channels."""

from typing import Any, Final

import lightning
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dtufc.coding.arrays import Array
from dtufc_research.training.emoji.images import SIDE, Captioned

_KL_WEIGHT: Final = 1e-3  # of a latent value's divergence, in nats, relative to the mean absolute error of a colour
_BATCH: Final = 16
_LEARNING_RATE: Final = 1e-3


def new_autoencoder() -> AutoencoderKL:
    """Untrained, shaped like SD3's: 16 latent channels, no convolutions around the latent."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=16,
        sample_size=SIDE,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def to_tensor(images: Array) -> Tensor:
    """uint8[B, h, w, 3] -> float32[B, 3, h, w] from -1 to 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1


class Images(Dataset[Tensor]):
    """The images, each sampled equally often."""

    def __init__(self, images: list[Captioned]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        return to_tensor(self._images[index].image[None])[0]


class AutoencoderTraining(lightning.LightningModule):
    """Mean absolute error and a little divergence from the normal distribution, so that the latent is smooth."""

    def __init__(self, images: list[Captioned], num_steps: int) -> None:
        super().__init__()
        self.autoencoder = new_autoencoder()
        self._images, self._num_steps = images, num_steps

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        posterior = self.autoencoder.encode(batch).latent_dist
        error = (self.autoencoder.decode(posterior.sample()).sample - batch).abs().mean()
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        self.log_dict({"error": error, "nats": divergence}, prog_bar=True)
        return error + _KL_WEIGHT * divergence

    def train_dataloader(self) -> DataLoader[Any]:
        seeded = torch.Generator().manual_seed(self.current_epoch)
        return DataLoader(Images(self._images), _BATCH, shuffle=True, drop_last=True, generator=seeded)

    def configure_optimizers(self) -> Any:
        adam = torch.optim.AdamW(self.autoencoder.parameters(), _LEARNING_RATE, weight_decay=0.0)
        cycle = torch.optim.lr_scheduler.OneCycleLR(adam, _LEARNING_RATE, self._num_steps, pct_start=0.05)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


def set_scale(autoencoder: AutoencoderKL, latents: Tensor) -> None:
    """Records the shift and the scale that give latents of mean 0 and variance 1, as the pipeline applies them."""
    autoencoder.register_to_config(shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std()))
