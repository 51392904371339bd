"""Tuples of tensors: through one container and back, at one rate, and back from a folder."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import dtufc
from dtufc.coding import bitstream, container
from dtufc.coding.arrays import Array
from dtufc.coding.tuple_codec import TupleCodec
from dtufc.errors import BadMagic, Corrupt, InputError, ProfileMismatch
from tests.coding.test_axes import maps

SHAPES = ((8, 16, 12), (16, 8, 6), (24, 4, 3), (32, 2, 2))  # [C, h, w] of a pyramid


def pyramid(seed: int) -> list[Array]:
    return [maps(100 * seed + level, shape) for level, shape in enumerate(SHAPES)]


@pytest.fixture(scope="module")
def codec() -> TupleCodec:
    return dtufc.fit_tuple([pyramid(seed) for seed in range(6)], axes="CHW")


@pytest.fixture(scope="module")
def sent() -> list[Array]:
    return pyramid(50)


def errors(got: list[Array], sent: list[Array]) -> list[float]:
    pairs = zip(got, sent, strict=True)
    return [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs]


def test_a_pyramid_goes_through_one_file_and_back(codec: TupleCodec, sent: list[Array]) -> None:
    data = codec.encode(sent, quality=0.9)
    got = codec.decode(data)
    assert [one.shape for one in got] == list(SHAPES)
    assert max(errors(got, sent)) < 0.06
    for one, tensor in zip(codec.decode(codec.encode(sent, codec="raw")), sent, strict=True):
        np.testing.assert_array_equal(one, tensor)


def test_each_frame_is_the_one_of_its_own_codec_and_can_be_read_alone(codec: TupleCodec, sent: list[Array]) -> None:
    data = codec.encode(sent, quality=0.5)
    alone = [one.encode(tensor, quality=0.5) for one, tensor in zip(codec.codecs, sent, strict=True)]
    places = container.index(data)
    assert [data[place] for place in places] == alone
    assert len(data) == sum(map(len, alone)) + 12 + 8 * len(alone)
    np.testing.assert_array_equal(codec.codecs[2].decode(data[places[2]]), codec.decode(data)[2])


def test_types_may_differ_and_come_back(codec: TupleCodec, sent: list[Array]) -> None:
    dtypes = (np.float32, np.float16, ml_dtypes.bfloat16, np.float16)
    mixed = [tensor.astype(dtype) for tensor, dtype in zip(sent, dtypes, strict=True)]
    data = codec.encode(mixed)
    assert [one.dtype for one in codec.decode(data)] == [np.dtype(dtype) for dtype in dtypes]
    assert [str(one.dtype) for one in codec.decode_tensors(data)][2] == "torch.bfloat16"


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_byte_limit_is_of_all_tensors_and_is_used(codec: TupleCodec, sent: list[Array], share: float) -> None:
    smallest, largest = (len(codec.encode(sent, quality=quality)) for quality in (0.0, 1.0))
    limit = int(smallest + share * (largest - smallest))
    data = codec.encode(sent, max_bytes=limit)
    assert 0.9 * limit - 8 <= len(data) <= limit
    num_values = sum(tensor.size for tensor in sent)
    assert len(codec.encode(sent, target_bpfp=8 * limit / num_values)) <= limit
    with pytest.raises(InputError, match=f"smallest frame has {smallest}"):
        codec.encode(sent, max_bytes=smallest - 1)


def test_what_is_wrong_is_told_with_its_position(codec: TupleCodec, sent: list[Array]) -> None:
    with pytest.raises(InputError, match=r"tensors: 3 of them\. Give 4, one for each position"):
        codec.encode(sent[:3])
    with pytest.raises(InputError, match=r"tensors\[1\]: features: shape .* Give \[16, height, width\] \(axes CHW\)"):
        codec.encode([sent[0], sent[1][None], *sent[2:]])
    with pytest.raises(InputError, match=r"tensors\[0\]: codec: no codec zip"):
        codec.encode(sent, codec="zip")
    huge = [np.broadcast_to(np.float32(0), (8, 1 << 12, 1 << 13)), *sent[1:]]  # of one value in memory
    with pytest.raises(InputError, match=r"tensors\[0\]: features: 268435456 values\. Give at most 16777216"):
        codec.encode(huge)


def test_bytes_of_another_tuple_are_rejected_before_any_is_decoded(codec: TupleCodec, sent: list[Array]) -> None:
    data = codec.encode(sent)
    frames = [data[place] for place in container.index(data)]
    with pytest.raises(Corrupt, match="3 frames where 4 are expected"):
        codec.decode(container.pack(frames[:3]))
    with pytest.raises(ProfileMismatch):
        codec.decode(container.pack([frames[1], frames[0], *frames[2:]]))
    with pytest.raises(BadMagic):
        codec.decode(frames[0])
    with pytest.raises(BadMagic):
        codec.codecs[0].decode(data)


def test_it_is_kept_in_a_folder(codec: TupleCodec, sent: list[Array], tmp_path: Path) -> None:
    codec.save(tmp_path / "pyramid")
    loaded = dtufc.load_tuple(tmp_path / "pyramid")
    assert [one.profile.digest for one in loaded.codecs] == [one.profile.digest for one in codec.codecs]
    data = codec.encode(sent)
    for one, other in zip(loaded.decode(data), codec.decode(data), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match=r"Load it with dtufc\.load_tuple"):
        dtufc.load(tmp_path / "pyramid")


@pytest.mark.parametrize("text", ["", "{}", '{"positions": []}', '{"positions": ["../x"]}', '{"positions": [-1]}'])
def test_a_damaged_folder_is_rejected(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"tuple\.json cannot be read: No such file"):
        dtufc.load_tuple(tmp_path)
    (tmp_path / "tuple.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="is damaged"):
        dtufc.load_tuple(tmp_path)


def test_positions_alike_share_one_codec_where_the_caller_says_so(tmp_path: Path) -> None:
    def pair(seed: int) -> list[Array]:
        return [maps(seed, (8, 6, 6)), maps(seed + 100, (8, 5, 7)), maps(seed + 200, (12, 4, 4))]

    samples = [pair(seed) for seed in range(4)]
    codec = dtufc.fit_tuple(samples, axes=["CHW"] * 3, shared=True)
    assert codec.codecs[0] is codec.codecs[1] is not codec.codecs[2]
    codec.save(tmp_path)
    assert json.loads((tmp_path / "tuple.json").read_text(encoding="utf-8")) == {"positions": [0, 0, 1]}
    loaded = dtufc.load_tuple(tmp_path)
    assert loaded.codecs[0] is loaded.codecs[1]
    sent = pair(50)
    assert max(errors(loaded.decode(codec.encode(sent, quality=0.9)), sent)) < 0.06
    separate = dtufc.fit_tuple(samples, axes="CHW")
    assert len({one.profile.digest for one in separate.codecs}) == 3


def test_positions_have_axes_of_their_own() -> None:
    def sample(seed: int) -> list[Array]:
        return [maps(seed, (8, 6, 6)).transpose(1, 2, 0).copy(), maps(seed, (12, 5, 4)).reshape(12, 20)]

    codec = dtufc.fit_tuple([sample(seed) for seed in range(4)], axes=["HWC", "CT"])
    sent = sample(50)
    assert max(errors(codec.decode(codec.encode(sent, quality=0.9)), sent)) < 0.06


def test_a_codec_of_any_layouts_is_made_from_codecs() -> None:
    rng = np.random.default_rng(0)
    tokens = [rng.standard_normal((17, 12)).astype(np.float32) for _ in range(4)]
    latents = [maps(seed, (4, 6, 6)) for seed in range(4)]
    codec = TupleCodec([dtufc.fit(tokens, layout="vit", prefix=1), dtufc.fit(latents, layout="latent")])
    got = codec.decode(codec.encode([tokens[0], latents[0]], quality=0.9))
    assert [one.shape for one in got] == [(17, 12), (4, 6, 6)]


def test_samples_that_are_no_tuples_of_one_length_are_rejected() -> None:
    one = maps(0, (8, 6, 6))
    with pytest.raises(InputError, match=r"none were given\. Give about ten tuples of one length"):
        dtufc.fit_tuple([], axes="CHW")
    with pytest.raises(InputError, match="tuples of 1 and 2 tensors"):
        dtufc.fit_tuple([[one], [one, one]], axes="CHW")
    with pytest.raises(InputError, match=r"axes: 1 for 2 tensors\. Give one for all, or 2"):
        dtufc.fit_tuple([[one, one]], axes=["CHW"])
    with pytest.raises(InputError, match=r"samples\[\.\.\]\[1\]: axes: 'HTC' has no W"):
        dtufc.fit_tuple([[one, one]], axes=["CHW", "HTC"], shared=True)
    with pytest.raises(InputError, match=r"samples\[\.\.\]\[1\]: features: shape \(6, 6\) does not fit"):
        dtufc.fit_tuple([[one, one[0]]], axes="CHW")


def test_learned_codecs_are_fitted_where_the_caller_says_so(codec: TupleCodec) -> None:
    samples = [[maps(seed, (8, 6, 6))] for seed in range(3)]
    learned = dtufc.fit_tuple(samples, axes="CHW", learned=True)
    assert learned.codecs[0].codecs == ["raw", "levels", "klt", "hyperprior", "elic", "kltprior"]
    limit = 200
    for name in ("klt", "hyperprior"):
        data = learned.encode(samples[0], codec=name, max_bytes=limit)
        assert 0.5 * limit < len(data) <= limit
    assert codec.codecs[0].codecs == ["raw", "levels", "klt"]


def test_the_work_of_a_fit_is_told_as_it_goes() -> None:
    shares: list[float] = []
    dtufc.fit_tuple([[maps(seed, (8, 4, 4))] * 2 for seed in range(3)], axes="CHW", progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert any(0.45 < share <= 0.5 for share in shares)


def test_frames_keep_their_checksums_within_the_container(codec: TupleCodec, sent: list[Array]) -> None:
    data = bytearray(codec.encode(sent))
    place = container.index(bytes(data))[1]
    data[place.start + 20] ^= 1
    with pytest.raises(Corrupt, match="checksum differs"):
        codec.decode(bytes(data))
    assert bitstream.parse(bytes(data[container.index(bytes(data))[0]])).shape == SHAPES[0]
