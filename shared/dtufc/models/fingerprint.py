"""A fingerprint of weights: SHA-256 over all that decides what a model computes.

It covers every byte of every weight file and of the configs, in subfolders too. The SHA-256 of a large file is kept in
the cache, so that a service that starts again does not read gigabytes. A cache that cannot be written costs time only.
"""

import hashlib
import json
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Final

from dtufc.models.cache import cache_folder, sha256_of

_PATTERNS: Final = (
    *("*.safetensors", "*.bin", "*.gguf"),
    *("config.json", "model_index.json", "generation_config.json", "preprocessor_config.json", "scheduler_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "*.model", "chat_template.jinja"),
)
_KEPT_FROM_BYTES: Final = 1 << 20  # a smaller file is read as quickly as what was kept of it
_SETTLED_NS: Final = 2_000_000_000  # a file that was just written may change again within its clock's resolution


def fingerprint(path: Path) -> str:
    """SHA-256 over names and contents of a folder's weight files and configs, or of one weight file."""
    folder, files = path, sorted({found for pattern in _PATTERNS for found in path.glob(f"**/{pattern}")})
    if path.is_file():
        folder, files = path.parent, [path]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(f"{file.relative_to(folder).as_posix()} {file_sha256(file)};".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, from the cache where the same file was read before: same place, size and times."""
    path = path.resolve()
    stat = path.stat()
    if stat.st_size < _KEPT_FROM_BYTES or time.time_ns() - stat.st_ctime_ns < _SETTLED_NS:
        return sha256_of(path)
    # The time of the change too: archives and images set the time of the last write to what they like.
    return _kept(path, f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}")


@lru_cache(maxsize=1024)
def _kept(path: Path, state: str) -> str:
    place = cache_folder() / "fingerprints" / f"{hashlib.sha256(bytes(path)).hexdigest()}.json"
    try:
        entry = json.loads(place.read_text(encoding="utf-8"))
        if entry["state"] == state:
            return str(entry["sha256"])
    except (OSError, ValueError, KeyError, TypeError):  # not kept yet, or broken
        pass
    found = sha256_of(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = place.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps({"path": str(path), "state": state, "sha256": found}), encoding="utf-8")
        scratch.replace(place)
    except OSError:
        pass
    return found
