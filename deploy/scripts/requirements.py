"""Prints what extras of pyproject.toml need, one requirement a line, without installing the package itself.

An image installs these before it copies any code, so that a change of code leaves the large layer as it was.

    python3 requirements.py pyproject.toml edge cloud
"""

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extra: str) -> Iterator[str]:
    """The requirements of one extra; a reference to another extra of the project is followed."""
    name = project["name"]
    for requirement in project["optional-dependencies"][extra]:
        own = re.fullmatch(rf"{re.escape(name)}\[(.+)\]", requirement)
        if own is None:
            yield requirement
            continue
        for other in own.group(1).split(","):
            yield from requirements(project, other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pyproject", type=Path)
    parser.add_argument("extras", nargs="+")
    args = parser.parse_args()
    project = tomllib.loads(args.pyproject.read_text(encoding="utf-8"))["project"]
    found = [requirement for extra in args.extras for requirement in requirements(project, extra)]
    print(*dict.fromkeys([*project["dependencies"], *found]), sep="\n")


if __name__ == "__main__":
    main()
