"""Split equals whole, proven before a model is served.

A class of models that nobody has seen may do between its layers what a cut does not carry over. So each model, at
each split, is compared once with the whole: the same inputs, and the outputs must be equal bit for bit. The result is
kept in the cache, beside the weights, under everything that it depends on.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from torch import Tensor

from dtufc.errors import DtufcError, InputError
from dtufc.models.cache import cache_folder
from dtufc.models.fingerprint import fingerprint
from dtufc.models.split import Back, Front, check_split, load_whole, model_class

MAX_BYTES_AT_START: Final = 4 << 30  # of weights; a larger model takes minutes and memory that an edge may not have
_CPU: Final = torch.device("cpu")
_REMEDY: Final = "Use another split, or a model of another class"

Steps = list[dict[str, Tensor]]  # what the model's forward takes, call by call


def require(
    folder: Path,
    config: Any,
    split: int,
    steps: Callable[[], Steps],
    *,
    cls: Any = None,
    max_bytes: float = MAX_BYTES_AT_START,
) -> None:
    """Proves a cut, unless it has been proven before.

    Args:
        folder: of the checkpoint.
        config: as `Front` and `Back` take it.
        split: layers of the front.
        steps: makes the inputs; several steps share a cache of keys and values.
        cls: the model's class; by default the one that the checkpoint names.
        max_bytes: of weights that may be compared now.

    Raises:
        InputError: split and whole differ, or the model is too large to compare them now.
    """
    check_split(config, split, cls=cls)
    record = _record(folder, config, split, cls)
    with _locked(record.parent):
        if record.is_file():
            return
        size = sum(path.stat().st_size for kind in ("*.safetensors", "*.bin") for path in folder.glob(kind))
        if size > max_bytes:
            problem = f"{size >> 20} MiB of weights, whose cut after layer {split} has not been proven"
            remedy = f"Run `dtufc prove` on a machine that holds the whole model, and copy {record} to this one"
            raise InputError(field="model", problem=problem, remedy=remedy)
        prove(folder, config, split, steps(), cls=cls)


def prove(folder: Path, config: Any, split: int, steps: Steps, *, cls: Any = None) -> None:
    """Compares split with whole, on the CPU, in the type that the checkpoint has, and keeps that they are equal.

    One of the three models is loaded at a time.

    Raises:
        InputError: they differ, or the cut model fails. It names class and cut.
    """
    name = (cls or model_class(config)).__name__
    try:
        num_layers, equal = _compare(folder, config, split, steps, cls)
    except (DtufcError, OSError, MemoryError):
        raise
    except Exception as error:  # whatever a class that nobody has seen raises when it is cut
        problem = f"{name} cut after layer {split} fails with {type(error).__name__}: {error}"
        raise InputError(field="model", problem=problem, remedy=_REMEDY) from error
    if not equal:
        problem = f"{name} cut after layer {split} of {num_layers} answers otherwise than the whole model"
        raise InputError(field="model", problem=problem, remedy=_REMEDY)
    record = _record(folder, config, split, cls)
    with suppress(OSError):  # a read-only cache: proven again at the next start
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"class": name, "split": split, "layers": num_layers}), encoding="utf-8")


def _compare(folder: Path, config: Any, split: int, steps: Steps, cls: Any) -> tuple[int, bool]:
    """The number of layers, and whether split equals whole."""
    dtype = config.dtype or torch.float32
    whole = load_whole(folder, config, dtype, cls=cls)
    with torch.inference_mode():
        expected = _outputs(whole, steps)
    del whole
    front = Front(folder, config, split, _CPU, dtype, cls=cls)
    cache = front.new_cache() if len(steps) > 1 else None
    features = [front.features(cache, **step) for step in steps]
    num_layers = front.num_layers
    del front
    back = Back(folder, config, split, _CPU, dtype, cls=cls)
    cache = back.new_cache() if len(steps) > 1 else None
    with torch.inference_mode():
        for step, given, output in zip(steps, features, expected, strict=True):
            blank = {name: torch.zeros_like(value) for name, value in step.items()}
            if not torch.equal(_result(back.output(given, cache, **blank)), output):
                return num_layers, False
    return num_layers, True


def _outputs(whole: Any, steps: Steps) -> list[Tensor]:
    if len(steps) == 1:
        return [_result(whole(**steps[0]))]
    cache = transformers.DynamicCache(config=whole.config)
    return [_result(whole(**step, past_key_values=cache, use_cache=True)) for step in steps]


def _result(output: Any) -> Tensor:
    result: Tensor = output.logits if hasattr(output, "logits") else output.last_hidden_state
    return result


def _record(folder: Path, config: Any, split: int, cls: Any) -> Path:
    name = (cls or model_class(config)).__name__
    facts = [fingerprint(folder), name, split, transformers.__version__, torch.__version__]
    return cache_folder() / "proofs" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.json"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process proves at a time; where the cache is read-only, each for itself."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError:
        yield
        return
    with lock:
        flock(lock, LOCK_EX)
        yield
