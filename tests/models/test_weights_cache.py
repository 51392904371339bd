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
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from dtufc.cli import app
from dtufc.errors import InputError
from dtufc.models.cache import MANIFEST, build, discard_damaged, is_whole, require_space
from dtufc.models.fingerprint import file_sha256, fingerprint
from dtufc.models.profile import FolderSource, ProfileSpec, load_profile
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


OF_TEXT = {"files": {"sub/text": 5}, "sha256": {"sub/text": hashlib.sha256(b"whole").hexdigest()}}


def never(partial: Path) -> None:
    raise AssertionError("made a folder that was there")


def test_a_folder_is_made_once_and_has_a_manifest_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "x"
    build(folder, make_text)
    assert json.loads((folder / MANIFEST).read_text(encoding="utf-8")) == OF_TEXT
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


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(("umask", "files", "folders"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750)])
def test_what_is_made_is_readable_as_the_umask_says_whoever_wrote_it(
    tmp_path: Path, umask: int, files: int, folders: int
) -> None:
    def make(partial: Path) -> None:
        (partial / "head").mkdir(mode=0o700)
        save_file({"w": torch.zeros(3)}, partial / "head" / "w.safetensors")  # for its owner alone, as is its way

    before = os.umask(umask)
    try:
        build(tmp_path / "models" / "x", make)
    finally:
        os.umask(before)
    folder = tmp_path / "models" / "x"
    assert {mode(path) for path in folder.rglob("*") if path.is_file()} == {files}
    assert {mode(folder), mode(folder / "head")} == {folders}


AS_ANOTHER_USER = """
import os, sys
from pathlib import Path
from dtufc.errors import InputError
from dtufc.models.profile import ProfileSpec
from dtufc.models.zoo import is_fetched, weights_folder
if os.getuid() == 0:
    os.setuid(65534)
for text in sys.argv[1:]:
    spec = ProfileSpec.model_validate_json(text)
    try:
        weights_folder(spec)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
    try:
        is_fetched(spec)
    except InputError as error:
        assert "cannot be read" in str(error)
"""


@pytest.fixture
def open_path(tmp_path: Path) -> Iterator[Path]:
    """A folder that every user may enter; those of pytest are for its user alone."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    yield tmp_path
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o700)


def packaged(name: str = "tiny") -> ProfileSpec:
    source = {"package": name, "version": "1", "member": "w.pth", "size_mb": 1, "licence": "MIT", "sha256": "0" * 64}
    spec = {"name": name, "family": "decoder", "layout": {"family": "llm"}, "split": 1, "source": source}
    return ProfileSpec.model_validate(spec)


def in_folder(folder: Path) -> ProfileSpec:
    return packaged().model_copy(update={"source": FolderSource(folder=folder)})


def test_weights_that_this_user_may_not_read_are_named_with_what_to_do_and_not_fetched_anew(open_path: Path) -> None:
    cache, model = open_path / "cache", open_path / "model"
    build(cache / "models" / "tiny-000000000000-1", make_text)
    build(cache / "packages" / "other-1", lambda partial: (partial / "other.whl").touch())
    (open_path / "gguf").mkdir()
    (open_path / "gguf" / "tiny.gguf").write_bytes(b"GGUF")
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    save_file({"w": torch.zeros(3)}, model / "model.safetensors")
    hidden = {
        cache / "models" / "tiny-000000000000-1" / "sub" / "text": packaged(),
        cache / "packages" / "other-1" / "other.whl": packaged("other"),
        open_path / "gguf" / "tiny.gguf": in_folder(open_path / "gguf"),
        model / "model.safetensors": in_folder(model),
    }
    for path in hidden:
        path.chmod(0o600 if os.getuid() == 0 else 0)
    command = [sys.executable, "-c", AS_ANOTHER_USER, *(spec.model_dump_json() for spec in hidden.values())]
    env = {**os.environ, "DTUFC_CACHE": str(cache)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    remedy = "Let this user read it: chmod -R a+rX"
    told = [f"error: weights: {p} cannot be read: permission denied. {remedy} {p.parent}." for p in hidden]
    assert done.stderr.splitlines() == told
    assert done.returncode == 0
    assert all(path.is_file() for path in hidden)


@pytest.mark.parametrize("damage", ["flipped bit", "same size"])
def test_damage_that_leaves_the_size_is_found_where_the_folder_is_read(
    tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models" / "x"
    build(folder, make_text)
    discard_damaged(folder)
    assert is_whole(folder)
    if damage == "flipped bit":
        flip(folder / "sub" / "text", 2)
    else:
        (folder / "sub" / "text").write_text("WHOLE", encoding="utf-8")
    assert is_whole(folder)  # a start of a service reads nothing
    discard_damaged(folder)
    assert not is_whole(folder)
    assert capfd.readouterr().err == f"{folder}: damaged: sub/text. It is made anew.\n"
    build(folder, make_text)
    assert (folder / "sub" / "text").read_text(encoding="utf-8") == "whole"


def test_a_folder_of_an_older_release_stays_as_it_is_and_gets_its_sha256_where_it_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "x"
    build(folder, make_text)
    written = (folder / "sub" / "text").stat().st_mtime_ns
    (folder / MANIFEST).write_text('{"files": {"sub/text": 5}}', encoding="utf-8")
    assert is_whole(folder)
    build(folder, never)
    discard_damaged(folder)
    assert json.loads((folder / MANIFEST).read_text(encoding="utf-8")) == OF_TEXT
    assert (folder / "sub" / "text").stat().st_mtime_ns == written
    flip(folder / "sub" / "text", 2)
    discard_damaged(folder)
    assert not is_whole(folder)


def test_fetch_finds_damaged_weights_and_makes_them_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec: ProfileSpec = load_profile("efficientnet-lite0").spec
    kept = weights_folder(spec)
    monkeypatch.setenv("DTUFC_CACHE", str(tmp_path))
    (tmp_path / "packages").symlink_to(kept.parent.parent / "packages")
    weights = weights_folder(spec) / "model.safetensors"
    before = weights.read_bytes()
    flip(weights, 1_000_000)
    assert weights_folder(spec) == weights.parent  # as a service starts
    done = CliRunner().invoke(app, ["fetch", "efficientnet-lite0"])
    assert done.exit_code == 0, done.output
    assert f"{weights.parent}: damaged: model.safetensors. It is made anew." in done.stderr
    assert weights.read_bytes() == before


MAKES = """
import sys, time
from pathlib import Path
from dtufc.models.cache import build
place = Path(sys.argv[1])
def make(partial):
    with (place / "makes").open("a") as made:
        made.write("once;")
    while not (place / "go").exists():
        time.sleep(0.01)
    (partial / "text").write_text("whole")
build(place / "models" / "x", make)
"""


def test_of_two_processes_one_makes_the_folder_and_the_other_waits_and_says_so(tmp_path: Path) -> None:
    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen([sys.executable, "-c", MAKES, str(tmp_path)], stderr=subprocess.PIPE, text=True)

    with start() as first:
        while not (tmp_path / "makes").exists():
            assert first.poll() is None
            time.sleep(0.01)
        with start() as second:
            assert second.stderr is not None
            expected = f"waiting for another process, which makes {tmp_path / 'models' / 'x'}\n"
            assert second.stderr.readline() == expected
            (tmp_path / "go").touch()
            assert (first.wait(30), second.wait(30)) == (0, 0)
    assert (tmp_path / "makes").read_text(encoding="utf-8") == "once;"
    assert is_whole(tmp_path / "models" / "x")


def test_the_next_start_removes_what_killed_processes_left_under_any_name(cache: Path, model_folder: Path) -> None:
    for place in ("models/x-1", "packages/x-1.0"):
        subprocess.run([sys.executable, "-c", KILLED, str(cache / place)], check=False)
    busy = cache / "models" / ".y.scratch"
    busy.mkdir()
    assert len(list(cache.glob("*/.*.scratch"))) == 3
    with (cache / "models" / ".y.lock").open("w") as lock:
        flock(lock, LOCK_EX)  # a process that is making it
        weights_folder(in_folder(model_folder))
        assert list(cache.glob("*/.*.scratch")) == [busy]
    weights_folder(in_folder(model_folder))
    assert list(cache.glob("*/.*.scratch")) == []


TOO_LONG = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
"""


@pytest.mark.parametrize("writer", ["Python", "safetensors"])
def test_a_file_that_is_too_long_for_the_file_system_is_an_input_error(tmp_path: Path, writer: str) -> None:
    text = TOO_LONG + FULL
    if writer == "Python":
        text = text.replace("save_file(", "(lambda _, path: path.write_bytes(bytes(1 << 20)))(")
    done = subprocess.run([sys.executable, "-c", text, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "error: cache: " in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".x.lock"]


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_pickle_that_was_cut_short_is_named(cache: Path, tmp_path: Path, size: int) -> None:
    model = tmp_path / "pickled"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    torch.save({"w": torch.zeros(100)}, model / "pytorch_model.bin")
    spec = in_folder(model)
    assert weights_folder(spec) == model
    (model / "pytorch_model.bin").write_bytes((model / "pytorch_model.bin").read_bytes()[:size])
    with pytest.raises(InputError, match=r"pytorch_model.bin has \d+ bytes and is cut short"):
        weights_folder(spec)
