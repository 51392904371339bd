"""Features of real inputs at a split point, and gradients of the head there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest

import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from dtufc.coding.arrays import Array
from dtufc.models.capabilities import Generation, Turn
from dtufc.models.profile import GenerationSpec, Profile
from dtufc.models.zoo import weights_folder
from dtufc_cloud.heads.cnn import CnnHead
from dtufc_cloud.heads.decoder import DecoderHead
from dtufc_cloud.heads.sd3 import Sd3Head
from dtufc_cloud.heads.vit import ClassifierHead, DenseHead, vit_head
from dtufc_edge.backbones.cnn import CnnBackbone
from dtufc_edge.backbones.decoder import DecoderBackbone
from dtufc_edge.backbones.sd3 import Sd3Backbone
from dtufc_edge.backbones.vit import VitBackbone
from dtufc_research.data.sources import Use, photo_views, photos, prompts, square, texts

CPU = torch.device("cpu")
ROW_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Decoder:
    """Both halves of a decoder."""

    backbone: DecoderBackbone
    head: DecoderHead

    @classmethod
    def load(cls, profile: Profile, dtype: torch.dtype = torch.float32) -> "Decoder":
        folder = weights_folder(profile.spec)
        sides = (folder, profile, CPU, dtype)
        return cls(DecoderBackbone(*sides), DecoderHead(*sides))

    def rows(self, use: Use, count: int) -> Iterator[list[int]]:
        """Token ids of `count` excerpts of text, in turn from each source, every fourth as a user's turn of a chat."""
        sources = [_excerpts(self.backbone.plain_ids(text)) for _, text in texts(use)]
        in_turn = (excerpt for turn in zip_longest(*sources) for excerpt in turn if excerpt is not None)
        for index, excerpt in enumerate(islice(in_turn, count)):
            as_turn = index % 4 == 3
            yield (self._turn_ids(self.backbone.decode(excerpt)) if as_turn else excerpt)[:ROW_TOKENS]

    def _turn_ids(self, text: str) -> list[int]:
        return self.backbone.chat_ids([Turn(role="user", content=text)])

    def features(self, token_ids: list[int]) -> Tensor:
        """[tokens, d]"""
        return self.backbone.features(self.backbone.start(), token_ids)


@dataclass(frozen=True, slots=True)
class Vit:
    """Both halves of a transformer for images."""

    backbone: VitBackbone
    head: DenseHead | ClassifierHead

    @classmethod
    def load(cls, profile: Profile) -> "Vit":
        folder = weights_folder(profile.spec)
        sides = (folder, profile, CPU, torch.float32)
        return cls(VitBackbone(*sides), vit_head(*sides))

    def features(self, image: Image.Image) -> Tensor:
        """[1 + patches, d] of an image, resized into the model's square."""
        return self.backbone.features(self.backbone.fit(image)[0])


@dataclass(frozen=True, slots=True)
class Cnn:
    """Both halves of a convolutional classifier."""

    backbone: CnnBackbone
    head: CnnHead

    @classmethod
    def load(cls, profile: Profile) -> "Cnn":
        folder = weights_folder(profile.spec)
        sides = (folder, profile, CPU, torch.float32)
        return cls(CnnBackbone(*sides), CnnHead(*sides))

    def features(self, image: Image.Image) -> Tensor:
        """[C, h, w] of the centre crop of an image."""
        return self.backbone.features(self.backbone.crop(image))


@dataclass(frozen=True, slots=True)
class Sd3:
    """Both halves of a text-to-image model, and its profile's generation parameters."""

    backbone: Sd3Backbone
    head: Sd3Head
    spec: GenerationSpec

    @classmethod
    def load(cls, profile: Profile) -> "Sd3":
        folder = weights_folder(profile.spec)
        sides = (folder, profile, CPU, torch.float32)
        return cls(Sd3Backbone(*sides), Sd3Head(*sides), profile.spec.generation)

    def features(self, prompt: str, seed: int = 0) -> Tensor:
        """[16, h, w], the latent of a generated image of the size that the model was trained at."""
        side, spec = self.backbone.default_pixels, self.spec
        parameters = Generation(
            prompt=prompt, seed=seed, steps=spec.steps, guidance=spec.guidance, width=side, height=side
        )
        return self.backbone.latent(
            parameters, spec, lambda _: None
        ).clone()  # a normal tensor, not one of inference mode


Model = Decoder | Vit | Cnn | Sd3


def fitting_features(profile: Profile, count: int) -> list[Array]:
    """`count` features of the fitting sources at the profile's split."""
    return [features.numpy() for features in _fitting_features(_load(profile), profile, count)]


def fitting_set(profile: Profile, count: int) -> tuple[list[Array], list[Array]]:
    """`fitting_features`, and a gradient for each."""
    generator = torch.Generator().manual_seed(0)
    model = _load(profile)
    samples, gradients = [], []
    for features in _fitting_features(model, profile, count):
        samples.append(features.numpy())
        gradients.append(model.head.gradient(features, generator).numpy())
    return samples, gradients


def _load(profile: Profile) -> Model:
    loaders: dict[str, Callable[[Profile], Model]] = {
        "decoder": Decoder.load,
        "vit": Vit.load,
        "cnn": Cnn.load,
        "sd3": Sd3.load,
    }
    return loaders[profile.spec.family](profile)


def _fitting_features(model: Model, profile: Profile, count: int) -> Iterator[Tensor]:
    if isinstance(model, Decoder):
        inputs = [partial(model.features, ids) for ids in model.rows("fit", count)]
    elif isinstance(model, Sd3):
        inputs = [partial(model.features, prompt) for prompt in prompts("fit")[:count]]
    elif isinstance(model, Cnn):
        inputs = [partial(model.features, image) for image in photo_views("fit")[:count]]
    else:
        images = [image for _, photo in photos("fit") for image in (square(photo), photo)]
        inputs = [partial(model.features, image) for image in images[:count]]
    for make in track(inputs, description=f"{profile.name}, split {profile.split}"):
        yield make()


def _excerpts(token_ids: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(token_ids) - ROW_TOKENS, ROW_TOKENS):
        yield token_ids[start : start + ROW_TOKENS]
