"""Images through the pair: those of the whole pipeline, step by step, and no further than anybody waits."""

import io
import threading
import time
from collections.abc import Callable

import grpc
import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from numpy.typing import NDArray
from PIL import Image

from dtufc.client import EdgeClient
from dtufc.coding.rate import Rate
from dtufc.errors import InputError
from dtufc.models.fitting import load
from dtufc.models.profile import load_profile
from dtufc.models.zoo import weights_folder
from dtufc.v1 import head_pb2, inference_pb2
from tests.e2e.services import Service, error_info, head_stub, inference_stub, run_request

SPEC = load_profile("sd3-emoji").spec
STEPS = 6


@pytest.fixture(scope="module")
def whole() -> StableDiffusion3Pipeline:
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        weights_folder(SPEC), dtype=torch.float32, text_encoder_3=None, tokenizer_3=None
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize(
    ("prompt", "seed", "width", "height", "guidance"),
    [("red apple", 7, 64, 64, None), ("rocket", 1 << 40, 96, 48, 1.0), ("blue heart", 0, 64, 64, 8.0)],
)
def test_an_image_through_raw_is_the_whole_pipelines(
    client: EdgeClient,
    whole: StableDiffusion3Pipeline,
    prompt: str,
    seed: int,
    width: int,
    height: int,
    guidance: float | None,
) -> None:
    *_, reply = client.generate_image(
        prompt, seed=seed, steps=STEPS, guidance=guidance, width=width, height=height, codec="raw"
    )
    expected = whole(
        prompt,
        generator=torch.Generator().manual_seed(seed),
        num_inference_steps=STEPS,
        guidance_scale=SPEC.generation.guidance if guidance is None else guidance,
        width=width,
        height=height,
        max_sequence_length=SPEC.generation.text_length,
    ).images[0]
    assert (reply.width, reply.height) == (width, height)
    difference = pixels(reply.image_png).astype(int) - np.asarray(expected).astype(int)
    assert np.abs(difference).max() <= 1  # a rounding of the last bit of a colour


def test_the_profile_says_what_the_request_does_not(client: EdgeClient) -> None:
    *steps, last = client.generate_image("pizza")
    assert [reply.step for reply in steps] == list(range(1, SPEC.generation.steps + 1))
    assert {reply.num_steps for reply in [*steps, last]} == {SPEC.generation.steps}
    assert not any(reply.image_png for reply in steps)
    assert pixels(last.image_png).shape == (64, 64, 3)
    assert last.cost.codec == "klt"
    assert last.cost.raw_bytes == 4 * last.cost.num_values == 4 * 16 * 16 * 16


def test_the_same_request_gives_the_same_image_and_another_seed_another(client: EdgeClient) -> None:
    def image(seed: int) -> bytes:
        *_, last = client.generate_image("sunflower", seed=seed, steps=STEPS)
        return bytes(last.image_png)

    assert image(3) == image(3) != image(4)


@pytest.mark.parametrize("codec", ["levels", "klt", "hyperprior", "elic", "kltprior"])
def test_every_codec_gives_nearly_the_same_image(client: EdgeClient, codec: str) -> None:
    *_, exact = client.generate_image("red apple", steps=STEPS, codec="raw")
    reached = client.models()[0].qualities
    rate = Rate(quality=reached[codec].highest) if codec in reached else None
    *_, coded = client.generate_image("red apple", steps=STEPS, codec=codec, rate=rate)
    assert coded.cost.codec == codec
    assert coded.cost.wire_bytes < exact.cost.wire_bytes / 3
    error = pixels(coded.image_png).astype(float) - pixels(exact.image_png).astype(float)
    assert 10 * np.log10(255**2 / (error**2).mean()) > 20


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"prompt": "  "}, "prompt"),
        ({"prompt": "x" * 2001}, "prompt"),
        ({"prompt": "red apple and blue heart and green leaf and pizza on a yellow background"}, "prompt"),
        ({"steps": 101}, "steps"),
        ({"steps": 0}, "steps"),
        ({"guidance": -1.0}, "guidance"),
        ({"guidance": float("nan")}, "guidance"),
        ({"seed": 1 << 63}, "seed"),
        ({"width": 60}, "width"),
        ({"height": 4096}, "height"),
        ({"profile": "dinov2-small"}, "profile"),
        ({"codec": "zip"}, "codec"),
    ],
)
def test_what_cannot_be_generated_is_rejected_by_name_before_work_starts(
    client: EdgeClient, edge: Service, options: dict[str, object], field: str
) -> None:
    before = edge.total("dtufc_edge_stage_seconds_count", stage="edge.backbone", model="sd3-emoji")
    with pytest.raises(InputError) as caught:
        list(client.generate_image(**{"prompt": "rocket", **options}))  # type: ignore[arg-type]
    assert caught.value.context["field"] == field
    assert edge.total("dtufc_edge_stage_seconds_count", stage="edge.backbone", model="sd3-emoji") == before


def test_a_cancelled_generation_stops_at_the_next_step(edge: Service, client: EdgeClient) -> None:
    start = time.monotonic()
    list(client.generate_image("octopus", steps=100))
    whole_s = time.monotonic() - start
    cancelled = edge.total("dtufc_edge_errors_total", task="generate-image", reason="CANCELLED")
    with grpc.insecure_channel(edge.address) as channel:
        stream = inference_stub(channel).GenerateImage(
            inference_pb2.GenerateImageRequest(prompt="octopus", steps=100), timeout=60
        )
        next(stream)
        stream.cancel()
        start = time.monotonic()
        list(client.generate_image("rocket", steps=1))  # one thread works: it waits for what still runs
        waited_s = time.monotonic() - start
    assert waited_s < whole_s / 2
    assert edge.total("dtufc_edge_errors_total", task="generate-image", reason="CANCELLED") == cancelled + 1


def test_an_expired_generation_stops_too(edge: Service, client: EdgeClient, edge_channel: grpc.Channel) -> None:
    request = inference_pb2.GenerateImageRequest(prompt="octopus", steps=100)
    # A connection of its own: one that is renewed at that moment, as every half minute, ends the call UNAVAILABLE.
    with grpc.insecure_channel(edge.address) as channel, pytest.raises(grpc.RpcError) as caught:
        list(inference_stub(channel).GenerateImage(request, timeout=0.3))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    start = time.monotonic()
    list(client.generate_image("octopus", steps=100))
    whole_s = time.monotonic() - start
    with pytest.raises(grpc.RpcError):
        list(inference_stub(edge_channel).GenerateImage(request, timeout=0.3))
    start = time.monotonic()
    list(client.generate_image("rocket", steps=1))
    assert time.monotonic() - start < whole_s / 2


def test_images_generated_at_a_time_do_not_mix(launch: Callable[..., Service], cloud: Service) -> None:
    edge = launch("edge", "--cloud", cloud.address, "--profiles", "sd3-emoji", "--threads", "2")
    edge.wait_until_serving()
    alone: dict[str, bytes] = {}
    together: dict[str, bytes] = {}

    def generate(prompt: str, into: dict[str, bytes]) -> None:
        with EdgeClient(edge.address) as own:
            *_, last = own.generate_image(prompt, steps=STEPS, codec="raw")
            into[prompt] = last.image_png

    prompts = ["red apple", "rocket"]
    for prompt in prompts:
        generate(prompt, alone)
    threads = [threading.Thread(target=generate, args=(prompt, together)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_a_latent_too_large_for_the_cloud_is_rejected(cloud_channel: grpc.Channel) -> None:
    frame = load("sd3-emoji").encode(np.zeros((16, 256, 128), np.float32), codec="raw")
    request = run_request("sd3-emoji", frame, head_pb2.DecodeImageTask())
    with pytest.raises(grpc.RpcError) as caught:
        head_stub(cloud_channel).Run(request)
    assert error_info(caught.value).metadata["field"] == "frame"
