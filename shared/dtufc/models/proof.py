"""Split equals whole, proven before a model is served.

A class of models that nobody has seen may do between its layers what a cut does not carry over. So each model, at
each split, is compared once with the whole: the same inputs, and the outputs must be equal bit for bit. The result is
kept in the cache, beside the weights, under everything that it depends on.
"""

import hashlib
import json
import logging
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
_VERSION: Final = 1  # raised when this module or `split` compares or cuts otherwise
# Between features token by token and at once, which differ in the order of summation.
_STEP_TOLERANCE: Final = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
_REMEDY: Final = "Use another split, or a model of another class"

_log = logging.getLogger(__name__)
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
    if record.is_file():
        return
    with _locked(record):
        if record.is_file():  # another process was quicker
            return
        size = sum(path.stat().st_size for kind in ("*.safetensors", "*.bin") for path in folder.glob(kind))
        if size > max_bytes:
            problem = f"{size >> 20} MiB of weights, whose cut after layer {split} has not been proven"
            remedy = f"Run `dtufc prove` on a machine that holds the whole model, and copy {record} to this one"
            raise InputError(field="model", problem=problem, remedy=remedy)
        _log.info("proving that split equals whole", extra={"fields": {"folder": str(folder), "split": split}})
        prove(folder, config, split, steps(), cls=cls)


def prove(folder: Path, config: Any, split: int, steps: Steps, *, cls: Any = None) -> None:
    """Compares split with whole, on the CPU, in the type that the checkpoint has, and keeps that they are equal.

    One of the three models is loaded at a time. Where there are several steps, another sequence runs between them:
    what a class keeps of one in itself shows in the other.

    Raises:
        InputError: they differ, or the model fails, whole or cut. It names class and cut.
    """
    name = (cls or model_class(config)).__name__
    dtype = config.dtype or torch.float32
    steps = [{key: x.to(dtype) if x.is_floating_point() else x for key, x in step.items()} for step in steps]
    with _reported(f"{name} does not run", "Restore the checkpoint, and install what it needs"):
        whole = load_whole(folder, config, dtype, cls=cls)
        with torch.inference_mode():
            expected = _outputs(whole, steps)
    del whole
    with _reported(f"{name} cut after layer {split} fails", _REMEDY):
        front = Front(folder, config, split, _CPU, dtype, cls=cls)
        features = _features(front, steps)
        if len(steps) > 1:
            at_once = front.features(None, **{key: torch.cat([step[key] for step in steps], dim=1) for key in steps[0]})
            error = (torch.cat(features).float() - at_once.float()).norm() / at_once.float().norm()
            if not error < _STEP_TOLERANCE[dtype]:
                problem = f"{name} gives other features token by token than at once (relative error {error:.3f})"
                raise InputError(field="model", problem=problem, remedy="Use a model of another class")
        num_layers = front.num_layers
        del front
        back = Back(folder, config, split, _CPU, dtype, cls=cls)
        equal = _equals(back, steps, features, expected)
    if not equal:
        problem = f"{name} cut after layer {split} of {num_layers} answers otherwise than the whole model"
        raise InputError(field="model", problem=problem, remedy=_REMEDY)
    record = _record(folder, config, split, cls)
    with suppress(OSError):  # a read-only cache: proven again at the next start
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"class": name, "split": split, "layers": num_layers}), encoding="utf-8")


@contextmanager
def _reported(what: str, remedy: str) -> Iterator[None]:
    """Whatever a class that nobody has seen raises becomes an error that says what failed."""
    try:
        yield
    except (DtufcError, OSError, MemoryError):
        raise
    except Exception as error:
        problem = f"{what} with {type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(field="model", problem=problem, remedy=remedy) from error


def _features(front: Front, steps: Steps) -> list[Tensor]:
    """The front's features, step by step, with another sequence between the steps."""
    if len(steps) == 1:
        return [front.features(None, **steps[0])]
    cache, other = front.new_cache(), front.new_cache()
    features = []
    for step in steps:
        features.append(front.features(cache, **step))
        front.features(other, **{key: value.flip(1) for key, value in step.items()})
    return features


def _equals(back: Back, steps: Steps, features: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether the back makes of these features what the whole model made of the inputs."""
    cache, other = (back.new_cache(), back.new_cache()) if len(steps) > 1 else (None, None)
    with torch.inference_mode():
        for step, given, output in zip(steps, features, expected, strict=True):
            blank = {key: torch.zeros_like(value) for key, value in step.items()}
            if not torch.equal(_result(back.output(given, cache, **blank)), output):
                return False
            if other is not None:
                back.output(given.flip(0), other, **blank)
    return True


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
    torch_release = torch.__version__.partition("+")[0]  # CPU and CUDA builds share proofs
    facts = [_VERSION, fingerprint(folder), name, split, transformers.__version__, torch_release]
    return cache_folder() / "proofs" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.json"


@contextmanager
def _locked(record: Path) -> Iterator[None]:
    """One process proves a cut at a time; where the cache is read-only, each for itself."""
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        lock = record.with_suffix(".lock").open("w")
    except OSError:
        yield
        return
    with lock:
        flock(lock, LOCK_EX)
        yield
