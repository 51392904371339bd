"""The cache: what is in it is whole, however a process that wrote it ended; and the fingerprints it keeps."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dtufc.errors import InputError
from dtufc.models.cache import MANIFEST, build, is_whole, require_space
from dtufc.models.fingerprint import file_sha256, fingerprint
from dtufc.models.profile import ProfileSpec, load_profile
from dtufc.models.zoo import is_fetched, weights_folder
from tests.models.test_weights_gguf import wheel

SETTLED_S = 2.1  # then a file is taken to be written
KILLED = """
import os, signal, sys
from pathlib import Path
from dtufc.models.cache import build
def make(partial):
    (partial / "half").write_bytes(bytes(1000))
    (partial.parent / "scratch").write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
build(Path(sys.argv[1]), make)
"""
FULL = """
import sys
from pathlib import Path
from dtufc.models.cache import build
from dtufc.errors import InputError
import torch
from safetensors.torch import save_file
def make(partial):
    save_file({"w": torch.zeros(1 << 20)}, partial / "w.safetensors")
try:
    build(Path(sys.argv[1]) / "models" / "x", make)
except InputError as error:
    sys.exit(f"error: {error}")
"""

FETCHED = """
import sys
from dtufc.errors import InputError
from dtufc.models.zoo import fetch_package
try:
    fetch_package("tiny-part1", "1.0", sys.argv[1])
except InputError as error:
    sys.exit(f"error: {error}")
"""


def make_text(partial: Path) -> None:
    (partial / "sub").mkdir()
    (partial / "sub" / "text").write_text("whole", encoding="utf-8")


def never(partial: Path) -> None:
    raise AssertionError("made a folder that was there")


def test_a_folder_is_made_once_and_has_a_manifest_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "x"
    build(folder, make_text)
    assert json.loads((folder / MANIFEST).read_text(encoding="utf-8")) == {"files": {"sub/text": 5}}
    assert is_whole(folder)
    build(folder, never)


@pytest.mark.parametrize("damage", ["shorter", "missing", "no manifest", "broken manifest", "empty"])
def test_a_folder_that_is_not_what_its_manifest_says_is_made_again(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "models" / "x"
    build(folder, make_text)
    match damage:
        case "shorter":
            (folder / "sub" / "text").write_text("who", encoding="utf-8")
        case "missing":
            (folder / "sub" / "text").unlink()
        case "no manifest":
            (folder / MANIFEST).unlink()
        case "broken manifest":
            (folder / MANIFEST).write_text("[", encoding="utf-8")
        case _:
            (folder / "sub" / "text").unlink()
            (folder / "sub").rmdir()
            (folder / MANIFEST).unlink()
    assert not is_whole(folder)
    build(folder, make_text)
    assert is_whole(folder)
    assert (folder / "sub" / "text").read_text(encoding="utf-8") == "whole"


def test_a_broken_folder_stays_where_it_cannot_be_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "x"
    build(folder, make_text)
    (folder / MANIFEST).unlink()

    def fail(partial: Path) -> None:
        raise InputError(field="weights", problem="no network", remedy="Connect")

    with pytest.raises(InputError, match="no network"):
        build(folder, fail)
    assert (folder / "sub" / "text").is_file()
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["x"]


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "x-1"
    other = tmp_path / "models" / ".x-1.0.scratch"  # of the folder x-1.0
    other.mkdir(parents=True)
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    left = [path for path in folder.parent.iterdir() if path.is_dir() and path != other]
    assert len(left) == 1
    assert (left[0] / "whole" / "half").is_file()
    build(folder, make_text)
    assert sorted(path for path in folder.parent.iterdir() if path.is_dir()) == sorted([other, folder])
    assert is_whole(folder)


def test_a_package_of_a_profile_is_fetched_only_where_its_folder_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec: ProfileSpec = load_profile("efficientnet-lite0").spec
    kept = weights_folder(spec)
    packages = kept.parent.parent / "packages"
    monkeypatch.setenv("DTUFC_CACHE", str(tmp_path))
    (tmp_path / "packages").symlink_to(packages)
    folder = weights_folder(spec)
    assert is_fetched(spec)
    expected = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(expected[:1000])
    assert not is_fetched(spec)
    assert weights_folder(spec) == folder
    assert (folder / "model.safetensors").read_bytes() == expected


def test_a_disk_with_too_little_space_is_rejected_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"about 1000000000 MB are needed.*DTUFC_CACHE") as caught:
        build(tmp_path / "models" / "x", never, needed_bytes=10**15)
    assert str(tmp_path / "models") in str(caught.value)
    require_space(tmp_path, 1)
    with pytest.raises(InputError, match="MB free"):
        require_space(tmp_path, 10**15)


def test_a_disk_that_becomes_full_is_an_input_error_and_leaves_nothing(tmp_path: Path) -> None:
    def make(partial: Path) -> None:
        (partial / "file").symlink_to("/dev/full")  # the kernel's own full disk
        (partial / "file").write_bytes(bytes(100))

    with pytest.raises(InputError, match=r"the disk of .* has \d+ MB free, and about 5 MB are needed"):
        build(tmp_path / "models" / "x", make, needed_bytes=5_000_000)
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".x.lock"]


def test_a_full_disk_that_another_error_wraps_is_recognised(tmp_path: Path) -> None:
    def make(partial: Path) -> None:
        try:
            with Path("/dev/full").open("wb") as file:
                file.write(bytes(100))
        except OSError as error:
            raise RuntimeError("the converter failed") from error

    with pytest.raises(InputError, match="more is needed"):
        build(tmp_path / "models" / "x", make)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_safetensors_on_a_full_disk_is_an_input_error(small_disk: Path) -> None:
    """In a process of its own: it must not die of a bus error."""
    done = subprocess.run([sys.executable, "-c", FULL, str(small_disk)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "error: cache: the disk of" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_package_that_does_not_fit_is_an_input_error(small_disk: Path, tmp_path: Path) -> None:
    """pip finds the disk full, not we."""
    random.seed(1)
    path = wheel(tmp_path / "index", 1, random.randbytes(1 << 21))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    env = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": path.parent.as_uri()}
    command = [sys.executable, "-c", FETCHED, sha256]
    done = subprocess.run(
        command, env={**env, "DTUFC_CACHE": str(small_disk)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert f"error: cache: the disk of {small_disk}/packages has 1 MB free, and more is needed" in done.stderr


def test_a_cache_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    with pytest.raises(InputError, match="DTUFC_CACHE"):
        build(tmp_path / "cache" / "models" / "x", make_text)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DTUFC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """Weights of 16 MB with one small tensor, between the blocks that a sample of the file would read."""
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = {f"w{i}": torch.full((1 << 20,), float(i)) for i in range(4)} | {"small": torch.zeros(3)}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (value,) = file.read(1)
        file.seek(place)
        file.write(bytes([value ^ 1]))


def test_a_fingerprint_notices_any_byte(cache: Path, model_folder: Path) -> None:
    size = (model_folder / "model.safetensors").stat().st_size
    found = {fingerprint(model_folder)}
    for place in (size - 1, size // 2, size // 128 + 60_000, 200_000):
        flip(model_folder / "model.safetensors", place)
        found.add(fingerprint(model_folder))
    assert len(found) == 5


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "model.gguf",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "preprocessor_config.json",
        "tokenizer.model",
        "model_index.json",
        "head/config.json",
    ],
)
def test_a_fingerprint_covers_all_that_decides_what_a_model_does(cache: Path, model_folder: Path, name: str) -> None:
    before = fingerprint(model_folder)
    path = model_folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"one")
    between = fingerprint(model_folder)
    path.write_bytes(b"two")
    assert len({before, between, fingerprint(model_folder)}) == 3
    (model_folder / "README.md").write_text("a remark", encoding="utf-8")
    path.unlink()
    assert fingerprint(model_folder) == before


def test_a_sha256_is_kept_for_the_same_file_and_taken_anew_for_another(cache: Path, model_folder: Path) -> None:
    path = model_folder / "model.safetensors"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert file_sha256(path) == expected
    assert not list(cache.rglob("*.json"))  # it was just written, and may change within its clock's resolution
    time.sleep(SETTLED_S)
    assert file_sha256(path) == expected
    (entry,) = cache.rglob("*.json")
    stored = json.loads(entry.read_text(encoding="utf-8"))
    assert stored["sha256"] == expected
    times = path.stat()
    flip(path, 1_000_000)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as archives and image layers do
    time.sleep(SETTLED_S)
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest() != expected


def test_what_the_cache_kept_is_used_by_the_next_process(cache: Path, model_folder: Path) -> None:
    script = "import sys; from pathlib import Path; from dtufc.models.fingerprint import file_sha256;"
    script += "print(file_sha256(Path(sys.argv[1])))"
    time.sleep(SETTLED_S)
    command = [sys.executable, "-c", script, str(model_folder / "model.safetensors")]
    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (entry,) = cache.rglob("*.json")
    stored = json.loads(entry.read_text(encoding="utf-8"))
    entry.write_text(json.dumps({**stored, "sha256": "kept"}), encoding="utf-8")
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "kept\n"
    entry.write_text("{", encoding="utf-8")
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == first


def test_a_cache_that_cannot_keep_a_sha256_is_no_error(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    monkeypatch.setenv("DTUFC_CACHE", str(tmp_path / "cache"))
    time.sleep(SETTLED_S)
    assert len(fingerprint(model_folder)) == 64
