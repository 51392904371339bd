"""`Basis`: there and back, exactly, and within its bound."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.directions import BasisArrays, fit_basis
from tests.coding import contract, reference_klt

CHANNELS = 48
RANKS = (0, 1, 17, 47, 48)


def fitted(rank: int) -> BasisArrays:
    rows = [contract.wide(seed, 60)[1:] for seed in range(3)]
    gradients = [contract.wide(seed, 60)[1:] for seed in range(3, 6)]
    return fit_basis(rows, gradients, np.ones(CHANNELS), 0.05, rank)


def extreme(rank: int, seed: int = 5) -> BasisArrays:
    """Arrays of all that a sound profile may have."""
    rng = np.random.default_rng(seed)
    num_reflections = 0 if rank == CHANNELS else rank
    reflections = rng.integers(-128, 128, (num_reflections, CHANNELS)) * (rng.random((num_reflections, 1)) < 0.7)
    reflections[np.arange(num_reflections), rng.integers(0, CHANNELS, num_reflections)] = rng.choice([-128, 1, 127])
    return BasisArrays(
        basis=rng.integers(-(2**15), 2**15, (rank, rank)).astype(np.int16),
        head_scale=np.array([2.0 ** rng.uniform(-14, -4)]),
        reflections=reflections.astype(np.int8),
        order=rng.permutation(CHANNELS).astype(np.int32),
        scale=np.exp(rng.standard_normal(CHANNELS)),
    )


def largest(arrays: BasisArrays, seed: int) -> Array:
    """Rows of the largest integers for which the product is exact, with signs that make a sum long."""
    limit = 2.0 ** arrays.build().exact_bits
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], (20, CHANNELS))
    columns = arrays.basis.T[:10]
    signs[: len(columns), : len(arrays.basis)] = np.where(columns < 0, -1, 1)
    return signs * limit


def reference(arrays: BasisArrays) -> reference_klt.Basis:
    names = ("basis", "head_scale", "reflections", "order")
    return reference_klt.Basis({"mean": arrays.scale, **{name: getattr(arrays, name) for name in names}})


@pytest.mark.parametrize("rank", RANKS)
def test_components_come_back_as_channels(rank: int) -> None:
    arrays = fitted(rank)
    basis, rows = arrays.build(), contract.wide(9, 30)
    assert basis.channels == CHANNELS
    z = basis.to_components(rows)
    assert z.dtype == np.float32
    np.testing.assert_allclose(basis.to_channels_fast(z), rows, rtol=0, atol=1e-5 * np.abs(rows).max())
    whole = basis.to_channels(np.rint(z * 2.0**16)) * (arrays.scale * 2.0**-16)
    np.testing.assert_allclose(whole, rows, rtol=0, atol=2e-5 * np.abs(rows).max())


@pytest.mark.parametrize("rank", RANKS)
def test_gradients_go_the_other_way(rank: int) -> None:
    basis, rng = fitted(rank).build(), np.random.default_rng(3)
    z, gradients = rng.standard_normal((5, CHANNELS)), rng.standard_normal((5, CHANNELS))
    left = np.sum(basis.components_of_gradients(gradients) * z, axis=1)
    np.testing.assert_allclose(left, np.sum(gradients * basis.to_channels_fast(z), axis=1))


@pytest.mark.parametrize("make", [fitted, extreme])
@pytest.mark.parametrize("rank", RANKS)
def test_channels_are_the_integers_of_the_specification(rank: int, make: Callable[[int], BasisArrays]) -> None:
    arrays = make(rank)
    basis, by_definition = arrays.build(), reference(arrays)
    assert basis.exact_bits == by_definition.exact_bits
    z = np.concatenate([largest(arrays, 1), np.random.default_rng(2).integers(-40, 41, (10, CHANNELS))])
    expected = np.array([by_definition.to_channels([int(value) for value in row]) for row in z], dtype=object)
    assert (basis.to_channels(z) == expected.astype(np.float64)).all()


@pytest.mark.parametrize("rank", RANKS)
def test_no_split_of_the_rows_nor_order_of_the_sums_changes_a_bit(rank: int) -> None:
    arrays = extreme(rank, 7)
    basis, z = arrays.build(), largest(arrays, 3)
    once = basis.to_channels(z)
    for count in (1, 3, 7):
        parts = [basis.to_channels(z[start : start + count]) for start in range(0, len(z), count)]
        assert np.concatenate(parts).tobytes() == once.tobytes()
    rng = np.random.default_rng(4)
    components, vectors = rng.permutation(rank), rng.permutation(len(arrays.reflections))
    other = replace(arrays, basis=arrays.basis[components], reflections=arrays.reflections[vectors]).build()
    assert other.to_channels(np.concatenate([z[:, components], z[:, rank:]], axis=1)).tobytes() == once.tobytes()
    if rank < CHANNELS:  # the other places, too
        places = np.concatenate([np.arange(rank), rank + rng.permutation(CHANNELS - rank)])
        other = replace(arrays, reflections=arrays.reflections[:, places], order=arrays.order[places]).build()
        assert other.to_channels(z[:, places]).tobytes() == once.tobytes()


@pytest.mark.parametrize("rank", RANKS)
def test_components_that_are_zero_can_be_left_out(rank: int) -> None:
    basis, z = extreme(rank, 8).build(), np.zeros((6, CHANNELS))
    for used in (np.array([], int), np.array([0, 16, 17, 47]), np.arange(CHANNELS)):
        z[:, used] = np.random.default_rng(5).integers(-999, 999, (6, len(used)))
        assert (basis.to_channels(z[:, used], used) == basis.to_channels(z)).all()


@pytest.mark.parametrize("rank", RANKS)
def test_no_sum_is_longer_than_the_bound(rank: int) -> None:
    """Of the magnitudes of all terms, so that it holds for every partial sum in every order."""
    for seed in range(20):
        arrays = extreme(rank, seed)
        exact = {name: getattr(arrays, name).astype(object) for name in ("basis", "reflections")}
        for row in largest(arrays, seed).astype(int).tolist():
            z = np.array(row, dtype=object)
            sums = [np.abs(z[:rank]) @ np.abs(exact["basis"])]
            if rank < CHANNELS:
                head = [round(float(x) * float(arrays.head_scale[0])) for x in z[:rank] @ exact["basis"]]
                u = np.array([*head, *(16 * z[rank:])], dtype=object)
                sums += [np.abs(exact["reflections"]) @ np.abs(u)]
                squares = (exact["reflections"] ** 2).sum(axis=1)
                products = zip(exact["reflections"] @ u, squares, strict=True)
                p = np.array([round(float(x) * (512.0 / square)) for x, square in products], dtype=object)
                sums += [256 * np.abs(u) + np.abs(p) @ np.abs(exact["reflections"])]
            assert max(max(terms, default=0) for terms in sums) < 1 << 53


@pytest.mark.parametrize("head_scale", [40.0, 1e300])
def test_a_head_that_leaves_no_exact_bits_has_none(head_scale: float) -> None:
    assert replace(extreme(17, 0), head_scale=np.array([head_scale])).build().exact_bits == 0
