"""`python -m dtufc_research.evaluation.features FILE.npz`: rate against error, for every codec.

The file holds features [rows, channels], by name. Some names are for the test, the others for the fit. The error is
normalised by channel: the mean of (error / standard deviation of the channel)^2, the first row left out, which in a
language model is massive.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import dtufc
from dtufc.coding.arrays import Array
from dtufc.coding.codecs.klt import KltCodec
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.models.profile import Profile
from dtufc_research.evaluation.methods import baselines, reached

QUALITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)


def table(fit: list[Array], test: list[Array]) -> str:
    """Markdown: one row a codec and quality; bits a value are of whole frames."""
    spread = np.concatenate([features[1:] for features in fit]).std(axis=0)
    codec = dtufc.fit(fit)
    channels = KltCodec.fit(fit, codec.profile.layout, max_rank=0)
    alone = {f"klt.{key}": value for key, value in channels.arrays().items()}
    profile = codec.profile
    assert isinstance(profile, Profile)
    unmixed = FeatureCodec(replace(profile, calibration={**profile.calibration, **alone}))
    lines = ["| codec | quality | BPFP | error |", "|---|---:|---:|---:|"]

    def line(label: str, quality: str, sizes: list[int], decoded: list[Array]) -> str:
        error = np.mean([np.mean(((a - b)[1:] / spread) ** 2) for a, b in zip(decoded, test, strict=True)])
        bits = 8 * sum(sizes) / sum(features.size for features in test)
        return f"| {label} | {quality} | {bits:.3f} | {error:.4f} |"

    for method in baselines()[3:]:
        frames = [method.encode(features) for features in test]
        decoded = [method.decode(frame, features.shape) for frame, features in zip(frames, test, strict=True)]
        lines.append(line(method.name, "", list(map(len, frames)), decoded))
    others = [(name, codec, name) for name in codec.codecs if name not in ("klt", "raw")]
    for label, owner, name in [("klt", codec, "klt"), ("klt, channels alone", unmixed, "klt"), *others]:
        for quality in reached(owner, name, QUALITIES):
            encoded = [owner.encode(features, codec=name, quality=quality) for features in test]
            shown = "" if quality is None else f"{quality:.2f}"
            lines.append(line(label, shown, list(map(len, encoded)), [owner.decode(frame) for frame in encoded]))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--test", nargs="+", required=True, help="names of the features to test on")
    arguments = parser.parse_args()
    with np.load(arguments.file) as arrays:
        features = {name: arrays[name].astype(np.float32) for name in arrays.files}
    test = [features.pop(name) for name in arguments.test]
    print(f"fitted on {', '.join(features)}; tested on {', '.join(arguments.test)}\n")
    print(table(list(features.values()), test))
    return 0


if __name__ == "__main__":
    sys.exit(main())
