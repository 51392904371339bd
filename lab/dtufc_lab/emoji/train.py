"""`python -m dtufc_lab.emoji.train`: trains the checkpoint `sd3-emoji`, part after part, each resumed where it stopped.

pictures --> autoencoder --latents--> denoiser and text encoders --> a `save_pretrained` folder
"""

import argparse
import shutil
import warnings
from importlib import resources
from pathlib import Path
from typing import Any, Final

import lightning
import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors.torch import load_file, save_file
from torch import Tensor

from dtufc.zoo import cache_folder
from dtufc_lab.emoji.autoencoder import AutoencoderTraining, new_autoencoder, set_scale, to_tensor
from dtufc_lab.emoji.denoiser import DenoiserTraining
from dtufc_lab.emoji.pictures import FONT, SEEN, UNSEEN, Captioned, compositions, originals, read_emoji

AUTOENCODER_STEPS: Final = 3500
DENOISER_STEPS: Final = 14_000
_DECAY: Final = 0.999  # of the averaged weights, a step
_SHOWN: Final = (*SEEN[::2], *UNSEEN[::2])


def run_folder(part: str) -> Path:
    """Where a part keeps its checkpoint, its curves and its samples."""
    return cache_folder() / "runs" / f"sd3-emoji-{part}"


def fit(part: str, training: lightning.LightningModule, num_steps: int, *callbacks: Callback) -> dict[str, Any]:
    """Trains to that step, from the last checkpoint where there is one; returns the checkpoint."""
    folder = run_folder(part)
    latest = ModelCheckpoint(folder, "last", every_n_train_steps=500, enable_version_counter=False)
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        precision="bf16-mixed",
        max_steps=num_steps,
        callbacks=[latest, *callbacks],
        logger=TensorBoardLogger(folder, name="", version=""),
        gradient_clip_val=1.0,
        log_every_n_steps=25,
        reload_dataloaders_every_n_epochs=1,
        check_val_every_n_epoch=3,
        num_sanity_val_steps=0,
    )
    last = folder / "last.ckpt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        trainer.fit(training, ckpt_path=last if last.exists() else None)
    return dict(torch.load(last, map_location="cpu", weights_only=False))


def train_autoencoder(pictures: list[Captioned]) -> AutoencoderKL:
    """The trained autoencoder, without its scale."""
    torch.manual_seed(0)
    checkpoint = fit("autoencoder", AutoencoderTraining(pictures, AUTOENCODER_STEPS), AUTOENCODER_STEPS)
    return _load(new_autoencoder(), checkpoint, "autoencoder.").eval().requires_grad_(False)


def _load(module: Any, checkpoint: dict[str, Any], prefix: str) -> Any:
    state = checkpoint["state_dict"]
    module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return module


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, pictures: list[Captioned]) -> Tensor:
    """float16[N, 16, 16, 16]: the pictures' latents, as the autoencoder has them; kept on disk."""
    path = run_folder("autoencoder") / f"latents-{len(pictures)}.safetensors"
    if not path.exists():
        stacked = np.stack([picture.picture for picture in pictures])
        parts = [autoencoder.encode(to_tensor(part)).latent_dist.mean for part in np.array_split(stacked, 400)]
        save_file({"latents": torch.cat(parts).half().contiguous()}, path)
    return load_file(path)["latents"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--font", type=Path, default=FONT, help="Noto Color Emoji")
    parser.add_argument("--steps", type=int, default=DENOISER_STEPS, help="of the denoiser")
    parser.add_argument("--ship", action="store_true", help="put the checkpoint into the package")
    arguments = parser.parse_args()
    items = read_emoji(arguments.font)
    plain = originals(items)
    pictures = [*plain, *compositions(items)]
    autoencoder = train_autoencoder(pictures)
    latents = encode(autoencoder, pictures)
    set_scale(autoencoder, latents.float())
    torch.manual_seed(1)
    config = autoencoder.config
    training = DenoiserTraining(
        pictures,
        ((latents.float() - config.shift_factor) * config.scaling_factor).half(),
        autoencoder,
        num_originals=len(plain),
        num_steps=arguments.steps,
        prompts=_SHOWN,
        folder=run_folder("denoiser"),
    )
    average = EMAWeightAveraging(decay=_DECAY, use_buffers=False)
    checkpoint = fit("denoiser", training, arguments.steps, average)
    if arguments.ship:
        training.load_state_dict(checkpoint["state_dict"])  # the averaged weights
        print(ship(training.pipeline()))


def ship(pipeline: StableDiffusion3Pipeline) -> Path:
    """Puts the checkpoint into the package, in half precision; returns its folder."""
    folder = Path(str(resources.files("dtufc"))) / "profiles" / "sd3-emoji"
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
