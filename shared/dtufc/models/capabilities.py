"""What a family of models can do, as small protocols: the edge's backbones and the cloud's heads have their methods.

A family is two classes, each built from a folder of weights, a profile, a device and a dtype. Tasks, fitting and
evaluation ask for a capability, never for a class. Two more, which the command line asks for, are static methods of a
backbone: `draft(folder)`, a `Draft` of the profile of a folder's model, or None for a model of another family; and
`prove(folder, profile)`, which compares split with whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from dtufc.coding.arrays import Array
from dtufc.errors import DtufcError
from dtufc.models.profile import GenerationSpec, LayoutSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a model's own configuration says of its profile.

    Attributes:
        layout: of the features, at every split.
        tasks: that the model can do.
        last_split: the largest one; the smallest is 1.
    """

    layout: LayoutSpec
    tasks: tuple[str, ...]
    last_split: int


class Backbone(Protocol):
    """What every family gives."""

    @property
    def num_layers(self) -> int:
        """Layers of the whole model: the largest split."""


class SequenceState(Protocol):
    """What one side keeps of a sequence: keys and values of its layers.

    Attributes:
        num_tokens: that it holds.
    """

    num_tokens: int

    @property
    def num_bytes(self) -> int:
        """Of all that it keeps."""

    @property
    def can_rewind(self) -> bool:
        """Whether tokens can be taken back; known once it holds some."""

    def rewind(self, num_tokens: int) -> bool:
        """Takes back all but the first `num_tokens`. Returns whether it could; if not, nothing has changed."""


class Sequences(Protocol):
    """What both sides of a family have that goes through a sequence part by part.

    Attributes:
        max_tokens: the longest sequence that the model takes; None where its configuration names none.
    """

    max_tokens: int | None

    @property
    def shares_passes(self) -> bool:
        """Whether one pass may advance several sequences by a token each."""

    def start(self) -> SequenceState:
        """A new sequence."""

    def cache_bytes(self, num_tokens: int) -> int:
        """Bytes that the state of a sequence of so many tokens takes at most."""


Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of a conversation."""

    role: Role
    content: str


@runtime_checkable
class TokenFeatures(Sequences, Protocol):
    """Text -> features of its tokens. What a user wrote never becomes a control token of the model."""

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a reply."""

    def chat_ids(self, turns: Sequence[Turn]) -> list[int]:
        """Token ids of a conversation, up to where the reply starts. Raises InputError if the model cannot take it."""

    def plain_ids(self, prompt: str) -> list[int]:
        """Token ids of the prompt as it stands. Raises InputError if the model cannot take it."""

    def token_id(self, text: str) -> int:
        """The token that `text` starts with."""

    def decode(self, token_ids: list[int]) -> str:
        """The text of tokens."""

    def is_open(self, token_id: int) -> bool:
        """Whether the tokens behind this one may change its text, beyond completing a character that is cut."""

    def features(self, state: SequenceState, token_ids: Sequence[int]) -> Tensor:
        """Tokens that follow those of the state -> [tokens, d]. Raises InputError beyond the model's context."""

    def features_together(self, states: Sequence[SequenceState], token_ids: Sequence[int]) -> list[Tensor]:
        """One more token of each of several sequences -> [1, d] of each, in one pass."""


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


class Head(Protocol):
    """What every family gives.

    It may have `example_shape` too, a shape that `check` lets pass: by zeros of it the service warms the head up.
    """

    @property
    def num_layers(self) -> int:
        """Layers of the whole model: the largest split."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises InputError unless features of this shape, of one input, are what this head takes."""


@runtime_checkable
class NextTokenLogits(Protocol):
    """Features of tokens -> what comes next."""

    def logits(self, features: Tensor) -> Tensor:
        """Features [tokens, d] -> logits [tokens, vocabulary], float32."""

    def answer(self, features: Tensor, token_ids: Sequence[int]) -> list[float]:
        """The probability of each of these tokens to come next, among them alone."""


@runtime_checkable
class SequenceLogits(Sequences, Protocol):
    """Features of a sequence, part by part -> what comes next.

    Attributes:
        vocabulary: tokens that the model knows.
    """

    vocabulary: int

    def next_logits(self, state: SequenceState, features: Tensor, last: int) -> Tensor:
        """Features [tokens, d] that follow those of the state -> logits [last, vocabulary], float32, on the CPU."""

    def next_logits_together(
        self, states: Sequence[SequenceState], features: Sequence[Tensor]
    ) -> list[Tensor | DtufcError]:
        """One more row [1, d] of each of several sequences -> logits [1, vocabulary] of each, in one pass.

        Where one of them fails, its error stands in its place.
        """


@runtime_checkable
class DenseLabels(Protocol):
    """Features of patches -> a label for every pixel.

    Attributes:
        num_labels: how many there are; 1 where the head tells foreground alone.
    """

    num_labels: int

    def label_map(self, features: Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> Array:
        """Labels uint8[height, width] of the image that lies at `box` of the model's input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One class and its probability."""

    index: int
    name: str
    probability: float


@runtime_checkable
class Labels(Protocol):
    """Features of an image -> what it shows."""

    def labels(self, features: Tensor, count: int) -> list[Label]:
        """The most probable classes, at most `count`, best first."""


@runtime_checkable
class ImageDecoder(Protocol):
    """A latent -> an image."""

    def image(self, features: Tensor) -> Array:
        """uint8[H, W, 3]."""


@runtime_checkable
class Differentiable(Protocol):
    """A head that can say how much its result depends on each value of the features: what a fit is told."""

    def check(self, shape: tuple[int, ...]) -> None:
        """As `Head` has it."""

    def gradient(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """g, float32, of the features' shape, at random: E[g g'] is what errors in the features cost the result."""
