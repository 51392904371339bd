"""The library's front for tuples of tensors: fitting a codec for each position, and loading them all."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.klt_fit import Progress
from dtufc.coding.container import MAX_FRAMES
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.coding.features import as_arrays
from dtufc.coding.tuple_codec import INDEX_NAME, TupleCodec, at_position
from dtufc.errors import InputError
from dtufc.files import read_file
from dtufc.models.fitting import fit, load

if TYPE_CHECKING:
    import torch

_MAX_INDEX_BYTES: Final = 1 << 16


class _Index(BaseModel):
    """The file `tuple.json`: the number of each position's profile, which is the name of its folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    positions: tuple[Annotated[int, Field(ge=0, lt=MAX_FRAMES)], ...] = Field(min_length=1, max_length=MAX_FRAMES)


def fit_tuple(
    samples: "Sequence[Sequence[Array | torch.Tensor]]",
    *,
    axes: str | Sequence[str],
    name: str = "custom",
    shared: bool = False,
    learned: bool = False,
    progress: Progress = lambda share: None,
) -> TupleCodec:
    """A codec for tuples of tensors, from about ten of them: a pyramid of maps, the keys and values of a cache.

    Positions that need a prefix or gradients are fitted by `dtufc.fit`, and make a `TupleCodec` together.

    Args:
        samples: tuples of one length; tensors at one position have equal axes and channels; finite.
        axes: of every tensor, or one for each position (`dtufc.coding.axes`).
        name: of the profiles; a number is added.
        shared: whether positions of equal axes and channels share one codec, fitted to the tensors of all of them: a
            smaller profile.
        learned: whether the learned codecs are fitted too: nine tenths of the time of a fit to small tensors.
        progress: is told the share of the work that is done.

    Raises:
        InputError: no sample, tuples of several lengths, or tensors that `dtufc.fit` rejects; it names the position.
    """
    positions = _positions(samples)
    names = (axes,) * len(positions) if isinstance(axes, str) else tuple(axes)
    if len(names) != len(positions):
        remedy = f"Give one for all, or {len(positions)}"
        raise InputError(field="axes", problem=f"{len(names)} for {len(positions)} tensors", remedy=remedy)
    groups: dict[object, list[int]] = {}  # positions that have one codec
    for position, tensors in enumerate(positions):
        groups.setdefault(_kind(names[position], tensors[0]) if shared else position, []).append(position)
    codecs: dict[int, FeatureCodec] = {}
    for number, group in enumerate(groups.values()):
        pooled = [tensor for position in group for tensor in positions[position]]
        try:
            codec = fit(
                pooled,
                axes=names[group[0]],
                name=f"{name}-{number}",
                learned=learned,
                progress=partial(_tell, progress, number, len(groups)),
            )
        except InputError as error:
            raise at_position("samples[..]", group[0], error) from error
        codecs |= dict.fromkeys(group, codec)
    return TupleCodec([codecs[position] for position in range(len(positions))])


def load_tuple(folder: str | Path) -> TupleCodec:
    """The codec that `TupleCodec.save` wrote into a folder.

    Raises:
        InputError: there is none, or a file of it is damaged.
    """
    path = Path(folder) / INDEX_NAME
    remedy = "Name a folder that a TupleCodec wrote"
    data = read_file(path, _MAX_INDEX_BYTES, field="profile", remedy=remedy)
    try:
        index = _Index.model_validate_json(data)
    except ValidationError as error:
        raise InputError(field="profile", problem=f"{path} is damaged", remedy="Restore the file") from error
    codecs = {number: load(Path(folder) / str(number)) for number in set(index.positions)}
    return TupleCodec([codecs[number] for number in index.positions])


def _positions(samples: "Sequence[Sequence[Array | torch.Tensor]]") -> list[list[Array]]:
    """The tensors of each position."""
    listed = [as_arrays(sample, f"samples[{index}]") for index, sample in enumerate(samples)]
    lengths = {len(sample) for sample in listed}
    if len(lengths) != 1:
        problem = f"tuples of {' and '.join(map(str, sorted(lengths)))} tensors" if lengths else "none were given"
        raise InputError(field="samples", problem=problem, remedy="Give about ten tuples of one length")
    return [list(tensors) for tensors in zip(*listed, strict=True)]


def _kind(axes: str, tensor: Array) -> tuple[str, int]:
    """(axes, channels); `fit` says what is wrong where there are no channels."""
    channels = dict(zip(axes, tensor.shape, strict=False)).get("C", 0)
    return axes, channels


def _tell(progress: Progress, done: int, of: int, share: float) -> None:
    progress((done + share) / of)
