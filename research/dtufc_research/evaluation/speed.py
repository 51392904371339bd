"""Times against comparable libraries, single-threaded, as ratios within one run."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

import dtufc
from dtufc.coding.arrays import Array
from dtufc.coding.transform import PeakyToBalanced
from dtufc.models.profile import load_profile
from dtufc_research.data.extract import fitting_features

_QUALITY = 0.5
_STRIDE = 64


@dataclass(frozen=True, slots=True)
class Report:
    markdown: str
    figures: dict[str, float]


def speed_report() -> Report:
    """The transform against numpy and scikit-learn, `klt` against CompressAI's hyperprior."""
    ten = fitting_features(load_profile("dinov2-small"), 10)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figures = {**_transform_figures(ten), **_codec_figures(ten[0])}
    finally:
        torch.set_num_threads(threads)
    lines = [
        "## Times against comparable libraries (one thread, one run)",
        "",
        "| what | ms | |",
        "|---|---:|---|",
    ]
    lines += [
        _line("256 levels from ten features: fit", figures["fit_ms"], f"MSE {figures['mse']:.6g}"),
        _line("the same with scikit-learn's KMeans", figures["fit_sklearn_ms"], f"MSE {figures['mse_sklearn']:.6g}"),
        _line("forward, float32, 1370 x 384", figures["forward_ms"], ""),
        _line("forward, float16, by table", figures["forward_half_ms"], ""),
        _line("numpy.digitize of the float32", figures["digitize_ms"], ""),
        _line("inverse", figures["inverse_ms"], ""),
        _line("numpy.take", figures["take_ms"], ""),
        _line(f"klt, quality {_QUALITY}: encode", figures["klt_encode_ms"], "1370 x 384"),
        _line("klt: decode", figures["klt_decode_ms"], ""),
        _line("CompressAI ScaleHyperprior(128, 192): compress", figures["compressai_encode_ms"], "the same plane"),
        _line("CompressAI: decompress", figures["compressai_decode_ms"], ""),
    ]
    return Report("\n".join(lines) + "\n", figures)


def _transform_figures(ten: list[Array]) -> dict[str, float]:
    values = np.concatenate([features.ravel() for features in ten])
    transform = PeakyToBalanced.fit(values)
    fit_s = median_seconds(lambda: PeakyToBalanced.fit(values), 3)
    start = time.perf_counter()
    means = KMeans(n_clusters=256, n_init=1, random_state=0).fit(values[:, None])
    sklearn_s = time.perf_counter() - start
    features = ten[0]
    half = features.astype(np.float16)
    levels = transform.forward(features)
    seconds = {
        "forward": median_seconds(lambda: transform.forward(features)),
        "forward_half": median_seconds(lambda: transform.forward(half)),
        "digitize": median_seconds(lambda: np.digitize(features, transform.borders)),
        "inverse": median_seconds(lambda: transform.inverse(levels)),
        "take": median_seconds(lambda: np.take(transform.centroids, levels)),
    }
    return {
        "fit_ms": 1000 * fit_s,
        "fit_sklearn_ms": 1000 * sklearn_s,
        "fit_times_faster": sklearn_s / fit_s,
        "mse": float(np.mean((transform.inverse(transform.forward(values)) - values) ** 2)),
        "mse_sklearn": float(means.inertia_) / values.size,
        **{f"{name}_ms": 1000 * taken for name, taken in seconds.items()},
        "forward_times_faster": seconds["digitize"] / seconds["forward"],
        "inverse_times_faster": seconds["take"] / seconds["inverse"],
    }


def _codec_figures(features: Array) -> dict[str, float]:
    codec = dtufc.load("dinov2-small")
    data = codec.encode(features, quality=_QUALITY)
    encode_s = median_seconds(lambda: codec.encode(features, quality=_QUALITY))
    decode_s = median_seconds(lambda: codec.decode(data))
    levels = PeakyToBalanced.fit(features).forward(features).astype(np.float32) / 255
    rows, columns = levels.shape
    plane = torch.from_numpy(np.pad(levels, ((0, -rows % _STRIDE), (0, -columns % _STRIDE))))[None, None]
    network = _hyperprior()
    with torch.inference_mode():
        coded = network.compress(plane)
        compress_s = median_seconds(lambda: network.compress(plane), 5)
        decompress_s = median_seconds(lambda: network.decompress(coded["strings"], coded["shape"]), 5)
    return {
        "klt_encode_ms": 1000 * encode_s,
        "klt_decode_ms": 1000 * decode_s,
        "compressai_encode_ms": 1000 * compress_s,
        "compressai_decode_ms": 1000 * decompress_s,
        "codec_times_faster": (compress_s + decompress_s) / (encode_s + decode_s),
    }


def _hyperprior() -> Any:
    """ScaleHyperprior(128, 192) with one channel in and out; untrained, which takes the same time."""
    from compressai.models import ScaleHyperprior
    from compressai.models.utils import conv, deconv

    torch.manual_seed(0)
    network = ScaleHyperprior(128, 192)
    network.g_a[0] = conv(1, 128)
    network.g_s[-1] = deconv(128, 1)
    network.update()
    return network.eval()


def median_seconds(run: Callable[[], object], repeats: int = 15) -> float:
    """Median seconds, after one warm-up run."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def _line(what: str, milliseconds: float, note: str) -> str:
    return f"| {what} | {milliseconds:.2f} | {note} |"
