"""`python -m dtufc_research.evaluation.cuts`: which classes of transformers can be cut, written to docs/models.md.

For each class a tiny random checkpoint is saved, cut at its first, middle and last layer, and held against the whole:
a prompt, then token after token with caches of keys and values; or one image. Equal means bit for bit, in float32.
"""

import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging

from dtufc.errors import InputError
from dtufc.models import decoder, vit
from dtufc.models.proof import Steps, prove
from dtufc.models.split import Back, Front, load_whole, read_config

DOCS: Final = Path(__file__).parents[3] / "docs"
NUM_LAYERS: Final = 6
SPLITS: Final = (1, NUM_LAYERS // 2, NUM_LAYERS)
_CPU: Final = torch.device("cpu")

DECODERS: Final = (
    *("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3Text", "Phi3", "GPT2", "OPT", "GPTNeoX", "Olmo2"),
    *("SmolLM3", "Granite", "Qwen3Moe", "Mixtral", "DeepseekV3", "Bloom", "Falcon", "Phi", "Olmo", "Olmo3", "Cohere"),
    *("Cohere2", "StableLm", "Starcoder2", "GPTBigCode", "GPTJ", "CodeGen", "Mpt", "Persimmon", "Glm", "Glm4"),
    *("Nemotron", "GraniteMoe", "Phimoe", "Qwen2Moe", "Olmoe", "GptOss", "Exaone4", "Ernie4_5", "Arcee", "SeedOss"),
    *("Apertus", "BioGpt", "VaultGemma", "Lfm2", "XGLM", "Ministral3", "MiniMaxM2", "Glm4Moe", "Jais2"),
    *("Qwen3Next", "Qwen3_5Text"),  # with layers that keep a state and no keys
)
REJECTED: Final = ("NanoChat", "MiniMax", "FalconH1", "Gemma4Text", "RecurrentGemma", "Mamba")
VISION: Final = (
    "Dinov2Model",
    "Dinov2ForImageClassification",
    "Dinov2WithRegistersModel",
    "Dinov2WithRegistersForImageClassification",
    "DINOv3ViTModel",
    "ViTModel",
    "ViTForImageClassification",
    "SiglipVisionModel",
    "BeitForImageClassification",
    "DeiTForImageClassification",
)
# Every name that some configuration has for a size; a class takes those that it knows.
_SMALL: Final[Mapping[str, int | float]] = {
    "vocab_size": 97,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), NUM_LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 4),
    "num_key_value_heads": 2,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "rotary_dim"), 4),
    **{"num_experts_per_tok": 2, "moe_intermediate_size": 16, "sliding_window": 8},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
_OWN: Final[Mapping[str, Mapping[str, Any]]] = {
    "OPT": {"word_embed_proj_dim": 16, "do_layer_norm_before": False},  # as the one OPT with projections has it
    "DeepseekV3": {
        **{"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8},
        **{"qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1},
        **{"first_k_dense_replace": 1},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One class and what came of cutting it.

    Attributes:
        name: of the class.
        problem: why it is not served; empty where split equals whole at every cut.
        whole_bytes: of the weights.
        part_bytes: of front and back, by split: what each holds, and reads.
    """

    name: str
    problem: str
    whole_bytes: int
    part_bytes: Mapping[int, tuple[int, int]]


def save_decoder(name: str, folder: Path) -> None:
    """A random language model of class NAME...ForCausalLM with six layers, as `save_pretrained` writes it."""
    config_class = getattr(transformers, f"{name}Config")
    defaults = config_class()
    known = {*defaults.to_dict(), *defaults.attribute_map}
    sizes = {key: value for key, value in _SMALL.items() if key in known} | dict(_OWN.get(name, {}))
    config = config_class(**sizes)
    _save(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config), folder)


def save_vision(name: str, folder: Path) -> None:
    """A random transformer for images of class NAME with six layers, on 4 x 4 patches."""
    cls = getattr(transformers, name)
    sizes = {
        **{"hidden_size": 32, "num_hidden_layers": NUM_LAYERS, "num_attention_heads": 4, "intermediate_size": 64},
        **{"image_size": 56, "patch_size": 14},
    }
    _save(cls(cls.config_class(**sizes, num_labels=7)), folder)


def measure(name: str, folder: Path, config: Any, steps: Steps, *, cls: Any = None) -> Cut:
    """Cuts the model of a folder at every one of SPLITS."""
    try:
        parts = {split: _parts(folder, config, split, steps, cls) for split in SPLITS}
        whole = load_whole(folder, config, torch.float32, cls=cls)
    except InputError as error:
        return Cut(name=name, problem=error.context["problem"], whole_bytes=0, part_bytes={})
    return Cut(name=name, problem="", whole_bytes=sum(p.nbytes for p in whole.parameters()), part_bytes=parts)


def decoder_cuts(names: tuple[str, ...]) -> Iterator[Cut]:
    """Measures classes of language models."""
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            save_decoder(name, folder)
            config = read_config(folder)
            try:
                cls = decoder.decoder_class(config)
            except InputError as error:
                class_name = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__
                yield Cut(name=class_name, problem=error.context["problem"], whole_bytes=0, part_bytes={})
                continue
            yield measure(cls.__name__, folder, config, decoder.proof_steps(config), cls=cls)


def vision_cuts(names: tuple[str, ...] = VISION) -> Iterator[Cut]:
    """Measures classes of transformers for images."""
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            save_vision(name, folder)
            config = vit.read_vit_config(folder)
            cls = None if vit.classifies(config) else vit.dense_class(config)
            yield measure(name, folder, config, vit.proof_steps(config), cls=cls)


def _save(model: Any, folder: Path) -> None:
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)


def _parts(folder: Path, config: Any, split: int, steps: Steps, cls: Any) -> tuple[int, int]:
    prove(folder, config, split, steps, cls=cls)
    front = Front(folder, config, split, _CPU, torch.float32, cls=cls)
    back = Back(folder, config, split, _CPU, torch.float32, cls=cls)
    return front.num_bytes, back.num_bytes


def _row(cut: Cut) -> str:
    if cut.problem:
        return f"| {cut.name} | | no | {cut.problem.replace('|', '/')} |"
    front, back = cut.part_bytes[NUM_LAYERS // 2]
    share = f"{front / cut.whole_bytes:.0%} / {back / cut.whole_bytes:.0%}"
    return f"| {cut.name} | {', '.join(map(str, SPLITS))} of {NUM_LAYERS} | yes | {share} |"


def main() -> int:
    torch.set_num_threads(1)  # tiny layers wait longer for threads than they compute
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    served, rejected, images = list(decoder_cuts(DECODERS)), list(decoder_cuts(REJECTED)), list(vision_cuts())
    head = "| class | cuts | split equals whole | weights of front / back, cut in the middle |\n|---|---|---|---|"
    failed = [cut.name for cut in (*served, *images) if cut.problem]
    num_cut = len(served) + len(images)
    (DOCS / "models.md").write_text(
        f"""# Which models can be served

Language models of transformers whose layers are one list, and transformers for images. Of {len(served)} classes of the
first kind and {len(images)} of the second that were cut, {num_cut - len(failed)} answer bit for bit as the whole model
does. A model of another class is tried when it is first loaded: it is served if its answers, cut, equal those of the
whole, and rejected by name if not.

Made by `python -m dtufc_research.evaluation.cuts` with transformers {transformers.__version__} and torch
{torch.__version__.partition("+")[0]}: tiny random checkpoints of {NUM_LAYERS} layers in float32, a prompt of 24 tokens
and six tokens one by one with caches, another sequence between them, or one image. A test takes the other part's
tensors out of the file: a part reads its own and no others. Shares above 100 % in sum are tied embeddings.

## Language models (family `decoder`)

{head}
{chr(10).join(map(_row, served))}

## Transformers for images (family `vit`)

{head}
{chr(10).join(map(_row, images))}

## Language models that are not served

| class | | | why |
|---|---|---|---|
{chr(10).join(map(_row, rejected))}

`RecurrentGemma` keeps a state in its layers, which sequences would share. `Mamba` takes another cache.
`NanoChat` calls its final norm before the first layer too. `MiniMax` keeps a cache of its own
kind. `FalconH1` reads a buffer of the first layer from outside of it. `Gemma 3n` and `Gemma 4` have inputs for each
layer, and keys that layers share, which a cut would part (of `Gemma 3n` no tiny checkpoint could be made). Rotary
embeddings of type `dynamic` depend on the requests before; such a model is rejected, whatever its class.
""",
        encoding="utf-8",
    )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
