"""Weight files as packages ship them -> `save_pretrained` folders.

Hides the formats: GGUF for language models, an ONNX graph for DINOv2 and its saliency head, a state dict for
EfficientNet-Lite.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Dinov2Config,
    Dinov2Model,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    modeling_gguf_pytorch_utils,
)
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.utils.logging import disable_progress_bar

from dtufc.errors import InputError
from dtufc.models.cache import require_space
from dtufc.models.cnn import drop_excitation

IMAGE_SIZE = 518  # 37 x 37 patches of 14: the position grid that was trained
PATCH_SIZE = 14

# Modules as the ONNX graph names them -> as transformers does since release 5.
_LINEAR = {
    "attention/attention/query": "attention.q_proj",
    "attention/attention/key": "attention.k_proj",
    "attention/attention/value": "attention.v_proj",
    "attention/output/dense": "attention.o_proj",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}


# Modules as the package efficientnet_lite_pytorch names them -> as transformers does.
_LITE = {
    "_conv_stem": "efficientnet.embeddings.convolution",
    "_bn0": "efficientnet.embeddings.batchnorm",
    "_conv_head": "efficientnet.encoder.top_conv",
    "_bn1": "efficientnet.encoder.top_bn",
    "_fc": "classifier",
}
_LITE_BLOCK = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
_LITE0_SIDE = 224

_SHARD_SIZE = "2GB"


def convert(path: Path, folder: Path, dtype: str = "float32") -> None:
    """A file of weights -> a `save_pretrained` folder, by the file's suffix.

    Args:
        path: of a .gguf (any causal language model that transformers reads), a .onnx (a DINOv2 with a saliency head) or
            a .pth (an EfficientNet-Lite0).
        folder: an empty one.
        dtype: of the weights, where the file is a GGUF: float32 or bfloat16.

    Raises:
        InputError: a file of another format, or one whose content cannot be converted, or a disk that is too full.
    """
    disable_progress_bar()
    match path.suffix:
        case ".gguf":
            convert_gguf(path, folder, getattr(torch, dtype))
        case ".onnx":
            convert_dinov2(path, folder)
        case ".pth":
            convert_efficientnet_lite(path, folder)
        case _:
            problem, remedy = f"{path.name} cannot be converted", "Give a .gguf, .onnx or .pth"
            raise InputError(field="weights", problem=problem, remedy=remedy)


def convert_gguf(gguf: Path, folder: Path, dtype: torch.dtype) -> None:
    """A causal language model in GGUF -> weights, config, tokenizer and chat template in `folder`.

    The weights are held once, as `dtype`, and one tensor at a time in float32.

    Raises:
        InputError: an architecture that transformers does not read, or a file that lacks tensors.
    """
    with _one_bar(f"converting {gguf.name}"):
        model = _empty_model(gguf, dtype)
        require_space(folder, sum(weight.nbytes for weight in model.state_dict().values()))
        try:
            checkpoint = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=model, torch_dtype=dtype)
            model.load_state_dict(checkpoint.pop("tensors"), strict=False, assign=True)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        except Exception as error:  # of parsers that publish no list of them: struct, numpy, torch
            raise _cannot_convert(gguf, " ".join(str(error).split())) from error
        model.tie_weights()
        missing = [name for name, weight in model.state_dict().items() if weight.is_meta]
        if missing:
            raise _cannot_convert(gguf, f"it lacks {', '.join(missing[:5])}")
        model.save_pretrained(folder, max_shard_size=_SHARD_SIZE)
        tokenizer.save_pretrained(folder)


def _empty_model(gguf: Path, dtype: torch.dtype) -> Any:
    """The model of a GGUF on the meta device, of the class that transformers has for its config."""
    try:
        config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype)
    except Exception as error:  # as above
        raise _cannot_convert(gguf, " ".join(str(error).split())) from error


def _cannot_convert(gguf: Path, problem: str) -> InputError:
    remedy = "Give a GGUF of an architecture that this release of transformers reads, or a save_pretrained folder"
    return InputError(field="weights", problem=f"{gguf.name}: {problem}", remedy=remedy)


@contextmanager
def _one_bar(description: str) -> Iterator[None]:
    """One progress bar. transformers draws its own over a GGUF's tensors, with tqdm: ours takes its place."""
    theirs = vars(modeling_gguf_pytorch_utils).get("tqdm")
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=None)

        def tracked(tensors: Sequence[Any], **_: Any) -> Iterable[Any]:
            return progress.track(tensors, total=len(tensors), task_id=task)

        modeling_gguf_pytorch_utils.tqdm = tracked
        try:
            yield
        finally:
            modeling_gguf_pytorch_utils.tqdm = theirs


def convert_dinov2(path: Path, folder: Path) -> None:
    """A DINOv2 with a saliency head in ONNX -> the backbone in `folder`, the head in `folder/head`."""
    graph = onnx.load(str(path)).graph
    constants = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    backbone = _backbone(graph, constants)
    model = Dinov2Model(_dinov2_config(backbone))
    model.load_state_dict(backbone, strict=True)
    model.save_pretrained(folder)
    head = {n.removeprefix("decoder."): value for n, value in constants.items() if n.startswith("decoder.")}
    (folder / "head").mkdir()
    save_file(head, folder / "head" / "model.safetensors")
    config = {"kind": "saliency", "widths": [int(head[f"bn{i}.weight"].shape[0]) for i in (1, 2, 3)]}
    (folder / "head" / "config.json").write_text(json.dumps(config), encoding="utf-8")


def convert_efficientnet_lite(path: Path, folder: Path) -> None:
    """A state dict of EfficientNet-Lite0 with the names of `efficientnet_lite_pytorch` -> a folder of transformers'.

    The weights come from TensorFlow: colours from -1 to 1, `same` padding. The classes are ImageNet-1k's, in order.
    """
    stored = torch.load(path, map_location="cpu", weights_only=True)
    names = resources.files("dtufc.models.zoo").joinpath("imagenet.txt").read_text(encoding="utf-8").splitlines()
    config = EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        image_size=_LITE0_SIDE,
        hidden_dim=1280,
        hidden_act="relu6",
        squeeze_expansion_ratio=0.0,
        batch_norm_eps=1e-3,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    model = EfficientNetForImageClassification(config)
    drop_excitation(model)
    model.load_state_dict({_lite_renamed(name): value for name, value in stored.items()}, strict=True)
    model.save_pretrained(folder)
    view = {
        "size": {"shortest_edge": _LITE0_SIDE},
        "crop_pct": 0.875,
        "image_mean": [127 / 255] * 3,
        "image_std": [128 / 255] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(view), encoding="utf-8")


def _lite_renamed(name: str) -> str:
    """The name that a tensor of `efficientnet_lite_pytorch` has in EfficientNetForImageClassification."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", name)
    if block:
        return f"efficientnet.encoder.blocks.{block[1]}.{_LITE_BLOCK[block[2]]}.{block[3]}"
    module, _, rest = name.partition(".")
    return f"{_LITE[module]}.{rest}"


def _backbone(graph: onnx.GraphProto, constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of Dinov2Model. Linear weights are constants named only by the node that uses them, transposed."""
    state: dict[str, Tensor] = {}
    for name, value in constants.items():
        if name.startswith("backbone."):
            state[_renamed(name.removeprefix("backbone."))] = value
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants:
            layer, module = node.name.removeprefix("/backbone/encoder/").removesuffix("/MatMul").split("/", 1)
            state[f"encoder.{layer}.{_LINEAR[module]}.weight"] = constants[node.input[1]].T.contiguous()
    read_by = {node.name: node.input[0] for node in graph.node if node.input and node.input[0] in constants}
    class_row = constants[read_by["/backbone/embeddings/Concat_6"]]
    grid_rows = constants[read_by["/backbone/embeddings/Reshape_1"]]
    state["embeddings.position_embeddings"] = torch.cat([class_row, grid_rows], dim=1)
    state["embeddings.mask_token"] = torch.zeros(1, class_row.shape[-1])  # for pre-training only: not exported
    return state


def _renamed(name: str) -> str:
    for old, new in _LINEAR.items():
        name = name.replace(old.replace("/", ".") + ".", new + ".")
    return name


def _dinov2_config(state: Mapping[str, Tensor]) -> Dinov2Config:
    hidden_size = state["layernorm.weight"].shape[0]
    layers = {int(name.split(".")[2]) for name in state if name.startswith("encoder.layer.")}
    return Dinov2Config(
        hidden_size=hidden_size,
        num_hidden_layers=len(layers),
        num_attention_heads=hidden_size // 64,
        mlp_ratio=state["encoder.layer.0.mlp.fc1.bias"].shape[0] // hidden_size,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )
