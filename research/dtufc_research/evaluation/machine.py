"""The machine that something was measured on, in one line."""

import platform
from importlib.metadata import version
from pathlib import Path


def machine() -> str:
    """Processors, Python, and the packages that times depend on."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "constriction", "transformers"))
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = f"{len(names)} x {names[0]}" if names else cpu
    return f"{cpu}, Python {platform.python_version()}, {packages}"
