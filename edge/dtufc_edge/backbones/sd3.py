"""Text encoders and denoiser of a Stable Diffusion 3: a prompt -> the latent of a picture.

No forward pass is copied: the edge runs `StableDiffusion3Pipeline` without its autoencoder, of which it reads the
config alone.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers.utils import logging as transformers_logging

from dtufc.errors import InputError
from dtufc.models.profile import ImagineSpec
from dtufc.serving.limits import MAX_LATENT_POSITIONS

_LARGEST_SEED = (1 << 63) - 1
_STRONGEST = 30.0
_MOST_CHARACTERS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to draw.

    Attributes:
        steps: of the denoiser.
        guidance: how far the prompt leads away from what no prompt would give; up to 1 there is none.
    """

    prompt: str
    seed: int
    steps: int
    guidance: float
    width: int
    height: int


class Sd3Backbone:
    """All of a pipeline but its autoencoder."""

    def __init__(self, folder: Path, split: int, device: torch.device, dtype: torch.dtype) -> None:
        for library in (diffusers_logging, transformers_logging):
            library.disable_progress_bar()
            library.set_verbosity_error()  # a warning would have the caller's words in the log
        absent = dict.fromkeys(["vae", *_absent(folder)])
        whole = StableDiffusion3Pipeline.from_pretrained(folder, **absent, dtype=dtype, local_files_only=True)
        whole.to(device)
        self._parts: dict[str, Any] = dict(whole.components)
        self._num_halvings = len(AutoencoderKL.load_config(folder / "vae")["block_out_channels"]) - 1
        config = whole.transformer.config
        self.step_pixels = config.patch_size << self._num_halvings
        self.max_pixels = config.pos_embed_max_size * self.step_pixels
        self.default_pixels = config.sample_size << self._num_halvings

    def check(self, wish: Wish, max_steps: int) -> None:
        """Raises InputError for what cannot be drawn."""
        if not wish.prompt.strip() or len(wish.prompt) > _MOST_CHARACTERS:
            problem, remedy = f"{len(wish.prompt)} characters", f"Write something, in at most {_MOST_CHARACTERS}"
            raise InputError(field="prompt", problem=problem, remedy=remedy)
        if not 1 <= wish.steps <= max_steps:
            raise InputError(field="steps", problem=f"{wish.steps}", remedy=f"Ask for 1 to {max_steps}")
        if not 0.0 <= wish.guidance <= _STRONGEST:  # no NaN either
            raise InputError(field="guidance", problem=f"{wish.guidance}", remedy=f"Give 0 to {_STRONGEST:g}")
        if not 0 <= wish.seed <= _LARGEST_SEED:
            raise InputError(field="seed", problem=f"{wish.seed}", remedy=f"Give 0 to {_LARGEST_SEED}")
        for field, pixels in (("width", wish.width), ("height", wish.height)):
            if not 0 < pixels <= self.max_pixels or pixels % self.step_pixels:
                remedy = f"Give a multiple of {self.step_pixels}, at most {self.max_pixels}"
                raise InputError(field=field, problem=f"{pixels}", remedy=remedy)
        most = MAX_LATENT_POSITIONS << 2 * self._num_halvings
        if wish.width * wish.height > most:
            problem, remedy = f"{wish.width} x {wish.height} pixels", f"Ask for at most {most} pixels"
            raise InputError(field="size", problem=problem, remedy=remedy)

    @torch.inference_mode()
    def latent(self, wish: Wish, spec: ImagineSpec, on_step: Callable[[int], None]) -> Tensor:
        """The latent of a picture, [16, h, w] on the CPU; the same one for the same wish.

        Args:
            wish: as `check` lets it pass.
            spec: what the profile says of its model.
            on_step: called with the number of each step that is done; what it raises ends the drawing.
        """
        pipeline = self._pipeline()

        def after(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            on_step(step + 1)
            return tensors

        made = pipeline(
            wish.prompt,
            num_inference_steps=wish.steps,
            guidance_scale=wish.guidance,
            width=wish.width,
            height=wish.height,
            generator=torch.Generator().manual_seed(wish.seed),
            max_sequence_length=spec.text_length,
            output_type="latent",
            callback_on_step_end=after,
        )
        latent: Tensor = made.images[0]  # [16, h, w]
        return latent.cpu()

    def _pipeline(self) -> StableDiffusion3Pipeline:
        """A pipeline for one drawing: it and its scheduler keep their place in the steps, a tokenizer its padding."""
        own = {
            name: deepcopy(part) for name, part in self._parts.items() if name.startswith(("scheduler", "tokenizer"))
        }
        pipeline = StableDiffusion3Pipeline(**{**self._parts, **own})
        pipeline.vae_scale_factor = 1 << self._num_halvings
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _absent(folder: Path) -> list[str]:
    """The parts that were saved as none, which `from_pretrained` wants to be told again."""
    index = StableDiffusion3Pipeline.load_config(folder)
    return [name for name, value in index.items() if value == [None, None]]
