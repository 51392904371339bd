"""A model that is no file, cut by hooks: any nn.Module, after any of its submodules.

The front runs up to that submodule and stops there. The back is the whole module, in which the submodule's output is
replaced: what comes before it is computed again, and its result thrown away. That is what hooks can do with a module
of any kind; a profile's families cut it in two.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from dtufc.coding.arrays import Array
from dtufc.coding.evaluation import Sample, Scores
from dtufc.coding.features import as_array, as_tensor
from dtufc.errors import InputError

Loss = Callable[[Any], Tensor]
Metric = Callable[..., float]


class _Leave(BaseException):
    """Ends a forward pass. No error: nothing may catch it on the way."""


class Split:
    """A module cut after one of its submodules.

    An input is what the module's forward takes: one tensor, a tuple of arguments or a dict of named ones.
    """

    def __init__(self, module: nn.Module, after: str) -> None:
        """Raises InputError where the module has no such submodule."""
        names = [name for name, _ in module.named_modules() if name]
        if after not in names:
            near = ", ".join(get_close_matches(after, names, 5, 0.4)) or "none is like it"
            problem = f"{type(module).__name__} has no submodule {after!r}"
            raise InputError(field="after", problem=problem, remedy=f"Name one of named_modules() ({near})")
        self._module, self._after = module, after

    @torch.no_grad()
    def features(self, x: Any) -> Tensor:
        """The submodule's output, or the first tensor of it; the module stops there.

        Raises:
            InputError: the forward pass of this input never calls the submodule, or it gives no tensor.
        """
        left: list[Any] = []

        def leave(_: nn.Module, __: Any, output: Any) -> None:
            left.append(output)
            raise _Leave

        with self._hook(leave):
            try:
                _call(self._module, x)
            except _Leave:
                return _first_of(left[0], self._after).detach()
        raise self._never_called()

    def output(self, features: "Tensor | Array", x: Any) -> Any:
        """What the module makes of an input with these features in place of its own; differentiable by them.

        Raises:
            InputError: the forward pass calls the submodule never, or more than once.
        """
        calls = 0

        def enter(_: nn.Module, __: Any, output: Any) -> Any:
            nonlocal calls
            calls += 1
            own = _first_of(output, self._after)
            given = features if isinstance(features, Tensor) else as_tensor(as_array(features))
            return _with_first(output, given.to(own.device, own.dtype).reshape(own.shape).clone())

        with self._hook(enter):
            result = _call(self._module, x)
        if calls == 0:
            raise self._never_called()
        if calls > 1:
            problem = f"{self._after} is called {calls} times in one forward pass"
            raise InputError(field="after", problem=problem, remedy="Cut after a submodule that is called once")
        return result

    def gradient(self, x: Any, loss: Loss | None = None, seed: int = 0) -> Tensor:
        """The gradient of a loss by the features of an input: of their shape, for `dtufc.fit`.

        Args:
            x: the input.
            loss: of the module's output; by default all of the output under random signs, whose gradient g tells by
                E[g g'] what errors in the features change of it.
            seed: of the signs.
        """
        features = self.features(x).float().requires_grad_(True)
        with torch.enable_grad():
            output = self.output(features, x)
            value = _signed(tensor_of(output), seed) if loss is None else loss(output)
        (gradient,) = torch.autograd.grad(value, features)
        return gradient

    def gradients(self, data: Iterable[Any], loss: Loss | None = None) -> list[Tensor]:
        """`gradient` of each input."""
        return [self.gradient(x, loss, seed) for seed, x in enumerate(data)]

    @torch.no_grad()
    def samples(self, data: Iterable[Any], metric: Metric | None = None) -> Iterator[Sample]:
        """For `FeatureCodec.evaluate`.

        Args:
            data: inputs; with a metric, pairs (input, target).
            metric: (output, target) -> score. Without one, agreement: the share of the output's vectors, along its
                last axis, whose largest entry is where it is without a codec.
        """
        for entry in data:
            x, target = entry if metric else (entry, None)
            features = self.features(x)
            judge = self._judge(x, lambda output, target=target: {"score": (float(metric(output, target)), 1.0)})  # type: ignore[misc]
            if metric is None:
                judge = self._judge(x, _agreement(tensor_of(self.output(features, x))))
            yield Sample(features=as_array(features), judge=judge)

    def _judge(self, x: Any, score: Callable[[Any], Scores]) -> Callable[[Array], Scores]:
        @torch.no_grad()
        def judge(decoded: Array) -> Scores:
            return score(self.output(decoded, x))

        return judge

    @contextmanager
    def _hook(self, hook: Callable[..., Any]) -> Iterator[None]:
        handle = self._module.get_submodule(self._after).register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def _never_called(self) -> InputError:
        problem = f"{self._after} is not called in the forward pass"
        return InputError(field="after", problem=problem, remedy="Cut after a submodule that is")


def tensor_of(output: Any) -> Tensor:
    """The tensor of a module's output: itself, its `logits` or `last_hidden_state`, or the first one of a tuple.

    Raises:
        InputError: there is none.
    """
    for name in ("logits", "last_hidden_state"):
        if isinstance(getattr(output, name, None), Tensor):
            found: Tensor = getattr(output, name)
            return found
    return _first_of(output, "the module")


def _agreement(before: Tensor) -> Callable[[Any], Scores]:
    tops = before.argmax(dim=-1)

    def score(output: Any) -> Scores:
        same = (tensor_of(output).argmax(dim=-1) == tops).float()
        return {"agreement": (float(same.mean()), same.numel())}

    return score


def _signed(output: Tensor, seed: int) -> Tensor:
    signs = torch.randint(0, 2, output.shape, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0
    return (output.float() * signs.to(output.device)).sum()


def _call(module: nn.Module, x: Any) -> Any:
    """Raises InputError where the module would change by being called, or would not give the same again."""
    for name, part in module.named_modules():
        if part.training and isinstance(part, _BatchNorm | _DropoutNd) and getattr(part, "p", 1.0):
            problem = f"{name or 'it'}, a {type(part).__name__}, is in training mode"
            raise InputError(field="module", problem=problem, remedy="Call module.eval()")
    if isinstance(x, Mapping):
        return module(**x)
    return module(*x) if isinstance(x, tuple) else module(x)


def _first_of(output: Any, of: str) -> Tensor:
    first = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(first, Tensor):
        problem = f"{of} gives a {type(output).__name__}, which begins with no tensor"
        raise InputError(field="after", problem=problem, remedy="Cut after a submodule that gives a tensor")
    return first


def _with_first(output: Any, first: Tensor) -> Any:
    """The same, with another first tensor; a copy, because a module may work on it in place."""
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(first, *output[1:])
    return type(output)((first, *output[1:])) if isinstance(output, tuple | list) else first
