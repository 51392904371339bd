"""Measures the curves: rate, accuracy, error and time of each codec at each of its rates, on test features.

Every rate is that of a real bitstream. A curve's points are kept in the cache folder, so that an interrupted run
resumes. They are measured again if the curve, its network or the fit of its codec has changed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from rich.progress import track
from threadpoolctl import threadpool_limits

import dtufc
from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import MAGIC, CodecId, Dtype, Frame, pack, parse
from dtufc.coding.codecs import Payload
from dtufc.coding.codecs.learned import shipped_network
from dtufc.coding.codecs.learned.codec import LearnedCodec
from dtufc.coding.codecs.learned.network_file import load_network
from dtufc.coding.codecs.learned.plane import Assignment, Levels, PlaneTransform
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.models.profile import Profile, load_profile
from dtufc.models.zoo import cache_folder
from dtufc_research.data.extract import Cnn, Decoder, Sd3, Vit, fitting_features
from dtufc_research.data.sources import photo_views, photos, prompts, square
from dtufc_research.evaluation.methods import baselines
from dtufc_research.evaluation.samples import Sample, cnn_samples, llm_samples, tti_samples, vit_samples
from dtufc_research.paper.points import Point, load_points, save_points
from dtufc_research.paper.scalar import ScalarCodec
from dtufc_research.training.configurations import Tables, TrainSpec
from dtufc_research.training.features import TASKS, stored
from dtufc_research.training.plane_transforms import PlaneTransformKind, evenly, fit_plane_transform
from dtufc_research.training.train import SHIPPED, export, run_folder

NUM_SAMPLES: Final = 32  # a task; of `cnn`, where each has but one label, all views of all test photographs
QUALITIES: Final = (0.2, 0.4, 0.55, 0.7, 0.85, 1.0)
ALL_QUALITIES: Final = (0.0, *QUALITIES)  # of the pages on one task, of baselines, and of curves with high lowest rates
PROFILES: Final = {
    "llm": ("smollm2-135m", 30),
    "vit": ("dinov2-small", 12),
    "tti": ("sd3-emoji", 1),
    "cnn": ("efficientnet-lite0", 8),
    "llm-16": ("smollm2-135m", 16),
}
_NUM_FITTED: Final = 10
_INT8: Final = "blockwise 8 bit, zstd"
_FLOAT32: Final = np.dtype(np.float32)

Coder = tuple[Callable[[Array], Callable[[float], bytes]], Callable[[bytes, tuple[int, ...]], Array]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A trained network with one plane transform.

    Attributes:
        name: in the tables.
        network: the configuration it was trained by.
        plane_transform: of the features; None: as in training.
        assignment: of values to levels; None: the plane transform's own.
        tables: of the symbols; None: those of the configuration.
        tasks: on which it is measured.
        rates: at which qualities.
    """

    name: str
    network: str
    plane_transform: PlaneTransformKind | None = None
    assignment: Assignment | None = None
    tables: Tables | None = None
    tasks: tuple[str, ...] = tuple(TASKS)
    rates: tuple[float, ...] = QUALITIES


CURVES: Final = (
    Curve(name="hyperprior-hybrid", network="hyperprior-hybrid", tasks=("llm", "vit", "tti", "cnn", "llm-16")),
    Curve(name="elic-hybrid", network="elic-hybrid", tasks=("llm", "vit", "tti", "cnn", "llm-16")),
    Curve(name="kltprior", network="klt-hybrid", tasks=("llm", "vit", "tti", "cnn", "llm-16")),
    Curve(name="baseline-hybrid", network="baseline-hybrid", rates=ALL_QUALITIES),
    Curve(name="hyperprior-llm", network="hyperprior-llm"),
    Curve(name="baseline-llm", network="baseline-llm", rates=ALL_QUALITIES),
    Curve(name="hyperprior-vit", network="hyperprior-vit"),
    Curve(name="baseline-vit", network="baseline-vit", rates=ALL_QUALITIES),
    Curve(name="hyperprior-tti", network="hyperprior-tti"),
    Curve(name="baseline-tti", network="baseline-tti", rates=ALL_QUALITIES),
    Curve(name="kltprior-llm", network="klt-llm"),
    Curve(name="kltprior-vit", network="klt-vit"),
    Curve(name="kltprior-tti", network="klt-tti"),
    Curve(name="hyperprior-noise", network="hyperprior-noise"),
    Curve(name="baseline-noise", network="baseline-noise", rates=ALL_QUALITIES),
    Curve(name="truncated-prior", network="truncated-prior"),
    Curve(name="hyperprior-hybrid, floor", network="hyperprior-hybrid", assignment=Assignment.floor),
    Curve(name="hyperprior-hybrid, levels of all values", network="hyperprior-hybrid", plane_transform="paper"),
    Curve(name="affine-hybrid", network="affine-hybrid"),
    Curve(name="affine-grid-hybrid", network="affine-grid-hybrid"),
    Curve(name="pca-arranged-hybrid", network="pca-arranged-hybrid", rates=ALL_QUALITIES),
    Curve(name="pca-arranged-lloyd-hybrid", network="pca-arranged-lloyd-hybrid", rates=ALL_QUALITIES),
    Curve(name="hyperprior-long", network="hyperprior-long", tasks=("llm", "vit", "tti", "cnn", "llm-16")),
    Curve(name="baseline-long", network="baseline-long", rates=ALL_QUALITIES),
    Curve(name="pca-arranged-long", network="pca-arranged-long", rates=ALL_QUALITIES),
    Curve(name="elic-long", network="elic-long", tasks=("llm", "vit", "tti", "cnn", "llm-16")),
    Curve(name="hyperprior-hybrid, fitted tables", network="hyperprior-hybrid", tables="fitted"),
    Curve(name="baseline-hybrid, transformed features", network="baseline-hybrid", plane_transform="trimmed"),
    Curve(name="hyperprior-hybrid, truncated features", network="hyperprior-hybrid", plane_transform="truncate"),
)
SCALAR: Final[
    dict[str, tuple[PlaneTransformKind, float, float]]
] = {  # its curves: the plane transform, and the steps at the lowest and the highest rate, in levels
    "scalar, transformed features": ("trimmed", 160.0, 6.0),
    "scalar, truncated features": ("truncate", 40.0, 1.5),
}
OTHERS: Final = ("raw", "klt", "levels", _INT8, *SCALAR)


def every_setting(codec: FeatureCodec) -> list[tuple[str, float | None]]:
    """(codec, setting of its own) of every codec of a profile; the setting is None if the codec has no rate."""
    return [(n, setting) for n in codec.codecs for setting in (ALL_QUALITIES if codec.has_rate(n) else (None,))]


def names() -> list[str]:
    """Every curve's name."""
    return [*(curve.name for curve in CURVES), *OTHERS]


def is_trained(name: str) -> bool:
    """Whether a curve needs no network, or its network was trained here or is shipped."""
    curve = _curve(name)
    return curve is None or has_run(curve.network) or _is_shipped(curve)


def measure(name: str, tasks: Sequence[str] = tuple(PROFILES)) -> list[Point]:
    """The points of one curve on those of its tasks, cached or measured now."""
    curve = _curve(name)
    return [point for task in (curve.tasks if curve else PROFILES) if task in tasks for point in _kept(name, task)]


def points_path(name: str, task: str) -> Path:
    """Path of the cached points of a curve on a task; it depends on the curve, its network and its fit.

    Raises FileNotFoundError if a network was neither trained here nor shipped.
    """
    profile, curve = _profile(task), _curve(name)
    slug = name.replace(" ", "-").replace(",", "")
    if curve:  # its plane transform is its own, not the profile's, except for `klt`
        uses_klt = (curve.plane_transform or TrainSpec.load(curve.network).plane_transform) == "klt"
        used = {key: array for key, array in profile.calibration.items() if uses_klt and key.startswith("klt.")}
        profile = replace(profile, calibration=used)
        slug += "-" + sha256(network_path(curve).read_bytes() + repr(curve).encode()).hexdigest()[:12]
    return cache_folder() / "results" / f"{slug}-{task}-{profile.digest.hex()[:12]}.json"


def _kept(name: str, task: str) -> list[Point]:
    path = points_path(name, task)
    if not path.exists():
        points = list(_points(name, _curve(name), task))
        path.parent.mkdir(parents=True, exist_ok=True)
        save_points(points, path)
    return load_points(path)


def of_one_network(chosen: Sequence[str]) -> list[str]:
    """These curves, and the others of those of their networks that were trained here, in the order of all curves."""
    networks = {curve.network for curve in CURVES if curve.name in chosen and has_run(curve.network)}
    remeasured = {*chosen, *(curve.name for curve in CURVES if curve.network in networks)}
    return [name for name in names() if name in remeasured]


def has_run(network: str) -> bool:
    """Whether a network was trained here."""
    return (run_folder(network) / "best.ckpt").exists()


def _is_shipped(curve: Curve) -> bool:
    return curve.network in SHIPPED and curve.tables is None


def network_path(curve: Curve) -> Path:
    """Path of the curve's network: of its run, or the package's if it was not trained here."""
    if not has_run(curve.network) and _is_shipped(curve):
        return shipped_network(SHIPPED[curve.network])
    return export(curve.network, curve.tables)


def _curve(name: str) -> Curve | None:
    return next((curve for curve in CURVES if curve.name == name), None)


def _points(name: str, curve: Curve | None, task: str) -> Iterator[Point]:
    coder: Coder
    rates: Sequence[float | None] = (None,)
    if curve:
        codec, rates = learned_codec(curve, task), curve.rates
        coder = partial(_learned_encoder, codec), partial(_learned_decode, codec)
    elif name == _INT8:
        method = next(method for method in baselines() if method.name == _INT8)
        coder = (lambda features: lambda rate: method.encode(features)), method.decode
    elif name in SCALAR:
        yield from _scalar_points(name, task)
        return
    else:
        fitted = dtufc.load(_profile(task).name, split=_profile(task).split)
        coder = partial(_encoder_of, fitted, name), lambda data, shape: fitted.decode(data)
        rates = QUALITIES if name == "klt" else rates
    yield from _measure(name, task, coder, rates)


def _scalar_points(name: str, task: str) -> Iterator[Point]:
    kind, widest, narrowest = SCALAR[name]
    plane_transform = plane_transform_for(kind, task)
    fitted = [sample.astype(np.float32) for sample in evenly(_fitting(task), _NUM_FITTED)]
    for rate in QUALITIES:
        codec = ScalarCodec(plane_transform, fitted, widest * (narrowest / widest) ** rate)
        yield from _measure(name, task, (partial(_scalar_encoder, codec), codec.decode), (rate,))


def _scalar_encoder(codec: ScalarCodec, features: Array) -> Callable[[float], bytes]:
    return lambda rate: codec.encode(features)


def learned_codec(curve: Curve, task: str) -> LearnedCodec:
    """The curve's codec for the features of a task."""
    spec = TrainSpec.load(curve.network)
    plane_transform = plane_transform_for(curve.plane_transform or spec.plane_transform, task)
    if curve.assignment is not None:
        assert isinstance(plane_transform, Levels)
        plane_transform = replace(plane_transform, assignment=curve.assignment)
    codec_id = CodecId[SHIPPED.get(curve.network, "hyperprior")]
    return LearnedCodec(codec_id, load_network(network_path(curve)), plane_transform)


def plane_transform_for(kind: PlaneTransformKind, task: str) -> PlaneTransform:
    """The plane transform of that kind, fitted as in training."""
    return fit_plane_transform(kind, _profile(task), _fitting(task))


@cache
def _fitting(task: str) -> list[Array]:
    """Features for fitting: those for training, or ten of the same sources for a task without training."""
    if task in TASKS:
        return stored(task, "train")
    return fitting_features(_profile(task), _NUM_FITTED)


@cache
def samples(task: str) -> list[Sample]:
    """The test features of a task; their files were not used in fitting or training."""
    profile = _profile(task)
    if profile.spec.family == "decoder":
        llama = Decoder.load(profile)
        return llm_samples(llama, list(llama.rows("test", NUM_SAMPLES)))
    if profile.spec.family == "sd3":
        return tti_samples(Sd3.load(profile), prompts("test")[:NUM_SAMPLES])
    if profile.spec.family == "cnn":
        return cnn_samples(Cnn.load(profile), photo_views("test"))
    whole = [photo for _, photo in photos("test")]
    return vit_samples(Vit.load(profile), [*map(square, whole), *whole][:NUM_SAMPLES])


def _profile(task: str) -> Profile:
    return load_profile(*PROFILES[task])


def _measure(name: str, task: str, coder: Coder, rates: Sequence[float | None]) -> Iterator[Point]:
    """All rates of one codec on one task, on one thread, in process time: other programs do not affect it."""
    encoder_of, decode = coder
    found: dict[float | None, list[tuple[float, ...]]] = {rate: [] for rate in rates}
    for sample in track(samples(task), description=f"{name}, {task}"):
        with threadpool_limits(limits=1):
            start = time.process_time()
            encode = encoder_of(sample.features)
            once = time.process_time() - start
            for rate in rates:
                found[rate].append(_one(sample, encode, decode, 0.5 if rate is None else rate, once))
    for rate, rows in found.items():
        payload, wire, mse, agreement = (float(np.mean(column)) for column in list(zip(*rows, strict=True))[:4])
        encode_s, decode_s = (median(column) for column in list(zip(*rows, strict=True))[4:])
        yield Point(
            curve=name,
            task=task,
            rate=rate,
            bpfp_payload=payload,
            bpfp_wire=wire,
            accuracy=agreement,
            mse=mse,
            encode_ms=1000 * encode_s,
            decode_ms=1000 * decode_s,
        )


def _one(
    sample: Sample,
    encode: Callable[[float], bytes],
    decode: Callable[[bytes, tuple[int, ...]], Array],
    rate: float,
    once: float,
) -> tuple[float, ...]:
    """(payload BPFP, wire BPFP, MSE, agreement, seconds to encode, seconds to decode)."""
    start = time.process_time()
    data = encode(rate)
    middle = time.process_time()
    decoded = decode(data, sample.features.shape)
    end = time.process_time()
    wire = 8 * len(data) / sample.features.size
    payload = 8 * (len(parse(data).payload) if data.startswith(MAGIC) else len(data)) / sample.features.size
    mse = float(np.mean((decoded - sample.features) ** 2))
    return payload, wire, mse, sample.agreement(decoded), once + middle - start, end - middle


def _learned_encoder(codec: LearnedCodec, features: Array) -> Callable[[float], bytes]:
    encode = codec.encoder(features)
    return lambda rate: _frame(codec, features.shape, encode(rate))


def _learned_decode(codec: LearnedCodec, data: bytes, shape: tuple[int, ...]) -> Array:
    frame = parse(data)
    return codec.decode(Payload(data=frame.payload, symbol_crc=frame.symbol_crc), shape, _FLOAT32)


def _frame(codec: LearnedCodec, shape: tuple[int, ...], payload: Payload) -> bytes:
    return pack(
        Frame(
            codec=codec.id,
            dtype=Dtype.float32,
            shape=shape,
            profile_digest=bytes(8),
            symbol_crc=payload.symbol_crc,
            payload=payload.data,
        )
    )


def _encoder_of(codec: FeatureCodec, name: str, features: Array) -> Callable[[float], bytes]:
    return codec.encoder(features, codec=name)
