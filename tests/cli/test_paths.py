"""Paths as people give them to `dtufc encode`, `decode`, `inspect` and `fit`: an error is one line, at once."""

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

import dtufc
from dtufc.cli import app
from tests.odd_files import device, fifo, loop


def run(*arguments: str | Path) -> str:
    """What a command prints that succeeds."""
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def error_of(*arguments: str | Path) -> str:
    """The one line of a command that fails."""
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 1
    *progress, line = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert not progress or arguments[0] == "fit"
    return line


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    rng = np.random.default_rng(0)
    samples = [rng.standard_normal((40, 24)).astype(np.float32) for _ in range(4)]
    dtufc.fit(samples, name="mine", learned=False).save(folder)
    np.save(folder / "a.npy", samples[0])
    (folder / "a.dtufc").write_bytes(dtufc.load(folder).encode(samples[0]))
    return folder


def empty(path: Path) -> None:
    path.touch()


def missing(path: Path) -> None:
    pass


def large(path: Path) -> None:
    """A file of a gigabyte, which takes no place."""
    path.touch()
    os.truncate(path, 1 << 30)


def claiming(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((4, 24), np.float32))
    path.write_bytes(path.read_bytes().replace(b"(4, 24), }" + b" " * 11, b"(1000000000000, 24), }"))


def archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros((4, 24), np.float32))


def pickled(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([{}], object), allow_pickle=True)


OF_FILES: list[tuple[Callable[[Path], None], str]] = [
    (empty, "no .npy file"), (Path.mkdir, "no regular file"), (fifo, "no regular file"), (loop, "cannot be read"),
    (device, "no regular file"), (missing, "No such file"), (large, "has more than"),
    (claiming, "shape (1000000000000, 24)"), (archive, "archive"), (pickled, "Python objects"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "says"), OF_FILES, ids=[make.__name__ for make, _ in OF_FILES])
def test_features_that_cannot_be_read_are_one_line(
    make: Callable[[Path], None], says: str, profile: Path, tmp_path: Path
) -> None:
    path = tmp_path / "b.npy"
    make(path)
    for command in (("encode", path, "-o", tmp_path / "o", "--profile", profile), ("fit", tmp_path / "new", path)):
        line = error_of(*command)
        assert str(path) in line
        assert says in line
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("make", [make for make, _ in OF_FILES])
def test_a_frame_that_cannot_be_read_is_one_line(make: Callable[[Path], None], profile: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.dtufc"
    make(path)
    assert "frame" in error_of("inspect", path)
    assert "frame" in error_of("decode", path, "-o", tmp_path / "o.npy", "--profile", profile)


def test_features_that_numpy_saved_in_bfloat16_are_encoded_as_they_are(profile: Path, tmp_path: Path) -> None:
    sent = np.load(profile / "a.npy").astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "b.npy", sent)
    assert np.load(tmp_path / "b.npy").dtype == "V2"
    run("encode", tmp_path / "b.npy", "-o", tmp_path / "o", "--profile", profile, "--codec", "raw")
    got = dtufc.load(profile).decode((tmp_path / "o").read_bytes())
    assert got.dtype == sent.dtype
    np.testing.assert_array_equal(got, sent)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process can grow beyond some bytes."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("output", ["folder", "nowhere/o", "x" * 300, "/dev/full", "a.npy/o"])
def test_an_output_that_cannot_be_written_is_one_line(output: str, profile: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "a.npy", np.zeros(1))
    for command, source in (("encode", "a.npy"), ("decode", "a.dtufc")):
        line = error_of(command, profile / source, "-o", tmp_path / output, "--profile", profile)
        assert "Choose a path that can be written" in line


def test_a_disk_that_is_full_is_one_line(profile: Path, tmp_path: Path) -> None:
    with full_disk():
        for command, source in (("encode", "a.npy"), ("decode", "a.dtufc")):
            assert "File too large" in error_of(command, profile / source, "-o", tmp_path / "o", "--profile", profile)
        assert "File too large" in error_of("fit", profile, profile / "a.npy", "-o", tmp_path / "new")


@pytest.mark.parametrize("name", ["x" * 300, "", "a\nb", "../nowhere", "\udcff"])
def test_a_profile_that_is_not_there_is_one_line(name: str, profile: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        line = error_of("encode", profile / "a.npy", "-o", tmp_path / "o", "--profile", name)
    assert "Name one of dinov2-small" in line
