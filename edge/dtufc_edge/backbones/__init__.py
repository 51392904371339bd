"""Backbones: input -> features at the split, one module a family of models.

A family is a class that is built from a folder of weights, a profile, a device and a dtype, and that an entry of the
group `dtufc.backbones` names. What it can do it says by the protocols below, which tasks ask for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image
from torch import Tensor

from dtufc.models.profile import GenerationSpec


class Backbone(Protocol):
    """What every family gives."""

    @property
    def num_layers(self) -> int:
        """Layers of the whole model: the largest split."""


class Session(Protocol):
    """One sequence on its way through the edge's layers."""

    def features(self, token_ids: list[int]) -> Tensor:
        """Tokens that follow those given before -> [tokens, d]. Raises InputError beyond the model's context."""


@runtime_checkable
class TokenFeatures(Protocol):
    """Text -> features of its tokens.

    Attributes:
        max_tokens: the longest sequence that the model takes; None where its configuration names none.
    """

    max_tokens: int | None

    def chat_ids(self, prompt: str) -> list[int]:
        """Token ids of one user turn, up to where the reply starts."""

    def plain_ids(self, prompt: str) -> list[int]:
        """Token ids of the prompt as it stands."""

    def token_id(self, text: str) -> int:
        """The token that `text` starts with."""

    def is_end(self, token_id: int) -> bool:
        """Whether this token ends a reply."""

    def decode(self, token_ids: list[int]) -> str:
        """The text of tokens."""

    def start(self) -> Session:
        """A new sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Where in the model's input the image lies, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


@runtime_checkable
class PatchFeatures(Protocol):
    """A whole image -> features of its patches, from which every pixel can be labelled."""

    def fit(self, image: Image.Image) -> tuple[Tensor, Box]:
        """The whole image as the model's input, and where it lies in it."""

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels [1, 3, side, side] -> [tokens, d]."""


@runtime_checkable
class ImageFeatures(Protocol):
    """The middle of an image -> features, from which it can be classified."""

    def crop(self, image: Image.Image) -> Tensor:
        """The square in the middle of the image as the model's input."""

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels [1, 3, side, side] -> [tokens, d] or [C, h, w]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What to generate.

    Attributes:
        steps: of the denoiser.
        guidance: weight of the prompt (classifier-free guidance); up to 1 there is none.
    """

    prompt: str
    seed: int
    steps: int
    guidance: float
    width: int
    height: int


@runtime_checkable
class LatentFeatures(Protocol):
    """A prompt -> the latent of an image."""

    default_pixels: int

    def check(self, generation: Generation, max_steps: int) -> None:
        """Raises InputError for what cannot be generated."""

    def latent(self, generation: Generation, spec: GenerationSpec, on_step: Callable[[int], None]) -> Tensor:
        """The latent [16, h, w]; the same one for the same parameters. What `on_step` raises ends the work."""
