"""Weight files as packages ship them -> `save_pretrained` folders.

Hides the formats: GGUF for SmolLM2, an ONNX graph for DINOv2 and its saliency head, a state dict for EfficientNet-Lite.
"""

import json
import re
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    Dinov2Config,
    Dinov2Model,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    LlamaForCausalLM,
)
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.utils.logging import disable_progress_bar

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


def convert_llama(gguf: Path, folder: Path) -> None:
    """A LLaMA in GGUF -> float32 weights, config and tokenizer in `folder`."""
    disable_progress_bar()
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = LlamaForCausalLM(config)
    checkpoint = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=model, torch_dtype=torch.float32)
    missing, unexpected = model.load_state_dict(checkpoint["tensors"], strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:  # the output matrix is tied to the input's
        raise ValueError(f"{gguf.name}: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def convert_dinov2(path: Path, folder: Path) -> None:
    """A DINOv2 with a saliency head in ONNX -> the backbone in `folder`, the head in `folder/head`."""
    disable_progress_bar()
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


CONVERTERS: Mapping[str, Callable[[Path, Path], None]] = {
    "llama": convert_llama,
    "dinov2": convert_dinov2,
    "cnn": convert_efficientnet_lite,
}
