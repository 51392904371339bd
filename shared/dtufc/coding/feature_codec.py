"""Features of one profile to frames and back, at a rate that the caller chooses.

features --codec--> Payload --bitstream--> EncodedFrame --bitstream--> Frame --codec--> features
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import numpy as np

from dtufc.coding import bitstream
from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import CodecId, Dtype, Frame
from dtufc.coding.codecs import Codec, FittedCodec, Payload
from dtufc.coding.codecs.klt import KltCodec
from dtufc.coding.codecs.klt_fit import FitReport, Progress
from dtufc.coding.codecs.klt_transform import KltTransform
from dtufc.coding.codecs.learned import VARIANTS, can_run, fit_learned, is_shipped
from dtufc.coding.codecs.levels import LevelsCodec
from dtufc.coding.codecs.raw import RawCodec
from dtufc.coding.features import NUMPY_DTYPES, as_array, as_arrays, as_tensor, dtype_of
from dtufc.coding.layout import Layout
from dtufc.coding.quality import DEFAULT_QUALITY, PREFIX, TOKENS, is_sound, measured_qualities, range_of, setting_for
from dtufc.coding.rate import Rate, within
from dtufc.errors import Corrupt, InputError, ProfileMismatch

if TYPE_CHECKING:
    import torch

    from dtufc.coding.evaluation import Evaluation, Sample

FITTED: Final[Mapping[str, type[FittedCodec]]] = {"levels": LevelsCodec, "klt": KltCodec}
_MEASURED_VALUES: Final = 1 << 18  # of samples, to measure what a quality is,
_MEASURED_SAMPLES: Final = 3  # at most so many,
_MIN_MEASURED: Final = 1 << 12  # and one, if it is smaller: a network pads its plane, and takes as long
_MAX_GRADIENT_VALUES: Final = 1 << 28  # of a sample: several gradients, of several heads
_KLT_SHARE: Final = 0.8  # of the time of a fit


class CodingProfile(Protocol):
    """The interface of a profile that FeatureCodec needs; `dtufc.models.profile.Profile` has it."""

    @property
    def name(self) -> str: ...

    @property
    def layout(self) -> Layout: ...

    @property
    def calibration(self) -> Mapping[str, Array]:
        """The codecs' arrays by "codec.array"."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of all that both sides must agree on."""

    @property
    def short_digest(self) -> bytes:
        """Names the profile in every frame; DIGEST_BYTES long."""

    def of_codec(self, codec: str) -> dict[str, Array]:
        """The arrays of one codec, by their own names. Raises InputError where it was not fitted."""

    def save(self, folder: Path) -> None: ...


class SplitModel(Protocol):
    """The interface of a cut model that `evaluate` needs; `dtufc.split` has it."""

    def samples(self, data: "Iterable[Any]", metric: Callable[..., float] | None) -> "Iterable[Sample]": ...


class EncodedFrame(bytes):
    """The bytes of one frame, with the Frame that they were packed from."""

    frame: Frame

    @classmethod
    def pack(cls, frame: Frame) -> Self:
        """Raises InputError if a frame cannot carry the shape or the payload."""
        encoded = cls(bitstream.pack(frame))
        encoded.frame = frame
        return encoded


class FeatureCodec:
    """Encodes and decodes the features of one profile. Safe to use from several threads.

    Attributes:
        profile: of the model.
        report: what the fit found, if this codec was fitted just now.
    """

    def __init__(self, profile: CodingProfile, report: FitReport | None = None) -> None:
        self.profile, self.report = profile, report
        self._codecs: dict[str, Codec] = {"raw": RawCodec()}
        self._loading = {name: Lock() for name in CodecId.__members__}

    @cached_property
    def codecs(self) -> list[str]:
        """Names of the codecs that this profile can use."""
        fitted = {key.partition(".")[0] for key in self.profile.calibration}
        networks = {name: self.profile.calibration.get(f"{name}.network") for name in VARIANTS if can_run()}
        learned = [name for name, digest in networks.items() if digest is not None and is_shipped(name, digest)]
        return ["raw", *(name for name in FITTED if name in fitted), *learned]

    @property
    def default_codec(self) -> str:
        """klt where it is fitted, else raw."""
        return "klt" if "klt" in self.codecs else "raw"

    def prepare(self, codec: str) -> None:
        """Loads a codec ahead of its first use: the network of a learned one takes seconds.

        Raises:
            InputError: it is none of `codecs`.
        """
        self._codec(codec)

    def is_loaded(self, codec: str) -> bool:
        """Whether `prepare` would return at once."""
        return codec in self._codecs

    def has_rate(self, codec: str) -> bool:
        """Whether this codec, one of `codecs`, has an adjustable rate."""
        if codec in VARIANTS:
            return True
        return FITTED[codec].has_rate if codec in FITTED else self._codec(codec).has_rate

    @property
    def quality_ranges(self) -> dict[str, tuple[float, float]]:
        """The lowest and the highest quality of each codec with a rate; without those that the profile cannot tell."""
        ranges = {"klt": (0.0, 1.0)} if "klt" in self.codecs else {}
        for name in (name for name in self.codecs if name in VARIANTS):
            qualities = self._qualities_of(name)
            reached = None if qualities is None or not is_sound(qualities) else range_of(qualities)
            if reached:
                ranges[name] = reached
        return ranges

    def check_rate(self, codec: str, rate: Rate) -> None:
        """Raises InputError if the codec, one of `codecs`, does not reach the quality that is asked for, if one is."""
        if rate.target_bpfp is None and rate.max_bytes is None:
            self._setting(codec, rate.quality)

    def encode(
        self,
        features: "Array | torch.Tensor",
        *,
        quality: float | None = None,
        target_bpfp: float | None = None,
        max_bytes: int | None = None,
        codec: str | None = None,
        focus: Sequence[int] = (),
    ) -> EncodedFrame:
        """Encodes one feature tensor to one frame.

        Args:
            features: any shape that the profile's layout knows; float32, float16 or bfloat16; finite.
            quality: in [0, 1], and in `quality_ranges` of the codec; by default 0.6, or the nearest in that range. A
                higher quality costs more bytes, and loses as little in every codec of this profile.
            target_bpfp: instead of quality: at most this many bits a value, and nine tenths of them used.
            max_bytes: instead of quality: at most this many bytes, and nine tenths of them used.
            codec: one of `codecs`; klt by default where it is fitted.
            focus: rows that the result depends on most, as the last token of a prompt; negative ones count from the
                end. `klt` codes them eight times finer where tokens form no grid; other codecs take no notice.

        Raises:
            InputError: the features, the rate, the codec or the rows are invalid.
        """
        rate = Rate(quality=quality, target_bpfp=target_bpfp, max_bytes=max_bytes)
        name = codec or self.default_codec
        if name in self.codecs:  # before a network is loaded
            self.check_rate(name, rate)
        at = self.encoder(features, codec=name, focus=focus)
        num_values = math.prod(features.shape)
        limit = rate.byte_limit(num_values)
        if limit is None:
            return at(self._setting(name, rate.quality))
        return within(limit, num_values, at, self.has_rate(name))

    def encoder(
        self, features: "Array | torch.Tensor", *, codec: str | None = None, focus: Sequence[int] = ()
    ) -> Callable[[float], EncodedFrame]:
        """Encodes at any setting of a codec's own, from 0, the fewest bytes, to 1; for `klt` a setting is a quality.

        Work that does not depend on the setting is done once. For curves over all that a codec can do.

        Args:
            features: as for `encode`.
            codec: as for `encode`.
            focus: as for `encode`.

        Raises:
            InputError: as for `encode`.
        """
        array = as_array(features)
        bitstream.check_shape(array.shape)
        self.profile.layout.check(array.shape)
        chosen = self._codec(codec or self.default_codec)
        encode = chosen.encoder(array, self._rows_of(focus, array.shape))
        return lambda setting: self._pack(array, chosen, encode(setting))

    def decode(self, data: bytes) -> Array:
        """Decodes one frame to features of the original shape and type; bfloat16 is that of ml_dtypes.

        The result has the same bits on every machine; for a learned codec, the same symbols.

        Raises:
            BitstreamError: the bytes are no frame, or no frame that this release reads.
            ProfileMismatch: the frame was made with another profile.
            Desync: the decoded symbols differ from those that were encoded.
        """
        return self.decode_frame(bitstream.parse(data))

    def decode_tensor(self, data: bytes) -> "torch.Tensor":
        """`decode`, as a torch tensor."""
        return as_tensor(self.decode(data))

    def round_trip(self, features: "torch.Tensor", **rate: Any) -> "torch.Tensor":
        """Features as they come back, with the gradient of the features themselves (straight-through).

        For tuning a head, or what is before it, on what a codec loses.

        Args:
            features: as for `encode`.
            rate: and codec and focus, as for `encode`.
        """
        decoded = self.decode_tensor(self.encode(features.detach(), **rate)).to(features.device)
        return decoded + (features - features.detach())  # which is 0, and has the gradient

    def evaluate(
        self,
        split: "SplitModel",
        data: "Iterable[Any]",
        *,
        metric: Callable[..., float] | None = None,
        codecs: Sequence[str] = (),
        qualities: Sequence[float] = (),
    ) -> "Evaluation":
        """What codecs cost, and what the model makes of decoded features; `print` shows a table.

        Args:
            split: of `dtufc.split`.
            data: inputs of the model; with a metric, pairs (input, target).
            metric: (output, target) -> score; by default agreement with the model without a codec.
            codecs: of `codecs`; the default one by default.
            qualities: from 0 to 1; by default 0.2, 0.4, 0.5, 0.6 and 0.8.

        Raises:
            InputError: features that the profile does not take, or no input.
        """
        from dtufc.coding.evaluation import QUALITIES, evaluate

        return evaluate(self, split.samples(data, metric), codecs=codecs, qualities=qualities or QUALITIES)

    def decode_frame(self, frame: Frame) -> Array:
        """`decode`, of a frame that has been parsed."""
        self.check_frame(frame)
        return self.decode_checked(frame)

    def decode_checked(self, frame: Frame) -> Array:
        """`decode`, of a frame that `check_frame` let pass."""
        payload = Payload(data=frame.payload, symbol_crc=frame.symbol_crc)
        return self._codec(frame.codec.name).decode(payload, frame.shape, NUMPY_DTYPES[frame.dtype])

    def check_frame(self, frame: Frame) -> None:
        """Checks a frame against the profile; costs nothing beside decoding.

        Raises:
            ProfileMismatch: it was made with another profile, or with a codec that this one was not fitted for.
            Corrupt: its shape does not fit the layout.
        """
        if frame.profile_digest != self._digest:
            found = frame.profile_digest.hex()
            raise ProfileMismatch(profile=self.profile.name, expected=self._digest.hex(), found=found)
        try:
            self.profile.layout.check(frame.shape)
        except InputError as error:
            raise Corrupt(problem=str(error)) from error
        if frame.codec.name not in self.codecs:
            raise ProfileMismatch(profile=self.profile.name, expected=self.codecs, found=frame.codec.name)

    def save(self, folder: str | Path) -> None:
        """Writes the profile into a folder, for `dtufc.load`."""
        self.profile.save(Path(folder))

    def _setting(self, codec: str, quality: float | None) -> float:
        if codec in VARIANTS:
            return setting_for(quality, self._qualities(codec), codec)
        return DEFAULT_QUALITY if quality is None else quality

    def _qualities(self, codec: str) -> Array:
        qualities = self._qualities_of(codec)
        if qualities is None:
            problem = f"{self.profile.name} does not say what quality means for {codec}"
            raise InputError(field="quality", problem=problem, remedy="Give target_bpfp or max_bytes, or fit it anew")
        if not is_sound(qualities):
            problem = f"the array {PREFIX}{codec} is damaged"
            raise InputError(field="profile", problem=problem, remedy="Restore the profile")
        return qualities

    def _qualities_of(self, codec: str) -> Array | None:
        return self.profile.calibration.get(f"{PREFIX}{codec}")

    def _rows_of(self, focus: Sequence[int], shape: tuple[int, ...]) -> list[int]:
        images, tokens, _ = self.profile.layout.rows_shape(shape)
        num_rows = images * tokens
        for row in focus:
            if not -num_rows <= row < num_rows:
                remedy = f"Name rows from {-num_rows} to {num_rows - 1}"
                raise InputError(field="focus", problem=f"row {row} of {num_rows}", remedy=remedy)
        return [row % num_rows for row in focus]

    @cached_property
    def _digest(self) -> bytes:
        return self.profile.short_digest

    def _codec(self, name: str) -> Codec:
        if name not in CodecId.__members__:
            raise InputError(field="codec", problem=f"no codec {name}", remedy=f"Use one of {', '.join(self.codecs)}")
        with self._loading[name]:  # a network takes seconds to load: once, by one thread, and no other codec waits
            if name not in self._codecs:
                self._codecs[name] = self._load(name)
            return self._codecs[name]

    def _load(self, name: str) -> Codec:
        return _opened(name, self.profile.of_codec, self.profile.layout)

    def _pack(self, array: Array, codec: Codec, payload: Payload) -> EncodedFrame:
        return EncodedFrame.pack(
            Frame(
                codec=codec.id,
                dtype=dtype_of(array),
                shape=array.shape,
                profile_digest=self._digest,
                symbol_crc=payload.symbol_crc,
                payload=payload.data,
            )
        )


def _opened(name: str, arrays_of: Callable[[str], dict[str, Array]], layout: Layout) -> Codec:
    """A codec from the arrays of a profile, by codec."""
    if name in FITTED:
        return FITTED[name].from_arrays(arrays_of(name), layout)
    if not can_run():
        problem = f"{name} needs torch, which is not installed"
        raise InputError(field="codec", problem=problem, remedy="Install it, or use codec 'klt'")
    from dtufc.coding.codecs.learned.codec import LearnedCodec  # torch takes seconds to import

    klt = KltTransform.from_arrays(arrays_of("klt"), layout) if VARIANTS[name].uses_klt else None
    return LearnedCodec.from_arrays(name, arrays_of(name), layout, klt)


def fit_calibration(
    samples: "Sequence[Array | torch.Tensor]",
    layout: Layout,
    gradients: "Sequence[Array | torch.Tensor] | None" = None,
    progress: Progress = lambda share: None,
    *,
    learned: bool = True,
) -> tuple[dict[str, Array], FitReport | None]:
    """The arrays of every codec, fitted to about ten features: what `CodingProfile.calibration` holds; and a report.

    Args:
        samples: features, each of a shape that the layout knows; finite.
        layout: of the features.
        gradients: of the head's output with respect to each sample, of the same shape; several of one sample, or of
            several heads, are one array [k, ...]; or none.
        progress: is told the share of the work that is done.
        learned: whether the learned codecs are fitted too.

    Raises:
        InputError: no sample, or one that does not fit the layout or the others, or is mostly padding; gradients of
            other shapes.
    """
    arrays = [array.astype(np.float32) for array in as_arrays(samples)]
    for array in arrays:
        layout.check(array.shape)
    slopes = None
    if gradients is not None:
        slopes = [slope.astype(np.float32) for slope in as_arrays(gradients, "gradients", _MAX_GRADIENT_VALUES)]
    klt_share = _KLT_SHARE if learned else 1.0
    klt = KltCodec.fit(arrays, layout, slopes, progress=lambda share: progress(klt_share * share))
    levels = LevelsCodec.fit(arrays, layout)
    _check_own_samples((klt, levels), arrays)
    fitted = {"levels": levels.arrays(), "klt": klt.arrays()}
    qualities: dict[str, Array] = {}
    if learned:
        fitted |= fit_learned(arrays, layout, klt.transform)
        qualities = fit_qualities(
            fitted.__getitem__, arrays, layout, lambda share: progress(klt_share + (1 - klt_share) * share)
        )
    calibration = {f"{codec}.{key}": value for codec, made in fitted.items() for key, value in made.items()}
    lengths = [layout.rows_shape(array.shape)[1] for array in arrays]
    progress(1.0)
    return {**calibration, **qualities, TOKENS: np.array([min(lengths), max(lengths)], np.int32)}, klt.report


def _check_own_samples(codecs: Iterable[Codec], samples: Sequence[Array]) -> None:
    """Raises InputError where a codec rejects what it was fitted to, at its finest."""
    for codec in codecs:
        for index, sample in enumerate(samples):
            try:
                codec.encoder(sample)(1.0)
            except InputError as error:
                problem = f"{codec.id.name}, fitted to it, cannot code it: {error.context['problem']}"
                remedy = "Leave padding out of the samples, and rows that are unlike all others"
                raise InputError(field=f"samples[{index}]", problem=problem, remedy=remedy) from error


def fit_qualities(
    arrays_of: Callable[[str], dict[str, Array]],
    samples: Sequence[Array],
    layout: Layout,
    progress: Progress = lambda share: None,
) -> dict[str, Array]:
    """What a profile keeps of the meaning of quality for the learned codecs, if they can run on such features.

    Args:
        arrays_of: a codec's arrays.
        samples: the features that they were fitted to, float32.
        layout: of the features.
        progress: is told the share of the work that is done.
    """
    klt = KltCodec.from_arrays(arrays_of("klt"), layout)
    parts: list[Array] = []
    spent = 0
    for sample in samples[:_MEASURED_SAMPLES]:
        if parts and not _MIN_MEASURED <= spent < _MEASURED_VALUES:
            break
        parts.append(layout.cropped(sample, _MEASURED_VALUES))
        spent += parts[-1].size
    learned = {name: _opened(name, arrays_of, layout) for name in VARIANTS} if can_run() else {}
    measured = measured_qualities(klt, learned, parts, progress)
    return {f"{PREFIX}{name}": qualities for name, qualities in measured.items()}


def describe(frame: Frame, num_bytes: int) -> Mapping[str, str | int | float]:
    """A description of a frame, for `dtufc inspect`."""
    raw_bytes = frame.num_values * NUMPY_DTYPES[Dtype(frame.dtype)].itemsize
    return {
        "codec": frame.codec.name,
        "dtype": frame.dtype.name,
        "shape": " x ".join(map(str, frame.shape)),
        "profile_digest": frame.profile_digest.hex(),
        "values": frame.num_values,
        "raw_bytes": raw_bytes,
        "payload_bytes": len(frame.payload),
        "wire_bytes": num_bytes,
        "bpfp_payload": 8 * len(frame.payload) / frame.num_values,
        "bpfp_wire": 8 * num_bytes / frame.num_values,
        "symbol_crc": f"{frame.symbol_crc:08x}",
    }
