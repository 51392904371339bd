"""A user's own Stable Diffusion 3, as its pipeline is saved, which generates by the pair as by the whole."""

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from dtufc.coding.rate import Rate
from dtufc.errors import InputError
from dtufc.models.capabilities import Generation
from dtufc.models.profile import Profile, load_profile
from dtufc.models.zoo import weights_folder
from dtufc.serving.telemetry import Record
from dtufc.v1 import head_pb2
from dtufc_cloud.pipeline import CloudPipeline
from dtufc_edge.pipeline import EdgePipeline
from tests.models.pairs import decoded, result

CPU = torch.device("cpu")
GENERATION = Generation(prompt="a cat", seed=5, steps=3, guidance=4.0, width=64, height=32)


def text_encoder(width: int) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=8,
        hidden_size=width,
        intermediate_size=32,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return CLIPTextModelWithProjection(config)


@pytest.fixture(params=["three text encoders", "two text encoders"])
def sd3_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random Stable Diffusion 3 with an autoencoder that halves three times, as `save_pretrained` writes it."""
    torch.manual_seed(3)
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "c": 3, "a": 4, "t</w>": 5}
    tokenizer = CLIPTokenizer(words, [], model_max_length=12)
    third: dict[str, object] = {"text_encoder_3": None, "tokenizer_3": None}
    if request.param == "three text encoders":
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\N{LOWER ONE EIGHTH BLOCK}a", -1.0), ("c", -2.0)]
        config = T5Config(vocab_size=128, d_model=48, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        third = {"text_encoder_3": T5EncoderModel(config), "tokenizer_3": T5TokenizerFast(pieces, extra_ids=0)}
    transformer = SD3Transformer2DModel(
        sample_size=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=48,
        caption_projection_dim=16,
        pooled_projection_dim=40,
        pos_embed_max_size=8,
    )
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=16,
        scaling_factor=1.5,
        shift_factor=0.06,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder,
        text_encoder=text_encoder(16),
        tokenizer=tokenizer,
        text_encoder_2=text_encoder(24),
        tokenizer_2=tokenizer,
        **third,
    ).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def third_encoder(folder: Path) -> dict[str, None]:
    """What `from_pretrained` wants to be told of a pipeline without one."""
    return {} if (folder / "text_encoder_3").exists() else {"text_encoder_3": None, "tokenizer_3": None}


def profile_of(folder: Path) -> Profile:
    spec = {
        "name": "own",
        "family": "sd3",
        "layout": {"family": "latent"},
        "split": 1,
        "source": {"folder": str(folder)},
        "tasks": ["generate-image"],
    }
    home = folder.parent / "profile"
    home.mkdir(exist_ok=True)
    (home / "profile.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    return load_profile(home)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pipeline_of_ones_own_generates_split_as_whole(sd3_folder: Path, dtype: torch.dtype) -> None:
    profile = profile_of(sd3_folder)
    edge, cloud = EdgePipeline(profile, CPU, dtype), CloudPipeline(profile, CPU, dtype)
    done: list[int] = []
    edge.backbone.check(GENERATION, max_steps=3)
    latent = edge.backbone.latent(GENERATION, profile.spec.generation, done.append)
    assert latent.shape == (16, 4, 8)
    assert latent.dtype == dtype
    assert done == [1, 2, 3]
    frame = edge.encode(latent, "raw", Rate(), Record("generate-image"))
    assert torch.equal(decoded(cloud, frame), latent)
    whole = StableDiffusion3Pipeline.from_pretrained(sd3_folder, dtype=dtype, **third_encoder(sd3_folder))
    whole.set_progress_bar_config(disable=True)
    expected = whole(
        GENERATION.prompt,
        generator=torch.Generator().manual_seed(GENERATION.seed),
        num_inference_steps=GENERATION.steps,
        guidance_scale=GENERATION.guidance,
        width=GENERATION.width,
        height=GENERATION.height,
        output_type="np",
    ).images[0]
    png = result(cloud, frame, "generate-image", head_pb2.DecodeImageTask()).image_png
    image = np.asarray(Image.open(io.BytesIO(png)))
    assert image.shape == (GENERATION.height, GENERATION.width, 3)
    tolerance = 0.51 / 255 if dtype == torch.float32 else 2 / 255  # rounding to 8 bits; the whole rounds twice
    assert np.abs(image / 255 - expected).max() <= tolerance


def test_a_latent_on_which_the_decoder_overflows_gives_no_image(sd3_folder: Path) -> None:
    cloud = CloudPipeline(profile_of(sd3_folder), CPU, torch.float32)
    frame = cloud.codec.encode(np.full((16, 8, 8), 3e38, np.float32), codec="raw")
    with pytest.raises(InputError, match="overflow"):
        result(cloud, frame, "generate-image", head_pb2.DecodeImageTask())


@pytest.mark.parametrize("sd3_folder", ["two text encoders"], indirect=True)
def test_a_prompt_whose_end_no_text_encoder_would_see_is_rejected_with_its_tokens_and_the_limit(
    sd3_folder: Path,
) -> None:
    backbone = EdgePipeline(profile_of(sd3_folder), CPU, torch.float32).backbone
    backbone.check(replace(GENERATION, prompt="a " * 10), max_steps=3)
    with pytest.raises(InputError, match=r"prompt: 13 tokens. Shorten it to 12, start and end counted"):
        backbone.check(replace(GENERATION, prompt="a " * 11), max_steps=3)


@pytest.mark.parametrize("sd3_folder", ["two text encoders"], indirect=True)
@pytest.mark.parametrize("guidance", [math.nan, math.inf, -1.0])
def test_a_guidance_that_is_no_number_is_rejected_though_our_client_would_not_send_it(
    sd3_folder: Path, guidance: float
) -> None:
    backbone = EdgePipeline(profile_of(sd3_folder), CPU, torch.float32).backbone
    with pytest.raises(InputError, match="guidance: "):
        backbone.check(replace(GENERATION, guidance=guidance), max_steps=3)


@pytest.mark.parametrize("sd3_folder", ["three text encoders"], indirect=True)
def test_a_prompt_that_only_the_third_text_encoder_takes_whole_is_taken(sd3_folder: Path) -> None:
    backbone = EdgePipeline(profile_of(sd3_folder), CPU, torch.float32).backbone
    backbone.check(replace(GENERATION, prompt="a " * 200), max_steps=3)
    with pytest.raises(InputError, match=r"prompt: \d+ tokens. Shorten it to 256"):
        backbone.check(replace(GENERATION, prompt="a " * 300), max_steps=3)


@pytest.mark.parametrize("sd3_folder", ["two text encoders"], indirect=True)
def test_a_file_of_a_pipeline_that_is_missing_is_one_line_that_names_its_part(sd3_folder: Path) -> None:
    """For a vocabulary or a text encoder's configuration, transformers would make an empty one up."""
    for name in (
        "tokenizer_2/tokenizer.json",
        "text_encoder/config.json",
        "text_encoder_2/model.safetensors",
        "scheduler/scheduler_config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json",
    ):
        path = sd3_folder / name
        path.rename(sd3_folder.parent / "aside")
        with pytest.raises(InputError, match=str(path.parent)) as caught:
            EdgePipeline(profile_of(sd3_folder), CPU, torch.float32)
        assert "\n" not in str(caught.value)
        (sd3_folder.parent / "aside").rename(path)


def test_the_size_is_of_whole_patches_and_within_the_position_table(sd3_folder: Path) -> None:
    edge = EdgePipeline(profile_of(sd3_folder), CPU, torch.float32)
    assert (edge.backbone.step_pixels, edge.backbone.max_pixels, edge.backbone.default_pixels) == (16, 128, 64)


def test_other_weights_are_another_profile(sd3_folder: Path) -> None:
    before = profile_of(sd3_folder)
    weights = sd3_folder / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert profile_of(sd3_folder).digest != before.digest


def test_the_shipped_checkpoint_is_one_of_the_pipelines_own() -> None:
    """Nothing but diffusers and transformers is needed to generate with it."""
    profile = load_profile("sd3-emoji")
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        weights_folder(profile.spec), text_encoder_3=None, tokenizer_3=None
    )
    assert pipeline.transformer.config.in_channels == pipeline.vae.config.latent_channels == 16
    assert all((path.stat().st_mode & 0o044) == 0o044 for path in weights_folder(profile.spec).rglob("*"))
