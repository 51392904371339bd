"""A model of any class is cut without a copied forward pass: split equals whole, bit for bit."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM

from dtufc.errors import InputError
from dtufc.models import decoder, vit
from dtufc.models.proof import prove, require
from dtufc.models.split import Back, Front, load_whole, read_config
from dtufc_research.evaluation.cuts import DECODERS, NUM_LAYERS, SPLITS, VISION, save_decoder, save_vision

CPU = torch.device("cpu")
LARGEST_SHARE = 0.1  # of the weights, that embeddings and heads may add to a part's layers in these checkpoints


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTUFC_CACHE", str(tmp_path / "cache"))


def parts(folder: Path, split: int, config: Any = None, cls: Any = None) -> tuple[Front, Back]:
    config = config or read_config(folder)
    return tuple(part(folder, config, split, CPU, torch.float32, cls=cls) for part in (Front, Back))  # type: ignore[return-value]


@pytest.mark.parametrize("name", DECODERS)
def test_a_language_model_of_any_class_cut_anywhere_is_the_whole_one(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_decoder(name, folder)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(3, 90, (1, 30), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = whole(input_ids=ids, use_cache=False).logits
        cache = DynamicCache(config=whole.config)
        steps = [ids[:, :12], *(ids[:, at : at + 1] for at in range(12, 30))]
        one_by_one = [whole(input_ids=step, past_key_values=cache, use_cache=True).logits for step in steps]
        for split in SPLITS:
            front, back = parts(folder, split)
            assert torch.equal(back.output(front.features(input_ids=ids), input_ids=ids * 0).logits, expected)
            at_edge, at_cloud = front.new_cache(), back.new_cache()
            for step, logits in zip(steps, one_by_one, strict=True):
                features = front.features(at_edge, input_ids=step)
                assert torch.equal(back.output(features, at_cloud, input_ids=step * 0).logits, logits)
    total = sum(weight.nbytes for weight in whole.parameters())
    front, back = parts(folder, NUM_LAYERS // 2)
    assert max(front.num_bytes, back.num_bytes) < (0.5 + LARGEST_SHARE) * total


@pytest.mark.parametrize("name", VISION)
def test_a_transformer_for_images_cut_anywhere_is_the_whole_one(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_vision(name, folder)
    config = vit.read_vit_config(folder)
    cls = None if vit.classifies(config) else vit.dense_class(config)
    whole = load_whole(folder, config, torch.float32, cls=cls)
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    for split in SPLITS:
        front, back = parts(folder, split, config, cls)
        features = front.features(pixel_values=pixels)
        assert features.shape == (vit.prefix_tokens(config) + 4 * 4, 32)
        with torch.inference_mode():
            output, expected = back.output(features, pixel_values=pixels * 0), whole(pixel_values=pixels)
        field = "logits" if hasattr(expected, "logits") else "last_hidden_state"
        assert torch.equal(output[field], expected[field])


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("Dinov2Model", 1), ("Dinov2WithRegistersModel", 5), ("DINOv3ViTModel", 1), ("SiglipVisionModel", 0)],
)
def test_prefix_tokens_are_those_of_the_configuration(name: str, prefix: int, tmp_path: Path) -> None:
    save_vision(name, tmp_path / "model")
    assert vit.prefix_tokens(vit.read_vit_config(tmp_path / "model")) == prefix


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "GPT2", "Bloom"])
def test_each_part_reads_its_own_tensors_and_no_others(name: str, tmp_path: Path) -> None:
    """The other part's tensors are taken out of the file: a part that read one would fail."""
    folder = tmp_path / "model"
    save_decoder(name, folder)
    file, split = folder / "model.safetensors", 2
    tensors = load_file(file)
    ids = torch.arange(3, 23)[None]
    front, back = parts(folder, split)
    features = front.features(input_ids=ids)
    with torch.inference_mode():
        logits = back.output(features, input_ids=ids * 0).logits

    def layer(tensor: str) -> int | None:
        found = re.search(r"\.(\d+)\.", f".{tensor}")
        return int(found[1]) if found else None

    save_file({t: v for t, v in tensors.items() if (layer(t) or 0) < split}, file, {"format": "pt"})
    alone = Front(folder, read_config(folder), split, CPU, torch.float32)
    assert torch.equal(alone.features(input_ids=ids), features)
    kept = {t: v for t, v in tensors.items() if (layer(t) is None or layer(t) >= split)}  # type: ignore[operator]
    save_file(kept, file, {"format": "pt"})
    rest = Back(folder, read_config(folder), split, CPU, torch.float32)
    with torch.inference_mode():
        assert torch.equal(rest.output(features, input_ids=ids * 0).logits, logits)
    with pytest.raises(InputError, match="lacks"):
        Front(folder, read_config(folder), split, CPU, torch.float32)


def test_gradients_flow_through_the_back_to_the_features(tmp_path: Path) -> None:
    save_decoder("Llama", tmp_path / "model")
    front, back = parts(tmp_path / "model", 3)
    ids = torch.arange(3, 13)[None]
    features = front.features(input_ids=ids).clone().requires_grad_()
    back.output(features, input_ids=ids * 0).logits.square().sum().backward()
    assert features.grad is not None
    assert features.grad.abs().min() > 0


def test_sharded_and_pickled_weights_are_read_too(tmp_path: Path) -> None:
    save_decoder("Llama", tmp_path / "model")
    ids = torch.arange(3, 13)[None]
    expected = parts(tmp_path / "model", 3)[0].features(input_ids=ids)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    whole.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert torch.equal(parts(tmp_path / "sharded", 3)[0].features(input_ids=ids), expected)
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(whole.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    assert torch.equal(parts(tmp_path / "model", 3)[0].features(input_ids=ids), expected)


def rewrite_config(folder: Path, **changes: Any) -> Any:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    return read_config(folder)


def test_a_checkpoint_of_more_layers_than_its_configuration_says_is_rejected(tmp_path: Path) -> None:
    save_decoder("Llama", tmp_path / "model")
    config = rewrite_config(tmp_path / "model", num_hidden_layers=4)
    with pytest.raises(InputError, match=r"a LlamaForCausalLM of 4 layers lacks: model\.layers\.4"):
        prove(tmp_path / "model", config, 2, decoder.proof_steps(config))


def test_weights_of_another_class_than_the_configuration_says_are_rejected(tmp_path: Path) -> None:
    save_decoder("Qwen2", tmp_path / "model")  # with biases that a Llama has not
    config = rewrite_config(tmp_path / "model", architectures=["LlamaForCausalLM"], model_type="llama")
    with pytest.raises(InputError, match=r"lacks: model\.layers\.0\.self_attn"):
        prove(tmp_path / "model", config, 2, decoder.proof_steps(config))


def test_a_model_without_a_head_is_no_language_model(tmp_path: Path) -> None:
    save_decoder("Qwen2", tmp_path / "model")
    config = rewrite_config(tmp_path / "model", architectures=["Qwen2Model"])
    with pytest.raises(InputError, match=r"is a Qwen2Model; of its type can be cut here: Qwen2ForCausalLM"):
        decoder.decoder_class(config)


def test_rotary_embeddings_that_depend_on_the_requests_before_are_rejected(tmp_path: Path) -> None:
    save_decoder("Llama", tmp_path / "model")
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = rewrite_config(tmp_path / "model", rope_parameters=rope)
    with pytest.raises(InputError, match="dynamic rotary embeddings"):
        parts(tmp_path / "model", 2, config)


def test_a_class_that_keeps_a_sequence_in_itself_is_not_served(tmp_path: Path) -> None:
    save_decoder("RecurrentGemma", tmp_path / "model")
    config = read_config(tmp_path / "model")
    with pytest.raises(InputError, match="RecurrentGemmaForCausalLM"):
        prove(tmp_path / "model", config, 3, decoder.proof_steps(config))


def test_a_model_of_images_is_no_language_model_and_the_reverse(tmp_path: Path) -> None:
    save_vision("ViTModel", tmp_path / "image")
    with pytest.raises(InputError, match="ViT"):
        decoder.decoder_class(read_config(tmp_path / "image"))
    save_decoder("Llama", tmp_path / "text")
    with pytest.raises(InputError, match="image_size"):
        vit.read_vit_config(tmp_path / "text")


def test_what_differs_from_the_whole_is_not_served_and_the_error_names_class_and_cut(tmp_path: Path) -> None:
    save_decoder("NanoChat", tmp_path / "model")
    config = read_config(tmp_path / "model")
    with pytest.raises(InputError, match="NanoChatForCausalLM cut after layer 3 of 6 answers otherwise"):
        prove(tmp_path / "model", config, 3, decoder.proof_steps(config))


def test_a_class_that_fails_when_it_is_cut_is_named_with_what_it_says(tmp_path: Path) -> None:
    save_decoder("FalconH1", tmp_path / "model")
    config = read_config(tmp_path / "model")
    with pytest.raises(InputError, match="FalconH1ForCausalLM cut after layer 3 fails with AttributeError"):
        require(tmp_path / "model", config, 3, lambda: decoder.proof_steps(config))


def test_a_proof_is_made_once_and_again_where_the_weights_change(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_decoder("Llama", folder)
    config, made = read_config(folder), []

    def steps() -> Any:
        made.append(1)
        return decoder.proof_steps(config)

    for _ in range(2):
        require(folder, config, 3, steps)
    assert len(made) == 1
    require(folder, config, 4, steps)
    assert len(made) == 2
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    require(folder, config, 3, steps)
    assert len(made) == 3


@pytest.mark.parametrize("split", [0, 7, 99])
def test_a_split_beyond_the_models_own_layers_is_rejected(split: int, tmp_path: Path) -> None:
    save_decoder("Llama", tmp_path / "model")
    with pytest.raises(InputError, match="Give 1 to 6"):
        Front(tmp_path / "model", read_config(tmp_path / "model"), split, CPU, torch.float32)


def test_a_checkpoint_of_a_class_that_is_not_the_types_is_rejected_by_name(tmp_path: Path) -> None:
    save_decoder("Llama", tmp_path / "model")
    config = read_config(tmp_path / "model")
    config.architectures = ["OtherForCausalLM"]
    with pytest.raises(InputError, match=r"OtherForCausalLM.*LlamaForCausalLM"):
        Front(tmp_path / "model", config, 3, CPU, torch.float32)


class TwoLayersOfThree(LlamaForCausalLM):  # type: ignore[misc]
    """A model with fewer layers than its configuration says."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        del self.model.layers[2:]


def test_a_model_whose_layers_are_not_one_list_is_rejected_with_what_was_looked_for(tmp_path: Path) -> None:
    config = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=3, num_attention_heads=2)
    with pytest.raises(InputError, match="TwoLayersOfThree cannot be cut: one list of 3 layers was looked for"):
        Front(tmp_path, config, 1, CPU, torch.float32, cls=TwoLayersOfThree)
