"""Axes by name: any order of memory, one cost; and an error that names the layout that would fit."""

from itertools import permutations
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dtufc
from dtufc.coding import bitstream
from dtufc.coding.arrays import Array
from dtufc.coding.codecs.klt import KltCodec
from dtufc.coding.layout import Family, Layout
from dtufc.errors import BitstreamError, InputError
from dtufc.models.profile import LayoutSpec, Profile, ProfileSpec, load_profile
from tests.coding.contract import DTYPES, features

ORDERS = sorted(
    "".join(order) for letters in ("CT", "CTN", "CTNB", "CHW", "CHWN", "CHWT") for order in permutations(letters)
)


def maps(seed: int, shape: tuple[int, ...] = (24, 6, 6)) -> Array:
    """[..., C, h, w] of smooth maps, whose channels go together."""
    rng = np.random.default_rng(seed)
    channels = shape[-3]
    mixing = np.random.default_rng(99).standard_normal((channels, channels)) * np.geomspace(2, 0.05, channels)
    smooth = np.cumsum(np.cumsum(rng.standard_normal(shape), axis=-1), axis=-2) * 0.2
    return np.einsum("kc,...chw->...khw", mixing, smooth).astype(np.float32)


@given(st.sampled_from(ORDERS), st.data())
def test_every_order_round_trips_through_both_views(axes: str, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.integers(1, 5)) for _ in axes)
    layout = Layout.of_axes(axes, channels=shape[axes.index("C")])
    sent = np.arange(prod(shape), dtype=np.float32).reshape(shape)
    rows = layout.to_rows(sent)
    assert rows.shape == layout.rows_shape(shape)
    np.testing.assert_array_equal(layout.from_rows(rows, shape), sent)
    plane = layout.to_plane(sent)
    assert plane.shape == layout.plane_shape(shape)
    back = layout.from_plane(plane, shape)
    np.testing.assert_array_equal(back, sent)
    assert back.flags.c_contiguous
    layout.check(layout.cropped(sent, 8).shape)


@pytest.mark.parametrize("axes", ORDERS)
def test_the_order_of_memory_changes_neither_rows_nor_plane(axes: str) -> None:
    sizes = {"B": 2, "N": 2, "T": 3, "H": 4, "W": 5, "C": 6}
    behind = "CHW" if "H" in axes else "C"
    ordered = "".join(name for name in axes if name not in behind) + behind
    sent = np.arange(prod(sizes[name] for name in axes)).reshape([sizes[name] for name in ordered])
    moved = sent.transpose([ordered.index(name) for name in axes])
    assert [sizes[name] for name in axes] == list(moved.shape)
    one, other = Layout.of_axes(ordered), Layout.of_axes(axes)
    np.testing.assert_array_equal(one.to_rows(sent), other.to_rows(moved))
    np.testing.assert_array_equal(one.to_plane(sent), other.to_plane(moved))
    assert one.grid(sent.shape) == other.grid(moved.shape) == ((4, 5) if "H" in axes else None)


def test_named_axes_are_the_families_where_their_order_is_the_same() -> None:
    sent = np.arange(24 * 4 * 5).reshape(24, 4, 5)
    np.testing.assert_array_equal(Layout.of_axes("CHW").to_plane(sent), Layout(family=Family.cnn).to_plane(sent))
    np.testing.assert_array_equal(Layout.of_axes("CHW").to_rows(sent), Layout(family=Family.cnn).to_rows(sent))
    rows = sent.reshape(24, 20)
    np.testing.assert_array_equal(Layout.of_axes("TC").to_rows(rows), Layout(family=Family.llm).to_rows(rows))


def test_frames_of_a_video_are_images_with_a_grid_each() -> None:
    video = np.arange(3 * 4 * 5 * 2).reshape(3, 4, 5, 2)
    layout = Layout.of_axes("THWC")
    assert layout.rows_shape(video.shape) == (3, 20, 2)
    assert layout.grid(video.shape) == (4, 5)
    np.testing.assert_array_equal(layout.to_rows(video)[1, 7], video[1, 1, 2])


@pytest.mark.parametrize(
    ("axes", "text"),
    [
        ("nhwc", "'nhwc' is no row of capital letters"),
        ("N,C", "is no row of capital letters"),
        ("", "is no row of capital letters"),
        ("THW", "'THW' has no channel axis. Write C where the channels are."),
        ("HTC", "'HTC' has no W. Write H and W for a grid, and other letters (T, N, B) for rows."),
        ("WC", "'WC' has no H."),
        ("TTC", "'TTC' names an axis twice"),
        ("C", "'C' has 1 axes. Name 2 to 4"),
        ("BTHWC", "'BTHWC' has 5 axes. Name 2 to 4, and join others into one."),
    ],
)
def test_axes_that_say_too_little_are_rejected_by_what_is_missing(axes: str, text: str) -> None:
    with pytest.raises(InputError) as caught:
        dtufc.fit([np.zeros((4, 4), np.float32)], axes=axes)
    assert text in str(caught.value)
    with pytest.raises(ValueError, match="axes"):
        LayoutSpec.model_validate({"axes": axes})


@pytest.mark.parametrize("shape", [(14, 384), (1, 14, 14, 384), (14, 14, 0), (14, 14, 383), (14, 1025, 384)])
def test_with_axes_the_rank_the_channels_and_the_sides_must_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"Give (\[height, width, 384\] \(axes HWC\)|at most 1024 a side)"):
        Layout.of_axes("HWC", channels=384).check(shape)


@pytest.mark.parametrize("axes", ["HWC", "NHWC", "CWH"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_map_costs_the_same_in_every_order_of_memory(axes: str, dtype: type) -> None:
    """The payloads of `klt` and `levels` are equal byte for byte; a header has a rank and a shape."""

    def moved(one: Array) -> Array:
        whole = one[None] if "N" in axes else one
        order = "NCHW" if "N" in axes else "CHW"
        return np.ascontiguousarray(whole.transpose([order.index(name) for name in axes]))

    samples = [maps(seed) for seed in range(6)]
    one, other = dtufc.fit(samples, layout="cnn"), dtufc.fit([moved(sample) for sample in samples], axes=axes)
    sent: Array = maps(50).astype(dtype)
    for codec in ("klt", "levels"):
        frame, frame_moved = one.encode(sent, codec=codec), other.encode(moved(sent), codec=codec)
        assert bitstream.parse(frame).payload == bitstream.parse(frame_moved).payload
        assert len(frame_moved) - len(frame) == ("N" in axes)
        np.testing.assert_array_equal(moved(one.decode(frame)), other.decode(frame_moved))


def test_channels_first_rows_cost_the_same_as_channels_last() -> None:
    samples = [features(np.random.default_rng(seed), (50, 24)) for seed in range(6)]
    one, other = dtufc.fit(samples), dtufc.fit([sample.T.copy() for sample in samples], axes="CT")
    frame = one.encode(samples[0], quality=0.6)
    frame_moved = other.encode(samples[0].T.copy(), quality=0.6)
    assert bitstream.parse(frame).payload == bitstream.parse(frame_moved).payload
    np.testing.assert_array_equal(one.decode(frame).T, other.decode(frame_moved))


def test_one_long_sample_is_fitted_in_any_order() -> None:
    audio = features(np.random.default_rng(1), (400, 24))
    one = KltCodec.fit([audio], Layout(family=Family.llm))
    other = KltCodec.fit([audio.T.copy()], Layout.of_axes("CT"))
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, other.arrays()[name])


def test_every_codec_takes_the_tokens_of_a_video_of_any_length() -> None:
    def video(seed: int, frames: int) -> Array:
        return np.ascontiguousarray(maps(seed, (frames, 16, 7, 9)).transpose(0, 2, 3, 1))

    codec = dtufc.fit([video(seed, 3) for seed in range(5)], axes="THWC")
    for frames in (1, 4):
        sent = video(40 + frames, frames)
        for name in codec.codecs:
            quality = min(0.9, codec.quality_ranges.get(name, (0, 1))[1])
            got = codec.decode(codec.encode(sent, codec=name, quality=quality))
            assert got.shape == sent.shape
            bound = 0.1 if name in ("raw", "klt") else 0.5
            assert np.linalg.norm(got - sent) < bound * np.linalg.norm(sent), name


def test_a_latent_has_any_number_of_channels_but_sixteen_where_a_profile_names_none() -> None:
    samples = [maps(seed, (4, 12, 8)) for seed in range(6)]
    codec = dtufc.fit(samples, layout="latent")
    assert codec.profile.layout == Layout(family=Family.latent, channels=4, patch=2)
    got = codec.decode(codec.encode(samples[0], quality=1.0))
    assert np.linalg.norm(got - samples[0]) < 0.03 * np.linalg.norm(samples[0])
    with pytest.raises(InputError, match=r"5 channels in shape \(5, 12, 8\)\. Give \[4, height, width\]"):
        codec.encode(maps(1, (5, 12, 8)))
    shipped = dtufc.load("sd3-emoji")
    for name in shipped.codecs:
        with pytest.raises(InputError, match=r"Give \[16, height, width\]"):
            shipped.encode(samples[0], codec=name)


def test_a_profile_with_axes_is_kept_in_a_folder(tmp_path: Path) -> None:
    codec = dtufc.fit([np.ascontiguousarray(maps(seed).transpose(1, 2, 0)) for seed in range(4)], axes="HWC")
    codec.save(tmp_path)
    loaded = dtufc.load(tmp_path)
    assert loaded.profile.layout == codec.profile.layout == Layout.of_axes("HWC", channels=24)
    assert loaded.profile.digest == codec.profile.digest


def test_the_digest_of_a_profile_knows_axes_where_there_are_some() -> None:
    def digest(**layout: object) -> str:
        spec = ProfileSpec(name="p", layout=LayoutSpec.model_validate(layout))
        return Profile(spec=spec, split=0, calibration={}).digest.hex()

    assert digest(family="cnn", channels=24).startswith("d58889e4a59e88b5")  # as before there were axes
    assert digest(axes="CHW", channels=24) == digest(axes="CHW", channels=24, family="cnn")
    assert len({digest(channels=24, **more) for more in ({"axes": "CHW"}, {"axes": "HWC"}, {"family": "cnn"})}) == 3
    assert load_profile("dinov2-small").with_prefix(1).digest.hex().startswith("03e24d29105deec4")


def test_axes_go_with_no_other_family_prefix_or_patch() -> None:
    for wrong in ({"family": "llm"}, {"prefix": 1}, {"patch": 2}):
        with pytest.raises(ValueError, match=r"axes|patches"):
            LayoutSpec.model_validate({"axes": "HWC", **wrong})
    with pytest.raises(InputError, match="Give axes alone"):
        Layout(family=Family.llm, axes="HWC")
    with pytest.raises(InputError, match="Give axes alone"):
        dtufc.fit([maps(0)], axes="CHW", layout="cnn")


def test_a_frame_of_another_order_is_rejected_before_it_is_decoded() -> None:
    samples = [np.ascontiguousarray(maps(seed).transpose(1, 2, 0)) for seed in range(4)]
    codec = dtufc.fit(samples, axes="HWC")
    frame = bitstream.parse(codec.encode(samples[0]))
    forged = bitstream.Frame(
        codec=frame.codec,
        dtype=frame.dtype,
        shape=(24, 6, 6),
        profile_digest=frame.profile_digest,
        symbol_crc=frame.symbol_crc,
        payload=frame.payload,
    )
    with pytest.raises(BitstreamError, match="6 channels in shape"):
        codec.decode(bitstream.pack(forged))


HINTS: list[tuple[str, int, list[tuple[int, ...]], str]] = [
    (
        "cnn",
        0,
        [(1, 14, 14, 384)] * 2,
        'layout: shape (1, 14, 14, 384) looks like axes "NHWC", not like cnn\'s [channels, height, width] or '
        '[1, channels, height, width]. Give axes="NHWC" instead of the layout, or axes="NCHW" if it is right.',
    ),
    ("cnn", 0, [(14, 14, 384)], 'Give axes="HWC" instead of the layout, or axes="CHW" if it is right.'),
    ("cnn", 0, [(56, 56, 96)], 'Give axes="HWC"'),
    ("latent", 0, [(32, 32, 4)], 'Give axes="HWC"'),
    ("vit", 0, [(384, 14, 14)], 'looks like axes "CHW"'),
    ("vit", 0, [(16, 14, 14, 384)], 'or axes="NHWC" instead of the layout.'),
    ("cnn", 0, [(2, 384, 14, 14)], "2 samples in one array. Give [channels, height, width] or "),
    ("cnn", 0, [(2, 384, 14, 14)], 'or axes="NCHW" instead of the layout.'),
    ("cnn", 0, [(7, 20, 1280)], 'or axes="HWC" instead of the layout.'),
    ("llm", 0, [(1, 12, 40, 64)], 'or axes="BNTC" instead of the layout.'),
    ("llm", 0, [(14, 14, 384)], 'or axes="HWC" instead of the layout.'),
    ("llm", 0, [(384, 14, 14)], 'or axes="CHW" instead of the layout.'),
    ("llm", 0, [(3, 50, 384)], 'or axes="NTC" instead of the layout.'),
    (
        "llm",
        0,
        [(24, 50), (24, 61)],
        'Give axes="CT", which would fit, or give samples of equal channels, each [tokens',
    ),
    ("cnn", 0, [(7, 9, 24), (8, 5, 24)], 'Give axes="HWC", which would fit'),
    (
        "vit",
        0,
        [(197, 24)] * 2,
        "prefix: 197 tokens form no grid, and 196 would be 14^2. "
        'Give prefix=1, or layout="llm" for tokens that are no grid.',
    ),
    ("vit", 0, [(2, 201, 24)], "Give prefix=5"),
]


@pytest.mark.parametrize(("layout", "prefix", "shapes", "text"), HINTS)
def test_a_layout_that_looks_wrong_gets_an_error_that_names_the_one_that_would_fit(
    layout: str, prefix: int, shapes: list[tuple[int, ...]], text: str
) -> None:
    with pytest.raises(InputError) as caught:
        dtufc.fit([np.zeros(shape, np.float32) for shape in shapes], layout=layout, prefix=prefix)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_axes_given_for_rows_are_corrected_where_channels_change() -> None:
    samples = [np.zeros(shape, np.float32) for shape in ((24, 50), (24, 61))]
    with pytest.raises(InputError, match=r'Give axes="CT", which would fit, or give .* \(axes TC\)'):
        dtufc.fit(samples, axes="TC")


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("cnn", (14, 14, 14)), ("cnn", (24, 7, 5)), ("vit", (196, 24)), ("vit", (2, 50, 24)), ("llm", (14, 384))],
)
def test_what_fits_is_not_doubted(layout: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    samples = [rng.standard_normal(shape).astype(np.float32) for _ in range(2)]
    dtufc.fit(samples, layout=layout, prefix=int(shape == (2, 50, 24)))


def test_a_true_map_that_looks_wrong_is_fitted_by_its_axes_and_tokens_without_a_grid_as_rows() -> None:
    rng = np.random.default_rng(0)
    odd = [rng.standard_normal((6, 6, 30)).astype(np.float32) for _ in range(3)]
    assert dtufc.fit(odd, axes="CHW").profile.layout.rows_shape((6, 6, 30)) == (1, 180, 6)
    tokens = [rng.standard_normal((50, 8)).astype(np.float32) for _ in range(3)]
    assert dtufc.fit(tokens, layout="llm").profile.layout.grid((50, 8)) is None


def test_a_prefix_that_is_no_usual_one_is_a_warning() -> None:
    tokens = [np.random.default_rng(seed).standard_normal((40, 8)).astype(np.float32) for seed in range(2)]
    with pytest.warns(UserWarning, match="40 tokens form no grid, and 36 would be 6"):
        dtufc.fit(tokens, layout="vit")
