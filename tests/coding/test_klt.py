"""`klt` on features wider than their samples: directions or channels, blocks, focus rows; and damaged profiles."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dtufc
from dtufc.coding import bitstream
from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import write_varint
from dtufc.coding.codecs import Payload
from dtufc.coding.codecs.klt import KltCodec
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.coding.features import to_dtype
from dtufc.errors import BitstreamError, Corrupt, Desync, InputError
from dtufc.models.profile import Profile
from tests.coding import contract, reference_klt

PROFILES = {kind: contract.wide_profile(kind) for kind in contract.WIDE}
FLOAT32 = np.dtype(np.float32)


def sent(num_rows: int, seed: int = 30) -> Array:
    """With a value in one channel alone: at coarse steps, a sparse residual."""
    rows = contract.wide(seed, num_rows)
    rows[num_rows // 2, 7] += 15
    return rows


def errors(got: Array, expected: Array) -> Array:
    """Of each row, relative to its size."""
    size = np.linalg.norm(expected, axis=1)
    relative: Array = np.linalg.norm(got.astype(np.float64) - expected, axis=1) / size
    return relative


def assert_the_reference_agrees(profile: Profile, data: bytes) -> None:
    frame, layout = bitstream.parse(data), profile.layout
    rows = to_dtype(reference_klt.decode_klt(frame, profile), FLOAT32)
    expected = layout.from_rows(rows.reshape(layout.rows_shape(frame.shape)), frame.shape)
    assert FeatureCodec(profile).decode_frame(frame).tobytes() == expected.tobytes()


@pytest.mark.parametrize(("kind", "largest"), [("directions", 0.35), ("channels", 0.01)])  # gradients see no noise
def test_every_number_of_tokens_comes_back(kind: str, largest: float) -> None:
    codec = FeatureCodec(PROFILES[kind])
    for num_tokens in range(1, 41):
        features = sent(num_tokens)
        assert errors(codec.decode(codec.encode(features, quality=1.0)), features).max() < largest, num_tokens


@pytest.mark.parametrize("quality", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("num_tokens", "focus"), [(1, [0]), (2, [0, 1]), (15, []), (37, [36, 5, 0]), (48, [0, 47])])
@pytest.mark.parametrize("kind", ["directions", "channels"])
def test_a_decoder_written_from_the_specification_agrees(
    kind: str, num_tokens: int, focus: list[int], quality: float
) -> None:
    features = sent(num_tokens) if num_tokens > 2 else sent(3)[1:][:num_tokens]  # of two rows, none is an outlier
    data = FeatureCodec(PROFILES[kind]).encode(features, codec="klt", quality=quality, focus=focus)
    assert_the_reference_agrees(PROFILES[kind], data)


@pytest.mark.parametrize("quality", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("num_tokens", [2, 11, 17])
def test_it_agrees_on_tokens_of_images(num_tokens: int, quality: float) -> None:
    features = np.stack([sent(num_tokens, seed) for seed in range(2)])
    assert_the_reference_agrees(PROFILES["grid"], FeatureCodec(PROFILES["grid"]).encode(features, quality=quality))


def test_it_agrees_where_blocks_go_through_images_and_grids_have_focus_rows() -> None:
    """The fit makes blocks for text alone; the format has them for all layouts."""
    layout = PROFILES["grid"].spec
    profile = Profile(spec=layout, split=0, calibration=PROFILES["directions"].calibration)
    for num_tokens in (11, 17):
        features = np.stack([sent(num_tokens, seed) for seed in range(3)])
        assert_the_reference_agrees(
            profile, FeatureCodec(profile).encode(features, codec="klt", quality=0.6, focus=[6, 12])
        )


def test_it_agrees_where_zeros_have_a_sign() -> None:
    """Of the means, and of what a head rounds to zero."""
    calibration = dict(PROFILES["directions"].calibration)
    rank, channels = calibration["klt.reflections"].shape
    calibration["klt.basis"] = np.where(np.eye(rank), 32767, -1).astype(np.int16)
    calibration["klt.reflections"] = 127 * np.eye(rank, channels, rank, np.int8)
    calibration |= {name: np.full(channels, -0.0) for name in ("klt.mean", "klt.centre")}
    profile = replace(PROFILES["directions"], calibration=calibration)
    assert_the_reference_agrees(profile, FeatureCodec(profile).encode(sent(37), quality=0.3))


def test_a_focus_row_is_coded_finer_and_costs_bytes() -> None:
    codec, features = FeatureCodec(PROFILES["directions"]), sent(37)
    plain, focused = (codec.encode(features, quality=0.7, focus=focus) for focus in ([], [36]))
    assert len(plain) < len(focused) < len(plain) * 1.3
    before, after = (errors(codec.decode(data), features) for data in (plain, focused))
    assert after[36] < before[36] / 1.5  # and less in the directions that count


def test_an_outlier_row_stays_one_where_it_is_in_focus() -> None:
    codec, features = FeatureCodec(PROFILES["directions"]), sent(20)
    assert codec.encode(features, quality=0.5, focus=[0]) == codec.encode(features, quality=0.5)


def test_without_blocks_there_are_no_focus_rows() -> None:
    codec, features = FeatureCodec(PROFILES["grid"]), sent(17)
    assert codec.encode(features, quality=0.5, focus=[16]) == codec.encode(features, quality=0.5)


def with_one_listed_row(gain_index: int) -> Payload:
    """A payload that lists row 1, and whose symbols are all of entry 0."""
    return Payload(data=write_varint(1024) + bytes([1, 1]) + write_varint(gain_index) + bytes([0, 0]), symbol_crc=0)


@pytest.mark.parametrize(("kind", "highest"), [("directions", 768), ("channels", 768), ("grid", 511)])
def test_a_gain_index_above_the_highest_is_corrupt(kind: str, highest: int) -> None:
    codec = FeatureCodec(PROFILES[kind])._codec("klt")
    assert isinstance(codec, KltCodec)
    data = with_one_listed_row(highest).data
    partition, _ = codec.transform.read_partition(data, 2, (17, contract.WIDE_CHANNELS))
    assert partition.gains.tolist() == [highest]
    with pytest.raises(Corrupt, match="outlier row"):
        codec.decode(with_one_listed_row(highest + 1), (17, contract.WIDE_CHANNELS), FLOAT32)


def test_kltprior_has_no_focus_rows() -> None:
    codec = FeatureCodec(PROFILES["directions"])._codec("klt")
    assert isinstance(codec, KltCodec)
    with pytest.raises(Corrupt, match="outlier row"):
        codec.transform.read_partition(with_one_listed_row(512).data, 2, (17, contract.WIDE_CHANNELS), in_blocks=False)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_forged_payload_gives_an_error_of_ours_and_nothing_else(changes: list[tuple[int, int]]) -> None:
    codec = FeatureCodec(PROFILES["directions"])
    frame = bitstream.parse(codec.encode(sent(20), quality=0.3, focus=[5, 19]))
    payload = bytearray(frame.payload)
    for at, value in changes:
        payload[at % len(payload)] = value
    forged = Payload(data=bytes(payload), symbol_crc=frame.symbol_crc)
    try:
        got = codec._codec("klt").decode(forged, frame.shape, FLOAT32)
    except (BitstreamError, Desync):
        return
    assert np.isfinite(got).all()


@pytest.mark.parametrize("kind", PROFILES)
def test_huge_features_are_kept_or_rejected(kind: str) -> None:
    codec, rejected = FeatureCodec(PROFILES[kind]), []
    for power in range(4, 35, 3):
        features = sent(17) * np.float32(10.0**power)
        try:
            data = codec.encode(features, quality=1.0)
        except InputError as error:
            rejected.append(str(error))
            continue
        assert errors(codec.decode(data), features.astype(np.float64)).max() < 0.05, power
    assert rejected
    assert all("out of the range" in text for text in rejected)


def changed(array: Array, at: object, value: object) -> Array:
    copy = array.copy()
    copy[at] = value
    return copy


DAMAGE: Mapping[str, tuple[str, Callable[[Array], Array]]] = {
    "order repeats a channel": ("order", lambda a: changed(a, 0, a[1])),
    "order leaves the channels": ("order", lambda a: changed(a, a.argmax(), len(a))),
    "order of another type": ("order", lambda a: a.astype(np.int64)),
    "a reflection of zeros": ("reflections", lambda a: changed(a, 3, 0)),
    "a reflection too few": ("reflections", lambda a: a[1:]),
    "a head that is not square": ("basis", lambda a: a[1:]),
    "a head of another rank": ("basis", lambda a: a[1:, 1:]),
    "a whole basis, and reflections": ("basis", lambda a: np.eye(contract.WIDE_CHANNELS, dtype=np.int16)),
    "a scalar": ("basis", lambda a: a[0, 0]),
    "a head scale beyond the exact range": ("head_scale", lambda a: a * 2.0**18),
    "a huge head scale": ("head_scale", lambda a: np.array([1e308])),
    "a head scale of zero": ("head_scale", lambda a: a * 0),
    "a negative head scale": ("head_scale", lambda a: -a),
    "a head scale that is no number": ("head_scale", lambda a: a * np.nan),
    "two head scales": ("head_scale", lambda a: np.repeat(a, 2)),
    "a block of 12": ("block", lambda a: a * 0 + 12),
    "a negative block": ("block", lambda a: -a),
    "a block of another length": ("block", lambda a: a * 2),
    "no block, and no edges": ("block", lambda a: a * 0),
    "a block that is no number": ("block", lambda a: a * np.nan),
    "no length of a block": ("block", lambda a: a[:0]),
    "edges beside blocks": ("edges", lambda a: np.ones(29)),
    "gains of two columns": ("gain", lambda a: np.repeat(a, 2, axis=1)),
    "too few gains": ("gain", lambda a: a[1:]),
    "a gain of zero": ("gain", lambda a: changed(a, 5, 0)),
    "scales of another number of channels": ("log_sigma", lambda a: a[:, 1:]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_arrays_are_rejected(damage: str) -> None:
    profile = PROFILES["directions"]
    name, apply = DAMAGE[damage]
    arrays = profile.of_codec("klt")
    assert KltCodec.from_arrays(arrays, profile.layout)
    with pytest.raises(InputError, match="the arrays of klt are damaged"):
        KltCodec.from_arrays({**arrays, name: np.asarray(apply(arrays[name]))}, profile.layout)


def test_blocks_of_one_row_are_damage() -> None:
    """They would leave a grid without a band."""
    profile = PROFILES["directions"]
    arrays = profile.of_codec("klt")
    arrays |= {"block": np.ones(1, np.int32), "gain": arrays["gain"][:2], "log_sigma": arrays["log_sigma"][:2]}
    with pytest.raises(InputError, match="the arrays of klt are damaged"):
        KltCodec.from_arrays(arrays, profile.layout)


@pytest.mark.parametrize("basis", [np.int16(0), np.zeros(48, np.int16), np.zeros((48, 47), np.int16)])
def test_damage_of_an_earlier_release_is_damage(basis: Array) -> None:
    profile = PROFILES["grid"]
    arrays = {**profile.of_codec("klt"), "basis": np.asarray(basis)}
    for name in ("head_scale", "reflections", "order", "block"):
        del arrays[name]
    assert KltCodec.from_arrays({**arrays, "basis": np.eye(48, dtype=np.int16)}, profile.layout)
    with pytest.raises(InputError, match="the arrays of klt are damaged"):
        KltCodec.from_arrays(arrays, profile.layout)


@pytest.mark.parametrize("name", sorted(PROFILES["directions"].of_codec("klt")))
def test_a_missing_array_is_damage(name: str) -> None:
    profile = PROFILES["directions"]
    arrays = {key: array for key, array in profile.of_codec("klt").items() if key != name}
    with pytest.raises(InputError, match="the arrays of klt are damaged"):
        KltCodec.from_arrays(arrays, profile.layout)


def test_a_row_in_focus_is_kept_better_than_the_others_and_a_row_that_is_not_there_is_rejected() -> None:
    samples = [np.random.default_rng(seed).standard_normal((40, 48)).astype(np.float32) for seed in range(6)]
    codec = dtufc.fit(samples)
    features = np.random.default_rng(9).standard_normal((40, 48)).astype(np.float32)
    errors = np.mean((codec.decode(codec.encode(features, quality=0.4, focus=[-1, 3])) - features) ** 2, axis=-1)
    assert max(errors[3], errors[-1]) < 0.1 * np.median(errors)
    for row in (40, -41):
        with pytest.raises(InputError, match="focus"):
            codec.encode(features, focus=[row])
