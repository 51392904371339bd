"""What is installed here, for `dtufc --version`: releases, platform, and what the packages weigh on disk.

Everything comes from the packages' metadata; no package is imported.
"""

import csv
import os
import platform
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from typing import Final

_MOST: Final = 5  # packages to name
_NAMED: Final = ("numpy", "torch")


def environment_report() -> str:
    """A few lines: the release of dtufc, of Python and of what it computes with, the platform, the sizes."""
    releases = [f"Python {platform.python_version()}", *(f"{name} {_release(name)}" for name in _NAMED)]
    sizes = package_sizes()
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:_MOST]
    return "\n".join(
        [
            f"dtufc {version('dtufc')}",
            ", ".join(releases),
            platform.platform(),
            f"{len(sizes)} packages, {sum(sizes.values()) / 1e6:.1f} MB",
            *(f"{size / 1e6:10.1f} MB  {name}" for name, size in largest),
        ]
    )


def package_sizes() -> dict[str, int]:
    """Name -> bytes on disk of each installed package, compiled modules included."""
    found: dict[str, int] = {}
    for distribution in distributions():
        found.setdefault(distribution.name, _size(distribution))
    return found


def _release(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _size(distribution: Distribution) -> int:
    """Bytes of the files that the package's record lists and that are still there; 0 without a record."""
    root = str(distribution.locate_file(""))
    listed = csv.reader((distribution.read_text("RECORD") or "").splitlines())
    return sum(_bytes(f"{root}/{path}") for path, *_ in listed)  # tens of thousands: Path would take seconds


def _bytes(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - as above
    except FileNotFoundError:  # an image drops what no service reads
        return 0
