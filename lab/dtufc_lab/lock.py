"""`python -m dtufc_lab.lock`: the versions that are installed, as constraints for pip."""

import subprocess
import sys

# CompressAI has no wheel for Python 3.13 and holds numpy below 2: where it is not installed, numpy is free.
_MARKERS = {"compressai": "python_version < '3.13'", "numpy": "python_version < '3.13'"}


def main() -> None:
    frozen = subprocess.run(
        [sys.executable, "-m", "pip", "freeze", "--exclude-editable"], capture_output=True, text=True, check=True
    )
    print("# Written by `make lock`. Constraints: a platform installs those of them that it needs.")
    for line in frozen.stdout.splitlines():
        name = line.partition("==")[0]
        print(f"{line}; {_MARKERS[name]}" if name in _MARKERS else line)


if __name__ == "__main__":
    main()
