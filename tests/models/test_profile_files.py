"""A profile's files as somebody may have left them: read or rejected in one line, and never more than they hold."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dtufc
from dtufc.coding.arrays import Array
from dtufc.coding.evaluation import Sample, evaluate
from dtufc.errors import InputError
from tests.odd_files import device, fifo, loop

GOOD = "name: mine\nlayout:\n  family: llm\n  channels: 24\ncalibrations:\n  0: split0.safetensors\n"
LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdef", "bcdefg", strict=True))
MERGES = "a: &a {x: 1}\n" + "".join(f"{b}: &{b}\n  <<: [*{a}, *{a}]\n" for a, b in zip("abcdef", "bcdefg", strict=True))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "name: Field required"),
        (b"- a\n- b\n", "no mapping of names"),
        (b"a: " + 10_000 * b"[", "nested too deeply"),
        (3000 * b"{a: ", "nested too deeply"),
        (b"\n".join(b" " * n + b"a:" for n in range(300)), "nested too deeply|valid|Extra"),
        (LAUGHS.encode(), "an anchor, an alias or a tag"),
        (MERGES.encode(), "an anchor, an alias or a tag"),
        (GOOD.encode() + b"name: other\n", "the key 'name' twice"),
        (GOOD.replace("channels: 24", "channels: 24\n  channels: 25").encode(), "the key 'channels' twice"),
        (b"name: mine\n\tlayout: x\n", "cannot start any token"),
        (b"name: mi\0ne\n", "special characters"),
        (b"name: \xff\xfe\n", "codec can't decode"),
        (b"name: !!int ''\n", "a tag"),
        (b"name: !!python/object:os.system x\n", "a tag"),
        (b"split: 2024-99-99\n", "month"),
        (b"split: " + 5000 * b"9", "digits"),
        (b"#" * (1 << 20), "has more than 0.0625 MiB"),
        (GOOD.replace("mine", "x" * 300).encode(), "name: "),
        (GOOD.replace("mine", "../mine").encode(), "name: "),
        (GOOD.replace("mine", '"mi\\nne"').encode(), "name: "),
        (GOOD.replace("mine", '""').encode(), "name: "),
        (GOOD.replace("split0.safetensors", "/dev/zero").encode(), "calibrations.0: "),
        (GOOD.replace("split0.safetensors", "../split0.safetensors").encode(), "calibrations.0: "),
        (GOOD.replace("split0.safetensors", "x" * 300).encode(), "calibrations.0: "),
        (GOOD.encode(), "split0.safetensors cannot be read: No such file"),
    ],
)
def test_a_profile_that_says_nothing_sound_is_rejected_at_once(content: bytes, match: str, tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_bytes(content)
    start = time.process_time()
    with pytest.raises(InputError, match=f"profile: .*({match})") as error:
        dtufc.load(tmp_path)
    assert "\n" not in str(error.value)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("make", [Path.mkdir, fifo, loop, device])
@pytest.mark.parametrize("name", ["profile.yaml", "split0.safetensors"])
def test_what_is_no_file_in_its_place_is_rejected_at_once(
    make: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    (tmp_path / "profile.yaml").write_text(GOOD, encoding="utf-8")
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    with pytest.raises(InputError, match=f"profile: .*{name} (is no regular file|cannot be read)"):
        dtufc.load(tmp_path)


@pytest.mark.parametrize("name", ["", "x" * 300, "../nowhere", "a\nb", "a\0b", "\ud800", "/dev/null", "a/b/c"])
def test_a_name_of_no_profile_is_rejected_with_the_names_there_are(name: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for load in (dtufc.load, dtufc.load_tuple):
            with pytest.raises(InputError, match=r"profile: .* Name (one of dinov2-small|a folder)") as error:
                load(name)
            str(error.value).encode()
            assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((24, 24))
    samples = [(rng.standard_normal((200, 24)) @ mixing).astype(np.float32) for _ in range(4)]
    dtufc.fit(samples, learned=False).save(folder)
    return folder


def zeros(array: Array) -> Array:
    return np.zeros_like(array)


def of_nan(array: Array) -> Array:
    return np.full_like(array, np.nan)


def shorter(array: Array) -> Array:
    return array[:-1].copy()


@pytest.mark.parametrize(
    ("name", "change", "codec"),
    [
        ("klt.basis", zeros, "klt"),
        ("klt.basis", shorter, "klt"),
        ("klt.scale", zeros, "klt"),
        ("klt.scale", of_nan, "klt"),
        ("klt.scale", lambda array: np.full_like(array, 1e-320), "klt"),
        ("klt.mean", of_nan, "klt"),
        ("klt.head_scale", zeros, "klt"),
        ("klt.reference_rms", zeros, "klt"),
        ("klt.frequencies", zeros, "klt"),
        ("klt.gain", of_nan, "klt"),
        ("levels.centroids", of_nan, "levels"),
        ("levels.centroids", shorter, "levels"),
        ("levels.frequencies", zeros, "levels"),
        ("levels.frequencies", shorter, "levels"),
    ],
)
def test_a_table_that_is_damaged_is_an_error_of_one_line(
    name: str, change: Callable[[Array], Array], codec: str, saved: Path, tmp_path: Path
) -> None:
    tables = load_file(saved / "split0.safetensors")
    save_file({**tables, name: change(tables[name])}, tmp_path / "split0.safetensors")
    (tmp_path / "profile.yaml").write_bytes((saved / "profile.yaml").read_bytes())
    with pytest.raises(InputError, match=r"^(profile|tables|centroids|features): "):
        dtufc.load(tmp_path).encode(np.ones((4, 24), np.float32), codec=codec)


def test_damaged_lengths_of_a_fit_are_an_error_of_one_line(saved: Path, tmp_path: Path) -> None:
    tables = load_file(saved / "split0.safetensors")
    save_file({**tables, "fit.tokens": np.zeros(1, np.int32)}, tmp_path / "split0.safetensors")
    (tmp_path / "profile.yaml").write_bytes((saved / "profile.yaml").read_bytes())
    sample = Sample(features=np.ones((4, 24), np.float32), judge=lambda decoded: {})
    with pytest.raises(InputError, match=r"profile: the array fit\.tokens is damaged"):
        evaluate(dtufc.load(tmp_path), [sample])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (1 << 60).to_bytes(8, "little") + b"{}",
        (3000).to_bytes(8, "little") + 3000 * b"[",
    ],
)  # fmt: skip
def test_a_file_of_tables_that_is_none_is_rejected(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text(GOOD, encoding="utf-8")
    (tmp_path / "split0.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"profile: .*split0\.safetensors: "):
        dtufc.load(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "shape", "says"),
    [("BF16", "[1]", "'BF16'"), ("F64", "[1000000000000]", "invalid|too small|incomplete|offset")],
)
def test_a_table_of_a_type_or_a_size_that_cannot_be_is_rejected(
    dtype: str, shape: str, says: str, tmp_path: Path
) -> None:
    header = f'{{"klt.mean":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,2]}}}}'.encode()
    (tmp_path / "profile.yaml").write_text(GOOD, encoding="utf-8")
    (tmp_path / "split0.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(InputError, match=f"profile: .*split0.safetensors: .*({says})"):
        dtufc.load(tmp_path)
