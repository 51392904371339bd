"""Text encoders and denoiser of a Stable Diffusion 3: a prompt -> the latent of an image.

No forward pass is copied: the edge runs `StableDiffusion3Pipeline` without its autoencoder, of which it reads the
config alone.
"""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers.utils import logging as transformers_logging

from dtufc.coding.layout import Family
from dtufc.errors import InputError
from dtufc.models.capabilities import Draft, Generation
from dtufc.models.profile import LATENT_PATCH, GenerationSpec, LayoutSpec, Profile
from dtufc.serving.limits import MAX_LATENT_POSITIONS

_MAX_SEED = (1 << 63) - 1
_MAX_GUIDANCE = 30.0
_MAX_CHARACTERS = 2000


class Sd3Backbone:
    """All of a pipeline but its autoencoder: the one place where it is cut."""

    num_layers = 1

    def __init__(self, folder: Path, profile: Profile, device: torch.device, dtype: torch.dtype) -> None:
        if profile.split != 1:
            raise InputError(field="split", problem=f"{profile.split} of 1", remedy="Give 1: it has one place to cut")
        for library in (diffusers_logging, transformers_logging):
            library.disable_progress_bar()
            library.set_verbosity_error()  # a warning would have the caller's words in the log
        absent = dict.fromkeys(["vae", *_absent(folder)])
        whole = StableDiffusion3Pipeline.from_pretrained(folder, **absent, dtype=dtype, local_files_only=True)
        whole.to(device)
        self._parts: dict[str, Any] = dict(whole.components)
        self._num_halvings = len(AutoencoderKL.load_config(folder / "vae")["block_out_channels"]) - 1
        self._limits = _text_limits(whole, profile.spec.generation.text_length)
        config = whole.transformer.config
        self.step_pixels = config.patch_size << self._num_halvings
        self.max_pixels = config.pos_embed_max_size * self.step_pixels
        self.default_pixels = config.sample_size << self._num_halvings

    @staticmethod
    def draft(folder: Path) -> Draft | None:
        """What a folder says of a profile, if it is that of a Stable Diffusion 3."""
        if not (folder / "model_index.json").is_file():
            return None
        channels = int(AutoencoderKL.load_config(folder / "vae")["latent_channels"])
        layout = LayoutSpec(family=Family.latent, channels=channels, patch=LATENT_PATCH)
        return Draft(layout=layout, tasks=("generate-image",), last_split=1)

    def check(self, generation: Generation, max_steps: int) -> None:
        """Raises InputError for what cannot be generated."""
        if not generation.prompt.strip() or len(generation.prompt) > _MAX_CHARACTERS:
            problem, remedy = f"{len(generation.prompt)} characters", f"Write something, in at most {_MAX_CHARACTERS}"
            raise InputError(field="prompt", problem=problem, remedy=remedy)
        self._check_length(generation.prompt)
        if not 1 <= generation.steps <= max_steps:
            raise InputError(field="steps", problem=f"{generation.steps}", remedy=f"Ask for 1 to {max_steps}")
        if not 0.0 <= generation.guidance <= _MAX_GUIDANCE:  # no NaN either
            raise InputError(field="guidance", problem=f"{generation.guidance}", remedy=f"Give 0 to {_MAX_GUIDANCE:g}")
        if not 0 <= generation.seed <= _MAX_SEED:
            raise InputError(field="seed", problem=f"{generation.seed}", remedy=f"Give 0 to {_MAX_SEED}")
        for field, pixels in (("width", generation.width), ("height", generation.height)):
            if not 0 < pixels <= self.max_pixels or pixels % self.step_pixels:
                remedy = f"Give a multiple of {self.step_pixels}, at most {self.max_pixels}"
                raise InputError(field=field, problem=f"{pixels}", remedy=remedy)
        most = MAX_LATENT_POSITIONS << 2 * self._num_halvings
        if generation.width * generation.height > most:
            problem, remedy = f"{generation.width} x {generation.height} pixels", f"Ask for at most {most} pixels"
            raise InputError(field="size", problem=problem, remedy=remedy)

    @torch.inference_mode()
    def latent(self, generation: Generation, spec: GenerationSpec, on_step: Callable[[int], None]) -> Tensor:
        """The latent of an image, [16, h, w] on the CPU; the same one for the same parameters.

        Args:
            generation: as `check` lets it pass.
            spec: what the profile says of its model.
            on_step: called with the number of each step that is done; what it raises ends the work.
        """
        pipeline = self._pipeline()

        def after(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            on_step(step + 1)
            return tensors

        made = pipeline(
            generation.prompt,
            num_inference_steps=generation.steps,
            guidance_scale=generation.guidance,
            width=generation.width,
            height=generation.height,
            generator=torch.Generator().manual_seed(generation.seed),
            max_sequence_length=spec.text_length,
            output_type="latent",
            callback_on_step_end=after,
        )
        latent: Tensor = made.images[0]  # [16, h, w]
        return latent.cpu()

    def _check_length(self, prompt: str) -> None:
        """Raises InputError for a prompt whose end none of the text encoders would see: the pipeline cuts it off."""
        missed = []
        for name, limit in self._limits.items():
            tokens = len(self._parts[name](prompt)["input_ids"])
            if tokens <= limit:
                return
            missed.append((limit, tokens))
        limit, tokens = max(missed)
        remedy = f"Shorten it to {limit}, start and end counted"
        raise InputError(field="prompt", problem=f"{tokens} tokens", remedy=remedy)

    def _pipeline(self) -> StableDiffusion3Pipeline:
        """A pipeline for one image: it and its scheduler keep their place in the steps, a tokenizer its padding."""
        own = {
            name: deepcopy(part) for name, part in self._parts.items() if name.startswith(("scheduler", "tokenizer"))
        }
        pipeline = StableDiffusion3Pipeline(**{**self._parts, **own})
        pipeline.vae_scale_factor = 1 << self._num_halvings
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _text_limits(pipeline: StableDiffusion3Pipeline, text_length: int) -> dict[str, int]:
    """Tokens that the pipeline gives to each of its text encoders, by the name of the tokenizer."""
    limits = {"tokenizer": pipeline.tokenizer_max_length, "tokenizer_2": pipeline.tokenizer_max_length}
    return limits if pipeline.tokenizer_3 is None else {**limits, "tokenizer_3": text_length}


def _absent(folder: Path) -> list[str]:
    """The parts that were saved as none, which `from_pretrained` wants to be told again."""
    index = StableDiffusion3Pipeline.load_config(folder)
    return [name for name, value in index.items() if value == [None, None]]
