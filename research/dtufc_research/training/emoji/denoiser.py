"""The text half of the checkpoint: two `CLIPTextModelWithProjection` and an `SD3Transformer2DModel`, trained together.

Flow matching as in SD3: the model gets (1 - s) x + s e of a latent x and noise e, and learns e - x. A share of the
captions is empty, for classifier-free guidance. Most s are near 1: there only the caption determines the image, while
at low noise the image itself does.
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import lightning
import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from PIL import Image
from pytorch_optimizer import Muon
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from dtufc_research.training.emoji.images import Captioned

NUM_TOKENS: Final = 16  # of a caption, its start and end among them
BATCH: Final = 32
STEPS_PER_EPOCH: Final = 500
_VOCABULARY: Final = 2048
_TEXT_WIDTH: Final = 96  # of each text encoder
_NUM_HEADS: Final = 5
_HEAD_WIDTH: Final = 32
_NUM_LAYERS: Final = 6
_LEARNING_RATE: Final = 2e-3
_WARM_UP: Final = 500  # steps
_COOL_DOWN: Final = 0.25  # share of the steps, at the end, in which the learning rate falls to nothing
_EMPTY: Final = 0.1  # share of the images that are trained without their caption
_ORIGINALS: Final = 0.55  # share of the images that are not compositions
_TIMESTEPS: Final = 1000
_SHIFT: Final = 3.0  # towards noise, in training and in sampling; SD3's
_SAMPLING_STEPS: Final = 28
_GUIDANCE: Final = 4.0


def new_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of these captions; other text is split into bytes."""
    alike = CLIPTokenizer().backend_tokenizer
    learned = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learned.normalizer, learned.pre_tokenizer = alike.normalizer, alike.pre_tokenizer
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    trainer = BpeTrainer(vocab_size=_VOCABULARY, special_tokens=known, end_of_word_suffix="</w>", show_progress=False)
    learned.train_from_iterator(captions, trainer)
    model = json.loads(learned.to_str())["model"]
    return CLIPTokenizer(model["vocab"], [tuple(pair) for pair in model["merges"]], model_max_length=NUM_TOKENS)


def new_text_encoder() -> CLIPTextModelWithProjection:
    """Untrained. Its last layer produces only the pooled vector, as in SD3."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=_VOCABULARY,
            hidden_size=_TEXT_WIDTH,
            intermediate_size=4 * _TEXT_WIDTH,
            projection_dim=_TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=3,
            max_position_embeddings=NUM_TOKENS,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def new_transformer() -> SD3Transformer2DModel:
    """Untrained, for latents of up to 32 x 32."""
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=_NUM_LAYERS,
        attention_head_dim=_HEAD_WIDTH,
        num_attention_heads=_NUM_HEADS,
        joint_attention_dim=2 * _TEXT_WIDTH,
        caption_projection_dim=_NUM_HEADS * _HEAD_WIDTH,
        pooled_projection_dim=2 * _TEXT_WIDTH,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )


class LatentDataset(Dataset[tuple[Tensor, str]]):
    """Latents with captions, sampled by weight; item i of an epoch is always the same.

    Args:
        latents: float16[N, 16, h, w], normalised.
        captions: of each.
        weights: of each within its half.
        num_originals: the first of the latents, which are not compositions.
    """

    def __init__(
        self, latents: Tensor, captions: list[tuple[str, ...]], weights: Sequence[float], num_originals: int, epoch: int
    ) -> None:
        rng = np.random.default_rng([0, epoch])
        originals, composed = np.array(weights[:num_originals]), np.array(weights[num_originals:])
        chances = np.concatenate(
            [_ORIGINALS * originals / originals.sum(), (1 - _ORIGINALS) * composed / composed.sum()]
        )
        self._chosen = rng.choice(len(chances), STEPS_PER_EPOCH * BATCH, p=chances)
        self._epoch, self._latents, self._captions = epoch, latents, captions

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        rng = np.random.default_rng([1, self._epoch, index])
        item = int(self._chosen[index])
        captions = self._captions[item]
        caption = "" if rng.random() < _EMPTY else captions[rng.integers(len(captions))]
        return self._latents[item].float(), caption


class DenoiserTraining(lightning.LightningModule):
    """Transformer and text encoders; the autoencoder only decodes the samples."""

    def __init__(
        self,
        images: list[Captioned],
        latents: Tensor,
        autoencoder: AutoencoderKL,
        *,
        num_originals: int,
        num_steps: int,
        prompts: Sequence[str],
        folder: Path,
    ) -> None:
        super().__init__()
        self.transformer = new_transformer()
        self.text_encoders = nn.ModuleList([new_text_encoder(), new_text_encoder()])
        self.tokenizer = new_tokenizer([caption for image in images for caption in image.captions])
        self._captions = [image.captions for image in images]
        captions = {caption for of_image in self._captions for caption in of_image}
        if num_cut := sum(len(self.tokenizer(caption).input_ids) > NUM_TOKENS for caption in captions):
            print(f"{num_cut} of {len(captions)} captions are cut after {NUM_TOKENS} tokens", file=sys.stderr)
        self._weights = [image.weight for image in images]
        self._autoencoder = [autoencoder]  # in a list, so that it is not a submodule: it is already trained
        self._latents, self._num_originals, self._num_steps = latents, num_originals, num_steps
        self._prompts, self._folder = list(prompts), folder

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(tokens [B, 16, joint width], pooled [B, pooled width]) as in the pipeline."""
        padded = self.tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids
        encoded = [encoder(padded.to(self.device), output_hidden_states=True) for encoder in self.text_encoders]
        tokens = torch.cat([e.hidden_states[-2] for e in encoded], dim=-1)
        return tokens, torch.cat([e.text_embeds for e in encoded], dim=-1)

    def on_train_start(self) -> None:
        torch.manual_seed(self.global_step * self.trainer.world_size + self.global_rank)  # of the noise

    def training_step(self, batch: tuple[Tensor, list[str]], batch_index: int) -> Tensor:
        latent, captions = batch
        noise = torch.randn_like(latent)
        sigma = (torch.randn(len(latent), device=latent.device) + math.log(_SHIFT)).sigmoid()
        mixed = torch.lerp(latent, noise, sigma[:, None, None, None])
        tokens, pooled = self.encode(captions)
        velocity = self.transformer(mixed, tokens, pooled, sigma * _TIMESTEPS).sample
        loss = nn.functional.mse_loss(velocity.float(), noise - latent)
        self.log("loss", loss, prog_bar=True)
        return loss

    def pipeline(self) -> StableDiffusion3Pipeline:
        """All components, as one pipeline."""
        first, second = self.text_encoders
        return StableDiffusion3Pipeline(
            transformer=self.transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(_TIMESTEPS, shift=_SHIFT),
            vae=self._autoencoder[0].to(self.device),
            text_encoder=first,
            tokenizer=self.tokenizer,
            text_encoder_2=second,
            tokenizer_2=self.tokenizer,
            text_encoder_3=None,
            tokenizer_3=None,
        )

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        """Generates images of the sample prompts with the averaged weights, as a grid beside the checkpoint."""
        pipeline = self.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        sample_grid(generate_images(pipeline, self._prompts)).save(self._folder / f"samples-{self.global_step:06d}.png")

    def train_dataloader(self) -> DataLoader[Any]:
        dataset = LatentDataset(self._latents, self._captions, self._weights, self._num_originals, self.current_epoch)
        return DataLoader(dataset, BATCH)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader([0])  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        """Muon for the matrices between layers, AdamW for the rest.

        Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
        """
        matrices = [m.weight for m in self.modules() if isinstance(m, nn.Linear)]
        hidden = {id(matrix) for matrix in matrices}
        others = [p for p in self.parameters() if id(p) not in hidden]
        common = {"lr": _LEARNING_RATE, "weight_decay": 0.01}
        muon = Muon(
            [
                {"params": matrices, "use_muon": True, "use_adjusted_lr": True, **common},
                {"params": others, "use_muon": False, "betas": (0.9, 0.99), **common},
            ]
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(muon, self._rate)
        return {"optimizer": muon, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        """Warm-up, constant, cool-down."""
        left = (self._num_steps - step) / (_COOL_DOWN * self._num_steps)
        return max(0.0, min((step + 1) / _WARM_UP, left, 1.0))


def generate_images(pipeline: StableDiffusion3Pipeline, prompts: Sequence[str], seed: int = 0) -> list[Image.Image]:
    """One image of each prompt, each from the same noise as if it were generated alone."""
    generators = [torch.Generator().manual_seed(seed) for _ in prompts]
    with torch.autocast(pipeline.device.type, enabled=False):
        generated = pipeline(
            list(prompts),
            num_inference_steps=_SAMPLING_STEPS,
            guidance_scale=_GUIDANCE,
            generator=generators,
            max_sequence_length=0,  # of the third text encoder, which it does not have
        )
    return list(generated.images)


def sample_grid(images: Sequence[Image.Image], across: int = 8) -> Image.Image:
    """The images in rows."""
    side = images[0].width
    grid = Image.new("RGB", (across * side, -(-len(images) // across) * side), "white")
    for index, image in enumerate(images):
        grid.paste(image, (index % across * side, index // across * side))
    return grid
