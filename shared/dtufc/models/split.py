"""A model of transformers in two parts, each of its own class, without a copied forward pass.

    inputs --> [embeddings, layer 1 ... layer k] --> features [tokens, d] --> [layer k+1 ... layer L, head] --> output
                          Front                                                       Back

Each part is built by the model's own `from_pretrained`, of a subclass that mutes what belongs to the other part: a
muted module keeps its place, its name and its plain attributes, and has no weights. So only a part's own tensors are
read, nothing is renumbered, and what depends on a layer's index (attention types, sliding windows, rotary tables,
experts) stays right. The front's features leave where layer k+1 is called, and there the model stops; the back's
features enter there.

Of an architecture this needs to know where its list of layers is, and what follows it: `Anatomy` finds both. What it
finds is proven, not trusted: `dtufc.models.proof` compares split with whole.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from dtufc.errors import InputError

# What may follow the list of layers, first things first. OPT's output projection stands where others have a norm.
_FOLLOWING: Final = (
    "norm",
    "ln_f",
    "final_layernorm",
    "final_layer_norm",
    "norm_f",
    "final_norm",
    "embedding_norm",
    "layer_norm",
    "layernorm",
    "post_layernorm",
    "project_out",
)
_POOLING: Final = ("pooler", "head")  # what makes one vector of all tokens
_HEAD_MAPPINGS: Final = (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, MODEL_MAPPING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """Where a model's layers are.

    Attributes:
        layers: name of the list of layers.
        following: name of the module that is called first behind it; empty where none is known, and then the last
            layer is no place to cut.
        num_layers: how many there are.
    """

    layers: str
    following: str
    num_layers: int

    @property
    def last_split(self) -> int:
        """The largest split."""
        return self.num_layers if self.following else self.num_layers - 1

    @classmethod
    def of(cls, model: nn.Module, config: PreTrainedConfig) -> "Anatomy":
        """Finds the one list of as many modules as the configuration has layers.

        Raises:
            InputError: there is none or more than one. It names class and what was looked for.
        """
        count = getattr(config, "num_hidden_layers", None)
        if not isinstance(count, int):
            raise _uncuttable(model, "its configuration has no num_hidden_layers")
        lists = [
            name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == count
        ]
        outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
        if len(outermost) != 1:
            found = ", ".join(outermost) or "none"
            raise _uncuttable(model, f"one list of {count} layers was looked for, and found: {found}")
        owner = outermost[0].rpartition(".")[0]
        while True:  # the list's owner, then what holds it: an encoder has its norm outside
            names = dict(model.get_submodule(owner).named_children())
            following = next((name for name in _FOLLOWING if isinstance(names.get(name), nn.Module)), None)
            if following:
                prefix = f"{owner}." if owner else ""
                return cls(layers=outermost[0], following=f"{prefix}{following}", num_layers=count)
            if not owner:
                return cls(layers=outermost[0], following="", num_layers=count)
            owner = owner.rpartition(".")[0]


def _uncuttable(model: nn.Module, problem: str) -> InputError:
    name = type(model).__name__
    return InputError(field="model", problem=f"{name} cannot be cut: {problem}", remedy="Use a model of another class")


def read_config(folder: Path) -> Any:
    """The configuration of a folder's model.

    Raises:
        InputError: the folder has no configuration that transformers knows.
    """
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        problem = f"{folder}: {' '.join(str(error).split())}"
        remedy = "Give a folder that save_pretrained wrote, of a class that this release of transformers knows"
        raise InputError(field="model", problem=problem, remedy=remedy) from error


def model_class(config: PreTrainedConfig, mappings: Sequence[Any] = _HEAD_MAPPINGS) -> type[PreTrainedModel]:
    """The class that a checkpoint was saved as, by its `architectures`, among those of its type.

    Args:
        config: of the checkpoint.
        mappings: of transformers, from a configuration's class to a model's: those that may be chosen from.

    Raises:
        InputError: the checkpoint names another class than transformers has for its type.
    """
    named = (getattr(config, "architectures", None) or [""])[0]
    found = [mapping[type(config)] for mapping in mappings if type(config) in mapping]
    known = [cls for entry in found for cls in (entry if isinstance(entry, tuple) else (entry,))]
    for cls in known:
        if cls.__name__ == named:
            return cls
    if not known or named:
        names = ", ".join(cls.__name__ for cls in known) or "none"
        problem = f"the checkpoint is a {named or type(config).__name__}; of its type can be cut here: {names}"
        raise InputError(field="model", problem=problem, remedy="Save the model as one of these classes")
    return known[0]


class _Leave(BaseException):
    """Carries the features out of the model. No error: nothing may catch it on the way."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


class _Muted(nn.Module):
    """Stands where the other part's module was: its names and plain attributes, and weights of no size."""


def _mute(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Makes a module, in its place, one without weights that has this forward."""
    for each in module.modules():
        each.__class__ = _Muted
        sizeless = {name: weight.new_empty(0) for name, weight in each._parameters.items() if weight is not None}
        each._parameters.clear()
        each._buffers.clear()
        each.__dict__.update(sizeless)  # models ask modules for the dtype of their weight
    module.forward = forward


def _leave(hidden_states: Tensor, *_: Any, **__: Any) -> None:
    raise _Leave(hidden_states)


def check_split(config: Any, split: int, *, cls: Any = None) -> Anatomy:
    """Where the layers of a model are that can be cut after this one. Builds it on the meta device, and reads nothing.

    Raises:
        InputError: a class that cannot be cut, or a split beyond its layers.
    """
    cls = cls or model_class(config)
    if "dynamic" in _rope_types(config):
        problem = f"{cls.__name__} with dynamic rotary embeddings, which depend on the requests before"
        raise InputError(field="model", problem=problem, remedy="Use a model with another rope_type")
    try:
        with torch.device("meta"):
            model = cls(config)
    except Exception as error:  # whatever a class says of a configuration that is not its own
        problem = f"no {cls.__name__} can be built: {type(error).__name__}: {error}"
        raise InputError(field="model", problem=problem, remedy="Restore the checkpoint's config.json") from error
    anatomy = Anatomy.of(model, config)
    if not 1 <= split <= anatomy.last_split:
        problem = f"{split} of {anatomy.num_layers} layers"
        raise InputError(field="split", problem=problem, remedy=f"Give 1 to {anatomy.last_split}")
    return anatomy


def _rope_types(config: Any) -> set[str]:
    """The kinds of rotary embeddings; a model may have one for each kind of attention."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [parameters, *(value for value in parameters.values() if isinstance(value, Mapping))]
    return {str(entry["rope_type"]) for entry in nested if "rope_type" in entry}


class _Part:
    """A model of which some modules are muted.

    Attributes:
        model: of the checkpoint's own class, or a subclass of its name.
        anatomy: where its layers are.
        config: the model's own.
    """

    def __init__(
        self, folder: Path, config: Any, split: int, device: torch.device, dtype: torch.dtype, *, cls: Any = None
    ) -> None:
        """Reads this part's weights, and no others.

        Args:
            folder: of the checkpoint.
            config: what `read_config` returned, or the part of it that describes the model.
            split: layers of the front, 1 ... L.
            device: to run on.
            dtype: to run in.
            cls: the model's class; by default the one that the checkpoint names.

        Raises:
            InputError: a split beyond the layers, a class that cannot be cut, or weights that lack a tensor.
        """
        cls = cls or model_class(config)
        self.anatomy = check_split(config, split, cls=cls)
        self.split, self.device, self.dtype = split, device, dtype
        # A longrope model writes its frequencies into itself at each call; others run in several threads at a time.
        self._turn = threading.Lock() if "longrope" in _rope_types(config) else nullcontext()
        self.model: Any = _load(folder, config, cls, self._mute_others, dtype).to(device)
        self.config: Any = self.model.config

    @property
    def num_layers(self) -> int:
        """Layers of the whole model."""
        return self.anatomy.num_layers

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights that this part holds, and has read; what is tied counts once."""
        return sum(tensor.nbytes for tensor in self.model.parameters())

    def new_cache(self) -> DynamicCache:
        """A key-value cache for one sequence, of as many layers as the whole model has."""
        return DynamicCache(config=self.config)

    def _mute_others(self, model: Any) -> None:
        """Mutes what belongs to the other part."""
        raise NotImplementedError

    def _stages(self, model: Any) -> list[nn.Module]:
        """The layers, and what follows them: stage k is where the features of split k enter."""
        layers = list(model.get_submodule(self.anatomy.layers))
        return [*layers, model.get_submodule(self.anatomy.following)] if self.anatomy.following else layers

    def _lengthen(self, cache: DynamicCache, muted: range, num_tokens: int) -> None:
        """Gives a cache's muted layers the length of the others: models ask any layer for it.

        Keys and values of one number a token do; of none, the cache would count no token.
        """
        nothing = torch.zeros(1, 1, num_tokens, 1, device=self.device, dtype=self.dtype)
        for layer in muted:
            if hasattr(cache.layers[layer], "get_seq_length"):  # a linear attention keeps a state, and no length
                cache.update(nothing, nothing, layer)


class Front(_Part):
    """Embeddings and layers 1 ... split: inputs -> features."""

    def __init__(
        self, folder: Path, config: Any, split: int, device: torch.device, dtype: torch.dtype, *, cls: Any = None
    ) -> None:
        config = copy.deepcopy(config)
        config.tie_word_embeddings = False  # the output matrix is the back's
        super().__init__(folder, config, split, device, dtype, cls=cls)

    @torch.inference_mode()
    def features(self, cache: DynamicCache | None = None, **inputs: Tensor) -> Tensor:
        """Features at the cut.

        Args:
            cache: of the sequence that the inputs continue; it takes them in.
            inputs: as the model's forward takes them, on any device.

        Returns:
            [tokens, d], on the part's device.
        """
        arguments: dict[str, Any] = {name: value.to(self.device) for name, value in inputs.items()}
        if cache is not None:
            arguments |= {"past_key_values": cache, "use_cache": True}
        try:
            with self._turn:
                self.model(**arguments)
        except _Leave as leaving:
            features: Tensor = leaving.features[0]
        if cache is not None:
            self._lengthen(cache, range(self.split, self.num_layers), len(features))
        return features

    def _mute_others(self, model: Any) -> None:
        before = _in_front(model, self.anatomy)
        others = [module for module in _beside(model, self.anatomy) if module not in before]
        for module in (*self._stages(model)[self.split :], *others):
            _mute(module, _leave)


class Back(_Part):
    """Layers split + 1 ... L, and what follows them: features -> the model's own output."""

    def __init__(
        self, folder: Path, config: Any, split: int, device: torch.device, dtype: torch.dtype, *, cls: Any = None
    ) -> None:
        super().__init__(folder, config, split, device, dtype, cls=cls)
        self._given = threading.local()
        self._stages(self.model)[split].register_forward_pre_hook(self._enter, with_kwargs=True)

    def output(self, features: Tensor, cache: DynamicCache | None = None, **inputs: Any) -> Any:
        """What the whole model's forward would return.

        Args:
            features: [tokens, d], as a `Front` gave them; may require gradients.
            cache: of the sequence that the features continue; it takes them in.
            inputs: as the model's forward takes them; of the model's own inputs only the shape matters.
        """
        arguments = {
            name: value.to(self.device) if isinstance(value, Tensor) else value for name, value in inputs.items()
        }
        if cache is not None:
            arguments |= {"past_key_values": cache, "use_cache": True}
        self._given.features = features.to(self.device, self.dtype)[None]
        try:
            with self._turn:
                output = self.model(**arguments)
        finally:
            del self._given.features
        if cache is not None:
            self._lengthen(cache, range(self.split), len(features))
        return output

    def _mute_others(self, model: Any) -> None:
        layers, in_front = self._stages(model)[: self.split], _in_front(model, self.anatomy)
        if getattr(model.config, "tie_word_embeddings", False) and model.get_output_embeddings() is not None:
            in_front = [module for module in in_front if module is not model.get_input_embeddings()]
        for module in (*layers, *in_front):
            _mute(module, self._pass)
        _mute_pooling(model)

    def _pass(self, *_: Any, **__: Any) -> Tensor:
        features: Tensor = self._given.features
        return features

    def _enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Puts the features in the place of the hidden states, which every layer takes first."""
        if args:
            return (self._given.features, *args[1:]), kwargs
        return args, {**kwargs, next(iter(kwargs)): self._given.features}


def _mute_pooling(model: Any) -> None:
    """Mutes what makes one vector of all tokens of a base model: nothing here reads it, and checkpoints may lack it."""
    if isinstance(model, MODEL_MAPPING.get(type(model.config), ())):
        for name in _POOLING:
            module = getattr(model, name, None)
            if isinstance(module, nn.Module):
                _mute(module, lambda *_, **__: None)


def _beside(model: nn.Module, anatomy: Anatomy) -> list[nn.Module]:
    """The outermost modules with weights that hold neither the layers nor what follows them."""
    spine = (anatomy.layers, anatomy.following)
    found: list[nn.Module] = []

    def visit(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if path in spine:
                continue
            if any(other.startswith(f"{path}.") for other in spine):
                visit(child, f"{path}.")
            elif next(child.parameters(), None) is not None:
                found.append(child)

    visit(model, "")
    return found


def _in_front(model: Any, anatomy: Anatomy) -> list[nn.Module]:
    """Of the modules `_beside`, those that work before the first layer: of the base model, but for its last steps."""
    is_base = isinstance(model, MODEL_MAPPING.get(type(model.config), ()))
    base = model if is_base else getattr(model, model.base_model_prefix, model)
    inside, last = set(base.modules()), set()
    for module in base.modules():
        last |= {child for name, child in module.named_children() if name in (*_FOLLOWING, *_POOLING)}
    return [module for module in _beside(model, anatomy) if module in inside and module not in last]


def load_whole(folder: Path, config: Any, dtype: torch.dtype, *, cls: Any = None) -> Any:
    """The model that was not cut, on the CPU.

    Raises:
        InputError: as a part does; or the checkpoint has tensors of layers that the model has no place for, as one of
            another class, or of more layers than its configuration says.
    """
    return _load(folder, config, cls or model_class(config), _mute_pooling, dtype, whole_layers=True)


def _load(
    folder: Path,
    config: Any,
    whole: Any,
    mute: Callable[[Any], None],
    dtype: torch.dtype,
    *,
    whole_layers: bool = False,
) -> Any:
    """`from_pretrained` of a subclass that mutes modules as soon as they are built, on the meta device."""

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        whole.__init__(self, config, *args, **kwargs)
        mute(self)

    part: Any = type(whole.__name__, (whole,), {"__init__": init, "__module__": whole.__module__})
    try:
        with _quiet():
            model, report = part.from_pretrained(
                folder, config=config, dtype=dtype, local_files_only=True, output_loading_info=True
            )
    except UnpicklingError as error:
        problem = f"{folder}: its pytorch_model.bin holds more than tensors, and code in a pickle is never run"
        remedy = "Convert it with save_pretrained where you trust it"
        raise InputError(field="weights", problem=problem, remedy=remedy) from error
    except (OSError, SafetensorError) as error:
        problem = f"{folder}: {' '.join(str(error).split())}"
        raise InputError(field="weights", problem=problem, remedy="Restore the weights") from error
    if report["missing_keys"]:
        problem = f"{folder} lacks {', '.join(sorted(report['missing_keys'])[:5])}"
        raise InputError(field="weights", problem=problem, remedy="Restore the weights")
    if whole_layers:
        layers = f"{Anatomy.of(model, config).layers}."
        known = (layers, f"{model.base_model_prefix}.{layers}")
        left = sorted(name for name in report["unexpected_keys"] if name.startswith(known))
        left = [name for name in left if not name.endswith("rotary_emb.inv_freq")]  # stored by old releases
        if left:
            problem = (
                f"{folder} has tensors that a {whole.__name__} of {config.num_hidden_layers} layers lacks: {left[0]}"
            )
            raise InputError(field="weights", problem=problem, remedy="Restore the config.json that belongs to them")
    return model.eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports the other part's tensors as unexpected, at length."""
    verbosity, has_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if has_bars:
            transformers_logging.enable_progress_bar()
