"""`python -m dtufc_research.training.fit_profiles`: fits the shipped profiles and writes them into the package."""

import argparse
from dataclasses import replace
from importlib import resources
from pathlib import Path

import yaml

from dtufc.coding.feature_codec import fit_calibration, fit_qualities
from dtufc.models.profile import load_profile
from dtufc_research.data.extract import fitting_features, fitting_set

FITS = [
    ("dinov2-small", 12, 24),
    ("smollm2-135m", 16, 48),
    ("smollm2-135m", 30, 48),
    ("efficientnet-lite0", 8, 120),
    ("sd3-emoji", 1, 48),
]  # name, split, features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="profiles; all by default")
    parser.add_argument("--quality", action="store_true", help="only measure anew what quality means; digests stay")
    arguments = parser.parse_args()
    wanted = arguments.names
    home = Path(str(resources.files("dtufc.models"))) / "profiles"
    for name, split, count in (entry for entry in FITS if not wanted or entry[0] in wanted):
        profile = load_profile(name, split)
        if arguments.quality:
            samples = fitting_features(profile, 10)
            calibration = {**profile.calibration, **fit_qualities(profile.of_codec, samples, profile.layout)}
        else:
            samples, gradients = fitting_set(profile, count)
            calibration, _ = fit_calibration(samples, profile.layout, gradients)
        fitted = replace(profile, calibration=calibration)
        file = f"{name}.split{split}.safetensors"
        fitted.save_calibration(home / file)
        _name_calibration(home / f"{name}.yaml", split, file)
        print(f"{name} at split {split}: {(home / file).stat().st_size} bytes")


def _name_calibration(path: Path, split: int, file: str) -> None:
    """Adds the file to the profile's `calibrations`, which is its last line."""
    text = path.read_text(encoding="utf-8")
    calibrations = {**yaml.safe_load(text)["calibrations"], split: file}
    entries = ", ".join(f"{key}: {value}" for key, value in sorted(calibrations.items()))
    kept = text[: text.index("calibrations:")]
    path.write_text(f"{kept}calibrations: {{{entries}}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
