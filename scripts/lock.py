"""`python -m scripts.lock`: the versions that are installed, as constraints for pip."""

import subprocess
import sys

# CompressAI has no wheel for Python 3.13 and holds numpy below 2: where it is not installed, a newer numpy is. Not the
# newest: the OpenBLAS of numpy 2.5.5 crashes where OPENBLAS_CORETYPE names another processor, as the tests do.
_MARKERS = {"compressai": "python_version < '3.13'", "numpy": "python_version < '3.13'"}
_NEWER = "numpy==2.3.5; python_version >= '3.13'"


def main() -> None:
    frozen = subprocess.run(
        [sys.executable, "-m", "pip", "freeze", "--exclude-editable"], capture_output=True, text=True, check=True
    )
    print("# Written by `make lock`. Constraints: a platform installs those of them that it needs.")
    for line in frozen.stdout.splitlines():
        name = line.partition("==")[0]
        print(f"{line}; {_MARKERS[name]}" if name in _MARKERS else line)
    print(_NEWER)


if __name__ == "__main__":
    main()
