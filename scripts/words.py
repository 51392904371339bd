"""`python -m scripts.words`: names that the field has other words for must not come back into the code.

Words that ordinary English needs as well (read, near, draw) are left to the reader.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
INSTEAD = {
    "wish(es)?|imagin(e|es|ed|ing)": "generation parameters, generate image",
    "pictures?|drawn": "image, generated image, grid of tokens",
    "singles|strays?": "isolated tokens, sparse residuals",
    "preparations?|prepared": "plane transform, preprocessed",
    "sparing": "entropy-constrained",
    "rivals?": "baselines",
    "workbench|lab": "research",
    "the norm": "the specification",
    "refus(e|es|ed|al|als)": "rejected",
    "mend(s|ed)?": "fix",
    "cannot be had": "not available",
    "beyond all measure": "out of range",
}
SUFFIXES = {".py", ".proto", ".toml", ".yaml", ".yml", ".sh", ".mjs", ".jsx"}
LEFT_OUT = ("scripts/words.py", "shared/dtufc/v1/", "tests/golden/", "deploy/grafana/dashboards/")


def main() -> int:
    command = ["git", "ls-files"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    found = 0
    for name in listed:
        path = ROOT / name
        if path.suffix not in SUFFIXES or name.startswith(LEFT_OUT) or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            words = line.replace("_", " ")
            for pattern, instead in INSTEAD.items():
                if re.search(rf"(?<![/\w])({pattern})(?![/\w])", words, re.IGNORECASE) and "http" not in line:
                    print(f"{name}:{number}: write {instead}: {line.strip()}", file=sys.stderr)
                    found += 1
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
