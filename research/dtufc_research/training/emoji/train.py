"""`python -m dtufc_research.training.emoji.train`: trains the checkpoint `sd3-emoji`, or resumes.

images --> autoencoder --latents--> denoiser and text encoders --> a `save_pretrained` folder
"""

import argparse
import hashlib
import shutil
import warnings
from importlib import resources
from math import gcd
from pathlib import Path
from typing import Any, Final

import lightning
import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import load_file, save_file
from torch import Tensor

from dtufc.models.zoo import cache_folder
from dtufc_research.training.emoji.autoencoder import AutoencoderTraining, new_autoencoder, set_scale, to_tensor
from dtufc_research.training.emoji.denoiser import DenoiserTraining
from dtufc_research.training.emoji.images import FONT, HELD_OUT, TRAINED, Captioned, compositions, originals, read_emoji

AUTOENCODER_STEPS: Final = 3500
DENOISER_STEPS: Final = 17_000
_SAVED: Final = 500  # steps between two checkpoints
_DECAY: Final = 0.999  # of the averaged weights, a step
_SAMPLE_PROMPTS: Final = (*TRAINED[::2], *HELD_OUT[::2])


def run_folder(component: str) -> Path:
    """Folder of a component's checkpoint, curves and samples."""
    return cache_folder() / "runs" / f"sd3-emoji-{component}"


def fit(
    component: str, training: lightning.LightningModule, num_steps: int, *callbacks: Callback, devices: int = 1
) -> dict[str, Any]:
    """Trains until that step, from the last checkpoint if there is one; returns the checkpoint."""
    folder = run_folder(component)
    often = gcd(_SAVED, num_steps)  # the last step is saved too
    latest = ModelCheckpoint(folder, "last", every_n_train_steps=often, enable_version_counter=False)
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=devices,
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


def train_autoencoder(images: list[Captioned], num_steps: int) -> AutoencoderKL:
    """The trained autoencoder, without its scale."""
    torch.manual_seed(0)
    checkpoint = fit("autoencoder", AutoencoderTraining(images, num_steps), num_steps)
    return _load(new_autoencoder(), checkpoint, "autoencoder.").eval().requires_grad_(False)


def _load(module: Any, checkpoint: dict[str, Any], prefix: str) -> Any:
    state = checkpoint["state_dict"]
    module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return module


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, images: list[Captioned]) -> Tensor:
    """float16[N, 16, 16, 16]: the images' latents, unscaled; cached on disk."""
    stacked = np.stack([image.image for image in images])
    digest = hashlib.sha256(stacked.tobytes())
    for weights in autoencoder.state_dict().values():
        digest.update(weights.numpy().tobytes())
    path = run_folder("autoencoder") / f"latents-{digest.hexdigest()[:12]}.safetensors"
    if not path.exists():
        batches = np.array_split(stacked, -(-len(stacked) // 64))
        means = [autoencoder.encode(to_tensor(batch)).latent_dist.mean for batch in batches]
        partial = path.with_suffix(".part")
        save_file({"latents": torch.cat(means).half().contiguous()}, partial)
        partial.replace(path)
    return load_file(path)["latents"]


def train_denoiser(
    images: list[Captioned], autoencoder: AutoencoderKL, *, num_originals: int, num_steps: int, devices: int = 1
) -> StableDiffusion3Pipeline:
    """The whole pipeline, with averaged weights.

    Args:
        images: the originals first, then the compositions.
        autoencoder: trained; its scale is set here.
        num_originals: how many are not compositions.
        num_steps: of training.
        devices: number of GPUs, or of processes without a GPU; each has its own batch.
    """
    latents = encode(autoencoder, images)
    set_scale(autoencoder, latents.float())
    torch.manual_seed(1)
    config = autoencoder.config
    training = DenoiserTraining(
        images,
        ((latents.float() - config.shift_factor) * config.scaling_factor).half(),
        autoencoder,
        num_originals=num_originals,
        num_steps=num_steps,
        prompts=_SAMPLE_PROMPTS,
        folder=run_folder("denoiser"),
    )
    average = EMAWeightAveraging(decay=_DECAY, use_buffers=False)
    checkpoint = fit("denoiser", training, num_steps, average, devices=devices)
    training.load_state_dict(checkpoint["state_dict"])  # the averaged weights
    return training.pipeline()


@rank_zero_only
def save(pipeline: StableDiffusion3Pipeline, folder: Path) -> None:
    """Writes the checkpoint in half precision; replaces the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors makes it private, and a container's user is another


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--font", type=Path, default=FONT, help="Noto Color Emoji")
    parser.add_argument("--steps", type=int, default=DENOISER_STEPS, help="of the denoiser")
    parser.add_argument("--devices", type=int, default=1, help="for the denoiser: GPUs, or processes without one")
    arguments = parser.parse_args()
    items = read_emoji(arguments.font)
    glyphs = originals(items)
    images = [*glyphs, *compositions(items)]
    autoencoder = train_autoencoder(images, AUTOENCODER_STEPS)
    pipeline = train_denoiser(
        images, autoencoder, num_originals=len(glyphs), num_steps=arguments.steps, devices=arguments.devices
    )
    folder = Path(str(resources.files("dtufc.models"))) / "profiles" / "sd3-emoji"
    save(pipeline, folder)
    print(folder)


if __name__ == "__main__":
    main()
