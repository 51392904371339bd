"""`python -m dtufc_research.evaluation.terminal`: `dtufc chat` in a terminal, as an image for the README.

Starts a pair, types a conversation, and writes what the terminal shows to docs/chat.svg.
"""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from dtufc_research.evaluation.pair import pair

DOCS: Final = Path(__file__).parents[3] / "docs"
PROFILE: Final = "smollm2-135m"
WIDTH: Final = 100
_TYPED: Final = (
    "What is gravity? Answer in two sentences.",
    "Who described it first? One sentence.",
)
_COST: Final = r"tokens/s.*saved"
_LONGEST_S: Final = 300.0


def main() -> None:
    with pair(PROFILE) as started:
        shown = conversation(started.address)
    console = Console(record=True, width=WIDTH, file=Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    console.print(Text.from_ansi(f"$ dtufc chat\n{shown}"))
    svg = re.sub(r"(?s)@font-face \{.*?\}\s*", "", console.export_svg(title="dtufc chat"))  # no fonts of elsewhere
    (DOCS / "chat.svg").write_text(svg, encoding="utf-8")


def conversation(edge: str) -> str:
    """What a terminal shows of the conversation, with its colours."""
    here, there = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(WIDTH)}
    command = [str(Path(sys.executable).with_name("dtufc")), "chat", "--edge", edge, "--max-tokens", "200"]
    with subprocess.Popen([*command, "--timeout", "300"], stdin=there, stdout=there, stderr=there, env=env) as process:
        os.close(there)
        shown = _until(here, "> $")
        for line in _TYPED:
            os.write(here, f"{line}\r".encode())
            shown += _until(here, rf"(?s){_COST}.*> $")
        process.terminate()
    os.close(here)
    return re.sub(r"\x1b\[\?\d+[hl]|\r", "", shown).rsplit("\n", 1)[0]


def _until(descriptor: int, pattern: str) -> str:
    """What is shown until the pattern is."""
    shown, end = "", time.monotonic() + _LONGEST_S
    while not re.search(pattern, re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", shown)):
        if time.monotonic() > end:
            raise TimeoutError(shown)
        if select.select([descriptor], [], [], 0.1)[0]:
            shown += os.read(descriptor, 1 << 16).decode()
    return shown


if __name__ == "__main__":
    main()
