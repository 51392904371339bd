"""Layouts: an exact round trip through both views, and a clear error for a shape that does not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtufc.coding.layout import Family, Layout, mosaic
from dtufc.errors import InputError

SMALL = st.integers(1, 7)


def shapes() -> st.SearchStrategy[tuple[Layout, tuple[int, ...]]]:
    llm = st.tuples(SMALL, SMALL).flatmap(lambda s: st.sampled_from([s, (1, *s)]))
    vit = st.tuples(SMALL, st.integers(2, 7), SMALL).flatmap(lambda s: st.sampled_from([s, s[1:]]))
    latent = st.tuples(SMALL, SMALL).flatmap(lambda s: st.sampled_from([(16, *s), (1, 16, *s), (4, *s)]))
    cnn = st.tuples(st.integers(1, 40), SMALL, SMALL).flatmap(lambda s: st.sampled_from([s, (1, *s)]))
    return st.one_of(
        st.tuples(st.just(Layout(family=Family.llm)), llm),
        st.tuples(st.just(Layout(family=Family.vit, prefix=1)), vit),
        st.tuples(st.just(Layout(family=Family.latent)), latent),
        st.tuples(
            st.just(Layout(family=Family.latent, patch=2)), latent.map(lambda s: (*s[:-2], 2 * s[-2], 2 * s[-1]))
        ),
        st.tuples(st.just(Layout(family=Family.cnn)), cnn),
    )


@given(shapes())
def test_both_views_round_trip(case: tuple[Layout, tuple[int, ...]]) -> None:
    layout, shape = case
    features = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    rows = layout.to_rows(features)
    assert rows.shape == layout.rows_shape(shape)
    np.testing.assert_array_equal(layout.from_rows(rows, shape), features)
    plane = layout.to_plane(features)
    assert plane.ndim == 2
    np.testing.assert_array_equal(layout.from_plane(plane, shape), features)


def test_a_latent_is_a_mosaic_of_four_by_four() -> None:
    latent = np.arange(16)[:, None, None] * np.ones((1, 2, 3), int)
    plane = Layout(family=Family.latent).to_plane(latent)
    assert plane.shape == (8, 12)
    np.testing.assert_array_equal(plane[::2, ::3], np.arange(16).reshape(4, 4))


def test_a_patch_of_a_latent_is_one_token_with_all_its_channels() -> None:
    latent = np.arange(16 * 4 * 6).reshape(16, 4, 6)
    rows = Layout(family=Family.latent, patch=2).to_rows(latent)
    assert rows.shape == (1, 6, 64)
    np.testing.assert_array_equal(rows[0, 4].reshape(16, 2, 2), latent[:, 2:4, 2:4])
    assert Layout(family=Family.latent, patch=2).grid(latent.shape) is None


@pytest.mark.parametrize(("channels", "tiles"), [(2048, (32, 64)), (1280, (32, 40)), (7, (1, 7)), (1, (1, 1))])
def test_a_mosaic_is_as_near_to_square_as_the_divisors_allow(channels: int, tiles: tuple[int, int]) -> None:
    assert mosaic(channels) == tiles


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (Layout(family=Family.llm, channels=576), (4, 384)),
        (Layout(family=Family.llm, channels=576), (576,)),
        (Layout(family=Family.llm), (2, 4, 576)),
        (Layout(family=Family.vit, prefix=1), (1, 384)),
        (Layout(family=Family.vit), (1, 2, 3, 4)),
        (Layout(family=Family.latent, channels=16), (15, 4, 4)),
        (Layout(family=Family.latent, patch=2), (16, 4, 5)),
        (Layout(family=Family.cnn, channels=8), (9, 4, 4)),
        (Layout(family=Family.cnn), (0, 4, 4)),
    ],
)
def test_a_shape_that_does_not_fit_is_named_with_one_that_does(layout: Layout, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"Give \["):
        layout.check(shape)


def test_a_grid_is_found_where_the_tokens_are_a_square() -> None:
    vit = Layout(family=Family.vit, prefix=1)
    assert vit.grid((1370, 384)) == (37, 37)
    assert vit.grid((12, 384)) is None
    assert Layout(family=Family.cnn).grid((8, 5, 6)) == (5, 6)
    assert Layout(family=Family.llm).grid((5, 6)) is None
