"""`python -m dtufc_research.evaluation.layouts`: what the wrong layout costs, and the heads of a cache.

Maps and tokens of `dinov2-small` from crops of the images in `samples/`, under the right layout and under the wrong
one; and the cache of `smollm2-135m` after texts of this repository, with its heads joined and apart.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

import dtufc
from dtufc.coding.arrays import Array
from dtufc.coding.feature_codec import FeatureCodec, fit_calibration
from dtufc.coding.layout import Family
from dtufc.models.images import open_image
from dtufc.models.profile import LayoutSpec, Profile, ProfileSpec, load_profile
from dtufc.models.zoo import weights_folder
from dtufc_edge.backbones.vit import VitBackbone

ROOT: Final = Path(__file__).parents[3]
QUALITIES: Final = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
CACHE_QUALITIES: Final = (0.4, 0.5, 0.6)
ERROR: Final = 0.1  # relative, at which bits are compared
TOKENS: Final = 128  # of a cache
NEXT: Final = 64  # tokens that go on from it
_CROPS: Final = 4  # of an image
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def vit_tokens() -> list[Array]:
    """[257, 384] of each crop."""
    profile = load_profile("dinov2-small")
    folder = weights_folder(profile.spec)
    profile = profile.with_prefix(VitBackbone.prefix_of(folder))
    backbone = VitBackbone(folder, profile, torch.device("cpu"), torch.float32)
    found = []
    for path in sorted((ROOT / "samples").glob("*.jpg")):
        image = open_image(path.read_bytes(), 1 << 26, 1 << 27)
        for number in range(_CROPS):
            side = int(min(image.size) * (0.9 - 0.12 * number))
            left, top = (image.width - side) * (number % 2), (image.height - side) * (number // 2)
            crop = image.crop((left, top, left + side, top + side)).resize((224, 224))
            pixels = ((np.asarray(crop) / 255 - _MEAN) / _STD).transpose(2, 0, 1).astype(np.float32)
            found.append(backbone.features(torch.from_numpy(pixels)[None]).numpy().reshape(-1, 384))
    return found


def bits_at(codec: FeatureCodec, test: Sequence[Array]) -> float:
    """BPFP of whole frames at a relative error of ERROR, between the qualities that were tried."""
    bits, errors = [], []
    for quality in QUALITIES:
        frames = [codec.encode(features, quality=quality) for features in test]
        pairs = list(zip(map(codec.decode, frames), test, strict=True))
        missed = sum(float(np.sum((got - sent) ** 2)) for got, sent in pairs)
        errors.append((missed / sum(float(np.sum(sent**2)) for sent in test)) ** 0.5)
        bits.append(8 * sum(map(len, frames)) / sum(features.size for features in test))
    if not errors[-1] <= ERROR <= errors[0]:
        return float("nan")
    return float(np.exp(np.interp(np.log(ERROR), np.log(errors[::-1]), np.log(bits[::-1]))))


def layouts_table() -> str:
    """Markdown: bits under the right layout and the wrong one."""
    tokens = vit_tokens()
    maps = [np.ascontiguousarray(one[1:].reshape(16, 16, 384)) for one in tokens]
    fit, test = [[one for index, one in enumerate(maps) if bool(index % _CROPS) is chosen] for chosen in (True, False)]
    fit_tokens = [one for index, one in enumerate(tokens) if index % _CROPS]
    without = Profile(  # around the check of `dtufc.fit`
        spec=ProfileSpec(name="custom", layout=LayoutSpec(family=Family.vit, channels=384, prefix=0)),
        split=0,
        calibration={},
    )
    calibration, _ = fit_calibration(fit_tokens, without.layout, learned=False)
    rows = {
        'map [16, 16, 384], axes="HWC"': (dtufc.fit(fit, axes="HWC", learned=False), test),
        "the same, taken for 16 channels": (dtufc.fit(fit, axes="CHW", learned=False), test),
        'tokens [257, 384], layout="vit", prefix=1': (
            dtufc.fit(fit_tokens, layout="vit", prefix=1, learned=False),
            tokens[::_CROPS],
        ),
        "the same without a prefix": (FeatureCodec(replace(without, calibration=calibration)), tokens[::_CROPS]),
    }
    lines = [f"| features | BPFP at a relative error of {ERROR} |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {name} | {bits_at(*row):.2f} |" for name, row in rows.items())])


def joined(tensors: Sequence[Array]) -> list[Array]:
    """[1, heads, T, d] -> [1, T, heads d] of each."""
    return [np.ascontiguousarray(one.transpose(0, 2, 1, 3)).reshape(1, one.shape[2], -1) for one in tensors]


def apart(tensors: Sequence[Array], heads: int) -> list[Array]:
    """The inverse of `joined`."""
    return [one.reshape(1, one.shape[1], heads, -1).transpose(0, 2, 1, 3).copy() for one in tensors]


class Caches:
    """Caches of a language model's keys and values, and what follows from them."""

    def __init__(self) -> None:
        folder = weights_folder(load_profile("smollm2-135m").spec)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        text = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("bitstream.md", "deploy.md"))
        ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids[0]
        starts = np.linspace(0, len(ids) - TOKENS - NEXT, 13).astype(int)
        parts = [ids[None, start : start + TOKENS] for start in starts]
        self.fit, self.test = [self._cache(part) for part in parts[::3]], [self._cache(part) for part in parts[1::3]]
        self.fit += [self._cache(part) for part in parts[2::3]]
        self._following = [ids[None, start + TOKENS : start + TOKENS + NEXT] for start in starts[1::3]]
        self._expected = [self._next(*pair) for pair in zip(self.test, self._following, strict=True)]

    def agreement(self, decoded: Sequence[Sequence[Array]]) -> float:
        """Share of the tokens that follow under the decoded caches as under the test's own."""
        found = [self._next(*pair) for pair in zip(decoded, self._following, strict=True)]
        return float(torch.cat(found).eq(torch.cat(self._expected)).float().mean())

    @torch.no_grad()
    def _cache(self, ids: torch.Tensor) -> list[Array]:
        cache = DynamicCache()
        self._model(ids, past_key_values=cache)
        return [tensor.numpy() for layer in cache.layers for tensor in (layer.keys, layer.values)]

    @torch.no_grad()
    def _next(self, tensors: Sequence[Array], ids: torch.Tensor) -> torch.Tensor:
        cache = DynamicCache()
        for index, pair in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
            cache.update(*map(torch.from_numpy, pair), index)
        chosen: torch.Tensor = self._model(ids, past_key_values=cache).logits[0].argmax(-1)
        return chosen


def cache_table() -> str:
    """Markdown: bytes of a cache and agreement, with a row for each head and for all."""
    caches = Caches()
    heads = caches.test[0][0].shape[1]
    ways: dict[str, tuple[Callable[[Sequence[Array]], list[Array]], Callable[[Sequence[Array]], list[Array]]]] = {
        "BTC": (joined, lambda tensors: apart(tensors, heads)),
        "BNTC": (list, list),
    }
    lines = ["| axes | quality | kB | next token agrees |", "|---|---:|---:|---:|"]
    for axes, (there, back) in ways.items():
        codec = dtufc.fit_tuple([there(tensors) for tensors in caches.fit], axes=axes)
        for quality in CACHE_QUALITIES:
            encoded = [codec.encode(there(tensors), quality=quality) for tensors in caches.test]
            agreed = caches.agreement([back(codec.decode(data)) for data in encoded])
            mean_bytes = sum(map(len, encoded)) / len(encoded)
            lines.append(f"| {axes} | {quality} | {mean_bytes / 1e3:.0f} | {agreed:.2f} |")
    return "\n".join(lines)


def main() -> int:
    print(layouts_table(), cache_table(), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
