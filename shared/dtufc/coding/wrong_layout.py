"""Features that do not look like the layout that their caller named, before anything is fitted to them.

A layout that is wrong and fits costs bits without a word: a channels-last map [14, 14, 384] is a sound [C, h, w]. What
is rejected here names the layout that would fit. Axes by name are the caller's word: only their number, and channels
that change from sample to sample, can speak against them.
"""

import warnings
from collections.abc import Sequence
from math import isqrt
from typing import Final

from dtufc.coding.bitstream import MAX_RANK
from dtufc.coding.layout import Family, Layout
from dtufc.errors import InputError

_FAR_LARGER: Final = 1.5  # the first stage of a Swin: 96 channels of 56 x 56
_PREFIXES: Final = (1, 5)  # a class token; with four registers
_OTHER_PREFIXES: Final = (2, 3, 4, 6, 7, 8)
_AXES_OF_RANK: Final = {(False, 2): "TC", (False, 3): "NTC", (True, 3): "CHW", (True, 4): "NCHW"}  # map or not
_Shapes = Sequence[tuple[int, ...]]


def check_samples(layout: Layout, shapes: _Shapes) -> None:
    """Checks samples that a codec is to be fitted to; `layout` names no channels yet. Warns of an unusual prefix.

    Raises:
        InputError: a shape does not fit, or looks as if it were of another layout; it names that.
    """
    for shape in shapes:
        try:
            layout.check(shape)
        except InputError as error:
            remedy = f"{error.context['remedy']}{_or_axes(layout, shape)}"
            raise InputError(field="features", problem=error.context["problem"], remedy=remedy) from error
    _check_channels(layout, shapes)
    if layout.axes is None:
        _check_order(layout, shapes)
    if layout.family == Family.vit and layout.prefix == 0:
        _check_prefix(shapes)


def axes_of(shape: tuple[int, ...], *, is_map: bool = False) -> str:
    """The axes that a shape of two to four sizes looks like.

    Args:
        shape: of features.
        is_map: whether they are known to have a grid.
    """
    lead = "N" * (len(shape) - 3)
    if _is_square(shape[-3:-1]) and shape[-1] != shape[-2]:
        return f"{lead}HWC"
    if len(shape) > 2 and _is_square(shape[-2:]):
        return f"{lead}CHW"
    if len(shape) > 2 and is_map:
        return f"{lead}HWC" if shape[-1] > shape[-3] else f"{lead}CHW"
    return {2: "TC", 3: "NTC", 4: "BNTC"}[len(shape)]


def _or_axes(layout: Layout, shape: tuple[int, ...]) -> str:
    if not 2 <= len(shape) <= MAX_RANK or min(shape) < 1:
        return ""
    likely = axes_of(shape, is_map=layout.is_map)
    return f", or axes={_quoted(likely)} instead of the layout" if likely != layout.axes else ""


def _check_channels(layout: Layout, shapes: _Shapes) -> None:
    """Channels are as many in every sample: where another axis is, and they are not, that one is theirs."""
    channels = {layout.rows_shape(shape)[-1] for shape in shapes}
    if len(channels) == 1:
        return
    problem = f"{min(channels)} to {max(channels)} channels in samples such as {shapes[0]}"
    remedy = f"give samples of equal channels, each {layout.describe()}"
    axes = layout.axes or _AXES_OF_RANK.get((layout.is_map, len(shapes[0])))
    same = [axis for axis, sizes in enumerate(zip(*shapes, strict=False)) if len(set(sizes)) == 1 and sizes[0] > 1]
    if axes and len(same) == 1 and {len(shape) for shape in shapes} == {len(axes)}:
        rest = axes.replace("C", "")
        remedy = f"Give axes={_quoted(rest[: same[0]] + 'C' + rest[same[0] :])}, which would fit, or {remedy}"
    raise InputError(field="samples", problem=problem, remedy=remedy[0].upper() + remedy[1:])


def _check_order(layout: Layout, shapes: _Shapes) -> None:
    """A square of positions tells where the channels are, unless they are as many as a side is long."""
    if layout.is_map and all(_is_channels_last(shape) for shape in shapes):
        given, likely = "CHW", "HWC"
    elif layout.family == Family.vit and all(_is_channels_first(shape) for shape in shapes):
        given, likely = "NTC", "CHW"
    else:
        return
    shape, lead = shapes[0], "N" if layout.is_map and len(shapes[0]) == 4 else ""
    problem = f"shape {shape} looks like axes {_quoted(lead + likely)}, not like {layout.family}'s {layout.describe()}"
    remedy = f"Give axes={_quoted(lead + likely)} instead of the layout, or axes={_quoted(lead + given)} if it is right"
    raise InputError(field="layout", problem=problem, remedy=remedy)


def _check_prefix(shapes: _Shapes) -> None:
    """Tokens that form a grid but for a few in front, where no prefix was given."""
    tokens = [shape[-2] for shape in shapes]
    if any(_is_area(number) for number in tokens):
        return
    for prefix in (*_PREFIXES, *_OTHER_PREFIXES):
        if not all(_is_area(number - prefix) for number in tokens):
            continue
        problem = f"{tokens[0]} tokens form no grid, and {tokens[0] - prefix} would be {isqrt(tokens[0] - prefix)}^2"
        remedy = f'Give prefix={prefix}, or layout="llm" for tokens that are no grid'
        if prefix in _PREFIXES:
            raise InputError(field="prefix", problem=problem, remedy=remedy)
        warnings.warn(f"prefix: {problem}. {remedy}.", stacklevel=5)
        return


def _is_channels_last(shape: tuple[int, ...]) -> bool:
    height, width, last = shape[-3:]
    return height == width and not last / _FAR_LARGER < width < last * _FAR_LARGER


def _is_channels_first(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and _is_square(shape[-2:]) and shape[0] > _FAR_LARGER * shape[-1]


def _is_square(sizes: tuple[int, ...]) -> bool:
    return len(sizes) == 2 and sizes[0] == sizes[1] > 1


def _is_area(number: int) -> bool:
    """Of a grid with more than one token a side."""
    return number >= 4 and isqrt(number) ** 2 == number


def _quoted(axes: str) -> str:
    return f'"{axes}"'
