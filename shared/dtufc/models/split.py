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
import inspect
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import DynamicLayer
from transformers.utils import logging as transformers_logging

from dtufc.errors import InputError
from dtufc.models.sequence_cache import SequenceCache

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
_MEASURED_TOKENS: Final = (2, 4)
_SHARED_TOKENS: Final = (3, 5)  # of two sequences that share a pass on trial,
_SHARED_ERROR: Final = 0.05  # and how far results may differ, in units of their spread: bfloat16 rounds to 0.02
_log = logging.getLogger(__name__)
T = TypeVar("T")
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


def _padded(states: Tensor, length: int) -> Tensor:
    """Keys or values [1, heads, tokens, d] to [1, heads, length, d], with zeros in front."""
    return F.pad(states, (0, 0, length - states.shape[2], 0))


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
        self._own = self._own_layers()
        self._others = [layer for layer in range(self.num_layers) if layer not in self._own]
        # A longrope model writes its frequencies into itself at each call; others run in several threads at a time.
        self._turn = threading.Lock() if "longrope" in _rope_types(config) else nullcontext()
        self._measuring = threading.Lock()
        self._cache_bytes: tuple[int, int] | None = None  # of any sequence, and of each token
        self.model: Any = _load(folder, config, cls, self._mute_others, dtype).to(device)
        self.config: Any = self.model.config
        self._takes_positions = "position_ids" in inspect.signature(self.model.forward).parameters

    @property
    def num_layers(self) -> int:
        """Layers of the whole model."""
        return self.anatomy.num_layers

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights that this part holds, and has read; what is tied counts once."""
        return sum(tensor.nbytes for tensor in self.model.parameters())

    def new_cache(self) -> SequenceCache:
        """A key-value cache for one sequence, of as many layers as the whole model has."""
        return SequenceCache(self.config)

    def cache_bytes(self, num_tokens: int) -> int:
        """Bytes of keys and values that a sequence of so many tokens has at most; measured once, on few tokens."""
        with self._measuring:
            if self._cache_bytes is None:
                few, more = (self._measure_cache(count) for count in _MEASURED_TOKENS)
                slope = math.ceil((more - few) / (_MEASURED_TOKENS[1] - _MEASURED_TOKENS[0]))
                self._cache_bytes = (few - slope * _MEASURED_TOKENS[0], slope)
        constant, slope = self._cache_bytes
        return max(0, constant) + slope * num_tokens

    @torch.inference_mode()
    def can_share(self) -> bool:
        """Whether one pass may advance several sequences by a token each: tried, on random inputs.

        Layers with a window or a state are never shared: they are not padded as others are.
        """
        if any(type(layer) is not DynamicLayer for layer in self.new_cache().layers.layers):
            return False
        generator = torch.Generator().manual_seed(0)
        first = [self._trial(count, generator) for count in _SHARED_TOKENS]
        then = [self._trial(1, generator) for _ in first]
        alone, shared = ([self.new_cache() for _ in first] for _ in range(2))
        for caches in (alone, shared):
            for trial, cache in zip(first, caches, strict=True):
                self._alone(trial, cache)
        expected = torch.cat([self._alone(trial, cache) for trial, cache in zip(then, alone, strict=True)])
        try:
            found = self._shared(then, shared)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:  # a class that takes no mask, or no padding
            _log.info("%s advances one sequence at a time: %s", type(self.model).__name__, error)
            return False
        return bool((found - expected).abs().max() <= _SHARED_ERROR * expected.std())

    def _measure_cache(self, num_tokens: int) -> int:
        cache = self.new_cache()
        self._alone(self._trial(num_tokens, torch.Generator()), cache)
        return cache.num_bytes

    def _trial(self, num_tokens: int, generator: torch.Generator) -> Tensor:
        """Random inputs of so many tokens."""
        raise NotImplementedError

    def _alone(self, trial: Tensor, cache: SequenceCache) -> Tensor:
        """[1, n]: what this part makes of the last one of these inputs."""
        raise NotImplementedError

    def _shared(self, trials: Sequence[Tensor], caches: Sequence[SequenceCache]) -> Tensor:
        """[sequences, n]: `_alone` of one input of each sequence, in one pass."""
        raise NotImplementedError

    def _together(self, caches: Sequence[SequenceCache], run: Callable[[dict[str, Any]], T]) -> T:
        """Runs one more token of each of several sequences in one pass.

        Keys and values are copied together, those of shorter sequences behind padding that the mask leaves out.

        Args:
            caches: of the sequences; they take the token in.
            run: the pass, with what the model's forward takes beside the tokens.
        """
        lengths = [cache.num_tokens for cache in caches]
        longest = max(lengths)
        batch, held = DynamicCache(config=self.config), [cache.before() for cache in caches]
        for index in self._own:
            layers = [each.layers[index] for each in held]
            keys, values = ([_padded(getattr(layer, name), longest) for layer in layers] for name in ("keys", "values"))
            batch.update(torch.cat(keys), torch.cat(values), index)
        self._lengthen(batch, (len(caches), longest))
        mask = torch.zeros(len(caches), longest + 1, dtype=torch.long)
        for row, length in zip(mask, lengths, strict=True):
            row[longest - length :] = 1
        inputs: dict[str, Any] = {"attention_mask": mask, "past_key_values": batch, "use_cache": True}
        if self._takes_positions:
            inputs["position_ids"] = torch.tensor(lengths)[:, None]
        result = run(inputs)
        for index in self._own:
            added = [states[:, :, -1:] for states in (batch.layers[index].keys, batch.layers[index].values)]
            for row, cache in enumerate(caches):
                cache.layers.update(*(states[row : row + 1] for states in added), index)
        for cache in caches:
            self._lengthen(cache.layers, (1, 1))
            cache.after(1)
        return result

    def _mute_others(self, model: Any) -> None:
        """Mutes what belongs to the other part."""
        raise NotImplementedError

    def _own_layers(self) -> range:
        """Numbers of the layers that are not muted."""
        raise NotImplementedError

    def _stages(self, model: Any) -> list[nn.Module]:
        """The layers, and what follows them: stage k is where the features of split k enter."""
        layers = list(model.get_submodule(self.anatomy.layers))
        return [*layers, model.get_submodule(self.anatomy.following)] if self.anatomy.following else layers

    def _lengthen(self, cache: DynamicCache, shape: tuple[int, int]) -> None:
        """Gives a cache's muted layers the length of the others, [sequences, tokens]: models ask any layer for it.

        Keys and values of one number a token do; of none, the cache would count no token.
        """
        nothing = torch.zeros(shape[0], 1, shape[1], 1, device=self.device, dtype=self.dtype)
        for layer in self._others:
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
    def features(self, cache: SequenceCache | None = None, **inputs: Tensor) -> Tensor:
        """Features at the cut.

        Args:
            cache: of the sequence that the inputs continue; it takes them in.
            inputs: as the model's forward takes them, on any device.

        Returns:
            [tokens, d], on the part's device.
        """
        if cache is None:
            return self._run(inputs)[0]
        features = self._run({**inputs, "past_key_values": cache.before(), "use_cache": True})[0]
        self._lengthen(cache.layers, (1, len(features)))
        cache.after(len(features))
        return features

    @torch.inference_mode()
    def features_together(self, caches: Sequence[SequenceCache], token_ids: Tensor) -> Tensor:
        """`features` of one more token of each of several sequences, in one pass; of a part that `can_share`.

        Args:
            caches: of the sequences; they take the tokens in.
            token_ids: int64[sequences, 1].

        Returns:
            [sequences, 1, d], on the part's device.
        """
        return self._together(caches, lambda inputs: self._run({**inputs, "input_ids": token_ids}))

    def _run(self, inputs: dict[str, Any]) -> Tensor:
        arguments = {
            name: value.to(self.device) if isinstance(value, Tensor) else value for name, value in inputs.items()
        }
        try:
            with self._turn:
                self.model(**arguments)
        except _Leave as leaving:
            return leaving.features
        raise AssertionError("a front's model always leaves")

    def _trial(self, num_tokens: int, generator: torch.Generator) -> Tensor:
        return torch.randint(int(self.config.get_text_config().vocab_size), (num_tokens,), generator=generator)

    def _alone(self, trial: Tensor, cache: SequenceCache) -> Tensor:
        return self.features(cache, input_ids=trial[None])[-1:]

    def _shared(self, trials: Sequence[Tensor], caches: Sequence[SequenceCache]) -> Tensor:
        return self.features_together(caches, torch.stack(list(trials)))[:, -1]

    def _own_layers(self) -> range:
        return range(self.split)

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

    def output(self, features: Tensor, cache: SequenceCache | None = None, **inputs: Any) -> Any:
        """What the whole model's forward would return.

        Args:
            features: [tokens, d], as a `Front` gave them; may require gradients.
            cache: of the sequence that the features continue; it takes them in.
            inputs: as the model's forward takes them; of the model's own inputs only the shape matters.
        """
        if cache is None:
            return self._run(features[None], inputs)
        output = self._run(features[None], {**inputs, "past_key_values": cache.before(), "use_cache": True})
        self._lengthen(cache.layers, (1, len(features)))
        cache.after(len(features))
        return output

    def output_together(self, features: Sequence[Tensor], caches: Sequence[SequenceCache]) -> Any:
        """`output` of one more token of each of several sequences, in one pass; of a part that `can_share`.

        Args:
            features: [1, d] of each sequence.
            caches: of the sequences; they take the tokens in.

        Returns:
            The model's own output, of a batch of sequences.
        """
        blank = torch.zeros(len(caches), 1, dtype=torch.long)
        rows = torch.stack([row.to(self.device, self.dtype) for row in features])
        return self._together(caches, lambda inputs: self._run(rows, {**inputs, "input_ids": blank}))

    def _run(self, features: Tensor, inputs: dict[str, Any]) -> Any:
        """Features [sequences, tokens, d] to the model's own output."""
        arguments = {
            name: value.to(self.device) if isinstance(value, Tensor) else value for name, value in inputs.items()
        }
        self._given.features = features.to(self.device, self.dtype)
        try:
            with self._turn:
                return self.model(**arguments)
        finally:
            del self._given.features

    def _trial(self, num_tokens: int, generator: torch.Generator) -> Tensor:
        return torch.randn(num_tokens, self.config.hidden_size, generator=generator)

    def _alone(self, trial: Tensor, cache: SequenceCache) -> Tensor:
        blank = torch.zeros(1, len(trial), dtype=torch.long)
        logits: Tensor = self.output(trial, cache, input_ids=blank).logits[0, -1:]
        return logits

    def _shared(self, trials: Sequence[Tensor], caches: Sequence[SequenceCache]) -> Tensor:
        logits: Tensor = self.output_together(trials, caches).logits[:, -1]
        return logits

    def _own_layers(self) -> range:
        return range(self.split, self.num_layers)

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
