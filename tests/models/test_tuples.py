"""Tuples of tensors as real models make them: a pyramid, a cache of keys and values, the maps of a video."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, SwinBackbone, SwinConfig

import dtufc

STAGES = [(16, 32, 32), (32, 16, 16), (64, 8, 8), (128, 4, 4)]


def swin() -> SwinBackbone:
    torch.manual_seed(0)
    config = SwinConfig(
        image_size=64,
        patch_size=2,
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[2, 2, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return SwinBackbone(config).eval()


def images(seed: int, number: int) -> Tensor:
    """[number, 3, 64, 64], smooth; each is the one before, moved by a pixel."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn((1, 3, 9, 9), generator=generator)
    wide = torch.nn.functional.interpolate(coarse, size=(64, 64 + number), mode="bicubic")
    return torch.cat([wide[..., shift : shift + 64] for shift in range(number)])


@torch.no_grad()
def feature_maps(model: SwinBackbone, pixels: Tensor) -> list[Tensor]:
    """[N, C, h, w] of each stage."""
    return list(model(pixels).feature_maps)


def relative_error(got: Tensor, sent: Tensor) -> float:
    return float((got - sent).norm() / sent.norm())


def test_the_pyramid_of_a_swin_goes_through_one_file_and_back(tmp_path: Path) -> None:
    model = swin()
    samples = [[one[0] for one in feature_maps(model, images(seed, 1))] for seed in range(10)]
    assert [tuple(one.shape) for one in samples[0]] == STAGES
    dtufc.fit_tuple(samples, axes="CHW").save(tmp_path / "swin")
    codec = dtufc.load_tuple(tmp_path / "swin")
    sent = [one[0] for one in feature_maps(model, images(50, 1))]
    (tmp_path / "pyramid.dtufc").write_bytes(codec.encode(sent, quality=0.8))
    got = codec.decode_tensors((tmp_path / "pyramid.dtufc").read_bytes())
    assert [tuple(one.shape) for one in got] == STAGES
    assert max(relative_error(*pair) for pair in zip(got, sent, strict=True)) < 0.1
    raw_bytes = sum(one.numel() * 4 for one in sent)
    assert (tmp_path / "pyramid.dtufc").stat().st_size < raw_bytes / 4


def test_the_channels_last_maps_of_a_video_are_coded_frame_by_frame() -> None:
    model = swin()

    def video(seed: int) -> Tensor:
        """[T, H, W, C]."""
        return feature_maps(model, images(seed, 3))[2].permute(0, 2, 3, 1)

    codec = dtufc.fit([video(seed) for seed in range(6)], axes="THWC")
    sent = video(50)
    assert codec.profile.layout.rows_shape(tuple(sent.shape)) == (3, 64, 64)
    got = codec.decode_tensor(codec.encode(sent, quality=0.8))
    assert got.shape == sent.shape
    assert relative_error(got, sent) < 0.1


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    return LlamaForCausalLM(config).eval()


def prompt(seed: int, length: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(64, size=(1, length)))


@torch.no_grad()
def cache_of(model: LlamaForCausalLM, ids: Tensor) -> list[Tensor]:
    """Keys and values of each layer in turn, [1, heads, T, head channels]."""
    cache = DynamicCache()
    model(ids, past_key_values=cache)
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


@torch.no_grad()
def logits_after(model: LlamaForCausalLM, tensors: list[Tensor], token: Tensor) -> Tensor:
    """Of the token behind a cache of these keys and values."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
        cache.update(keys, values, layer)
    return model(token, past_key_values=cache).logits[0, -1]


def test_a_cache_of_keys_and_values_goes_through_one_file_and_the_model_goes_on(tmp_path: Path) -> None:
    model = llama()
    samples = [cache_of(model, prompt(seed, 20 + seed)) for seed in range(8)]
    dtufc.fit_tuple(samples, axes="BNTC").save(tmp_path / "cache")
    codec = dtufc.load_tuple(tmp_path / "cache")
    sent, token = cache_of(model, prompt(50, 40)), torch.tensor([[7]])
    expected = logits_after(model, sent, token)
    exact = codec.decode_tensors(codec.encode(sent, codec="raw"))
    assert torch.equal(logits_after(model, exact, token), expected)
    (tmp_path / "cache.dtufc").write_bytes(codec.encode(sent, quality=0.8))
    got = codec.decode_tensors((tmp_path / "cache.dtufc").read_bytes())
    assert [one.shape for one in got] == [one.shape for one in sent]
    assert max(relative_error(*pair) for pair in zip(got, sent, strict=True)) < 0.1
    assert relative_error(logits_after(model, got, token), expected) < 0.05
    assert (tmp_path / "cache.dtufc").stat().st_size < sum(one.numel() * 4 for one in sent) / 3


def test_all_keys_may_share_one_codec_and_all_values_another() -> None:
    """By axes of other names for them: what shares is what the caller says is alike."""
    model = llama()
    samples = [cache_of(model, prompt(seed, 24)) for seed in range(6)]
    codec = dtufc.fit_tuple(samples, axes=["BKTC", "BVTC"] * 3, shared=True)
    assert len({id(one) for one in codec.codecs}) == 2
    sent = cache_of(model, prompt(50, 30))
    got = codec.decode_tensors(codec.encode(sent, quality=0.8))
    assert max(relative_error(*pair) for pair in zip(got, sent, strict=True)) < 0.15
