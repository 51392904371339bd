"""docs/results/images.md: two commands write a section each."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[3] / "docs" / "results" / "images.md"
_SECTIONS: Final = ("Files of every kind", "Damaged files")
_HEAD: Final = """# Images as a viewer shows them

What the edge, `dtufc fit` and `dtufc evaluate` take image files for; why so, says
[decision 21](../decisions/0021-images-as-a-viewer-shows-them.md).
"""


def write_section(title: str, lines: Sequence[str], page: Path = PAGE) -> None:
    """Puts a section into the page, and leaves the other as it is."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    bodies = dict(zip(parts[1::2], parts[2::2], strict=True)) | {title: "\n" + "\n".join(lines) + "\n"}
    sections = [f"## {name}\n\n{bodies[name].strip()}\n" for name in _SECTIONS if name in bodies]
    page.write_text("\n".join([_HEAD, *sections]), encoding="utf-8")
