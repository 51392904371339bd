"""Prints what images weigh: each layer, and the largest packages of the layer that holds them.

    .venv/bin/python deploy/scripts/sizes.py dtufc-edge dtufc-cloud

Needs the Python package docker and an engine that has the images.
"""

import sys

import docker

_MOST = 12  # packages to name
_LEAST_MB = 0.05
_ORIGINS = {"/opt/dtufc": "packages", "/opt/code": "own code, profiles, networks", "/var/lib/dtufc": "weights"}
_MEASURE = "cd /opt/dtufc/lib/python3*/site-packages && du -sk -- * | sort -rn"


def origin(created_by: str) -> str:
    """What a layer is, from the step that made it."""
    for path, name in _ORIGINS.items():
        if f" in {path}" in created_by or created_by.rstrip().endswith(path) or f" {path} #" in created_by:
            return name
    return "user" if "useradd" in created_by else "base"


def main() -> None:
    engine = docker.from_env()
    for name in sys.argv[1:]:
        image = engine.images.get(name)
        print(f"{name}: {image.attrs['Size'] / 1e6:.0f} MB")
        for entry in reversed(image.history()):
            if entry["Size"] / 1e6 >= _LEAST_MB:
                print(f"  {entry['Size'] / 1e6:8.1f} MB  {origin(entry['CreatedBy'])}")
    measured = engine.containers.run(sys.argv[1], ["sh", "-c", _MEASURE], network_mode="none", remove=True)
    lines = bytes(measured).decode().splitlines()
    print(f"the largest of {sys.argv[1]}'s packages:")
    for line in lines[:_MOST]:
        kilobytes, package = line.split("\t")
        print(f"  {int(kilobytes) * 1024 / 1e6:8.1f} MB  {package}")


if __name__ == "__main__":
    main()
