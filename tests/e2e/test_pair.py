"""A pair as its users meet it: split equals whole, every task in every codec, and what it says it cost."""

import io

import grpc
import numpy as np
import pytest
import torch
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from PIL import Image
from torch.nn import functional
from transformers import AutoTokenizer, Dinov2Model, EfficientNetForImageClassification, LlamaForCausalLM

from dtufc.client import EdgeClient
from dtufc.coding.bitstream import parse
from dtufc.coding.codecs.learned import VARIANTS
from dtufc.coding.rate import Rate
from dtufc.errors import InputError
from dtufc.models.profile import load_profile
from dtufc.serving.telemetry import Record
from dtufc.v1 import head_pb2, inference_pb2
from dtufc_cloud.heads.vit import SaliencyHead
from dtufc_cloud.pipeline import CloudPipeline
from dtufc_edge.pipeline import EdgePipeline
from tests.e2e.services import SAMPLES, inference_stub
from tests.models.pairs import decoded, result

CPU = torch.device("cpu")
LEARNED = tuple(VARIANTS)
QUESTION = "Which of these is a fruit?"
CHOICES = ["granite", "apple", "hammer", "cloud"]
PROMPT = "The capital of France is"
STAGES = {"edge.backbone", "edge.encode", "round_trip", "cloud.parse", "cloud.decode", "cloud.head"}


def chat_ids(tokenizer: AutoTokenizer, prompt: str) -> list[int]:
    turn = [{"role": "user", "content": prompt}]
    return list(tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"])


def greedy(model: LlamaForCausalLM, token_ids: list[int], num_tokens: int, end: int) -> tuple[list[int], str]:
    """The whole model's most probable tokens and why they end."""
    output = model.generate(
        torch.tensor([token_ids]),
        attention_mask=torch.ones(1, len(token_ids), dtype=torch.long),
        max_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
    )
    new = output[0, len(token_ids) :].tolist()
    return (new[:-1], "end") if new[-1] == end else (new, "length")


def test_an_answer_through_the_pair_has_the_whole_models_probabilities(
    client: EdgeClient, whole_llama: LlamaForCausalLM, tokenizer: AutoTokenizer
) -> None:
    reply = client.answer(QUESTION, CHOICES, codec="raw")
    lines = [QUESTION, *(f"{letter}. {text}" for letter, text in zip("ABCD", CHOICES, strict=True))]
    token_ids = chat_ids(tokenizer, "\n".join([*lines, "Answer with the letter alone."]))
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "ABCD"]
    with torch.inference_mode():
        logits = whole_llama(torch.tensor([token_ids]), logits_to_keep=1).logits[0, -1]
    expected = torch.softmax(logits[letters].double(), dim=0).numpy()
    np.testing.assert_allclose(list(reply.probabilities), expected, atol=1e-6)
    assert reply.choice == int(expected.argmax())
    assert reply.letter == "ABCD"[reply.choice]


def test_a_completion_through_the_pair_is_the_whole_models_greedy_one(
    client: EdgeClient, whole_llama: LlamaForCausalLM, tokenizer: AutoTokenizer
) -> None:
    replies = list(client.complete(PROMPT, max_tokens=8, plain=True, codec="raw"))
    new_ids, reason = greedy(whole_llama, list(tokenizer(PROMPT)["input_ids"]), 8, tokenizer.eos_token_id)
    assert [reply.token.token_id for reply in replies[:-1]] == new_ids
    assert "".join(reply.text for reply in replies) == tokenizer.decode(new_ids)
    assert replies[-1].finish_reason == reason == "length"
    assert replies[-1].cost.num_frames == 8


def test_a_completion_ends_where_the_whole_model_ends_its_turn(
    client: EdgeClient, whole_llama: LlamaForCausalLM, tokenizer: AutoTokenizer
) -> None:
    prompt = "What is 2+2? Answer with one number."
    replies = list(client.complete(prompt, max_tokens=24, codec="raw"))
    new_ids, reason = greedy(whole_llama, chat_ids(tokenizer, prompt), 24, tokenizer.eos_token_id)
    assert reason == "end", "choose a prompt with a short reply"
    assert [reply.token.token_id for reply in replies[:-1]] == new_ids
    assert replies[-1].finish_reason == "end"


def test_characters_of_several_tokens_are_streamed_whole(client: EdgeClient, tokenizer: AutoTokenizer) -> None:
    replies = list(client.complete("Emoji: 😀 😃 😄 😁 😆 😅 😂 😀 😃 😄 😁", max_tokens=8, plain=True, codec="raw"))
    ids = [reply.token.token_id for reply in replies[:-1]]
    assert "".join(reply.text for reply in replies) == tokenizer.decode(ids)
    assert all("\N{REPLACEMENT CHARACTER}" not in reply.text for reply in replies[:-1])


def test_a_label_map_through_the_pair_is_the_whole_models(
    client: EdgeClient, jpeg: bytes, whole_dinov2: Dinov2Model, saliency_head: SaliencyHead
) -> None:
    reply = client.segment(jpeg, codec="raw")
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    pixels, box = preprocessed(image, 518)
    with torch.inference_mode():
        tokens = whole_dinov2(pixel_values=pixels).last_hidden_state[:, 1:]
        logits = saliency_head(tokens.transpose(1, 2).unflatten(2, (37, 37)))
        logits = functional.interpolate(logits, size=(518, 518), mode="bilinear")
        left, top, right, bottom = box
        logits = functional.interpolate(logits[..., top:bottom, left:right], size=image.size[::-1], mode="bilinear")
    expected = np.where(logits[0, 0].numpy() > 0, 255, 0).astype(np.uint8)
    labels = np.asarray(Image.open(io.BytesIO(reply.label_map_png)))
    assert (reply.width, reply.height) == image.size
    assert labels.dtype == np.uint8
    assert 0.02 < (expected == 255).mean() < 0.98, "choose an image with a foreground"
    np.testing.assert_array_equal(labels, expected)


def preprocessed(image: Image.Image, side: int) -> tuple[torch.Tensor, tuple[int, int, int, int]]:
    """The image centred on a black square and normalised as ImageNet is, written anew for the test."""
    scale = side / max(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    left, top = (side - width) // 2, (side - height) // 2
    resample = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    canvas = np.zeros((side, side, 3), np.float32)
    canvas[top : top + height, left : left + width] = np.asarray(image.resize((width, height), resample))
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    normal = (canvas / np.float32(255) - mean) / std
    return torch.from_numpy(normal.transpose(2, 0, 1)[None].copy()), (left, top, left + width, top + height)


def seen(image: Image.Image) -> torch.Tensor:
    """The middle of an image as EfficientNet-Lite0 was trained on it, 224 of 256, written anew for the test."""
    half = min(image.size) * 0.875 / 2
    x, y = image.width / 2, image.height / 2
    middle = image.resize((224, 224), Image.Resampling.BICUBIC, (x - half, y - half, x + half, y + half))
    return torch.from_numpy(((np.asarray(middle, np.float32) - 127) / 128).transpose(2, 0, 1)[None].copy())


@pytest.mark.parametrize(
    ("name", "label"), [("chelsea", "tiger cat"), ("rocket", "missile"), ("astronaut", "football helmet")]
)
def test_labels_through_the_pair_are_the_whole_models(
    client: EdgeClient, whole_cnn: EfficientNetForImageClassification, name: str, label: str
) -> None:
    path = SAMPLES / f"{name}.jpg"
    reply = client.classify(path, codec="raw", top_k=100)
    with torch.inference_mode(), Image.open(path) as image:
        expected = torch.softmax(whole_cnn(pixel_values=seen(image.convert("RGB"))).logits[0].double(), dim=0)
    found = torch.tensor([x.probability for x in reply.labels], dtype=torch.float64)
    assert len(reply.labels) == 100
    assert [x.name for x in reply.labels] == [whole_cnn.config.id2label[x.index] for x in reply.labels]
    torch.testing.assert_close(found, expected[[x.index for x in reply.labels]], atol=1e-5, rtol=0)
    assert reply.labels[0].name == label


@pytest.mark.parametrize("split", range(1, 9))
def test_a_cnn_split_after_any_stage_has_the_whole_models_logits(
    split: int, whole_cnn: EfficientNetForImageClassification
) -> None:
    profile = load_profile("efficientnet-lite0", split)
    edge, cloud = EdgePipeline(profile, CPU, torch.float32), CloudPipeline(profile, CPU, torch.float32)
    with Image.open(SAMPLES / "chelsea.jpg") as image:
        pixels = edge.backbone.crop(image)
    with torch.inference_mode():
        expected = whole_cnn(pixel_values=pixels).logits[0]
    frame = edge.encode(edge.backbone.features(pixels), "raw", Rate(), Record("classify"))
    torch.testing.assert_close(cloud.head.logits(decoded(cloud, frame)), expected, atol=1e-4, rtol=1e-5)
    found = result(cloud, frame, "classify", head_pb2.ClassifyTask(top_k=1))
    assert found.labels[0].index == int(expected.argmax())


@pytest.mark.parametrize("split", [1, 15, 30])
def test_a_llama_split_anywhere_has_the_whole_models_logits(
    split: int, whole_llama: LlamaForCausalLM, tokenizer: AutoTokenizer
) -> None:
    profile = load_profile("smollm2-135m", split)
    edge, cloud = EdgePipeline(profile, CPU, torch.float32), CloudPipeline(profile, CPU, torch.float32)
    token_ids = list(tokenizer("Rivers run to the sea because")["input_ids"])
    at_edge, at_cloud = edge.backbone.start(), cloud.head.start()
    parts = [edge.backbone.features(at_edge, part) for part in (token_ids[:3], token_ids[3:4], token_ids[4:])]
    for part in parts:
        last = cloud.head.next_logits(at_cloud, part, 1)
    frame = edge.encode(torch.cat(parts), "raw", Rate(), Record("answer"))
    features = decoded(cloud, frame)
    with torch.inference_mode():
        expected = whole_llama(torch.tensor([token_ids])).logits[0]
    torch.testing.assert_close(cloud.head.logits(features), expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(cloud.head.logits(features, last=1), expected[-1:], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(last, expected[-1:], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("split", [1, 6, 12])
def test_a_dinov2_split_anywhere_has_the_whole_models_logits(
    split: int, whole_dinov2: Dinov2Model, saliency_head: SaliencyHead
) -> None:
    profile = load_profile("dinov2-small", split)
    edge, cloud = EdgePipeline(profile, CPU, torch.float32), CloudPipeline(profile, CPU, torch.float32)
    with Image.open(SAMPLES / "rocket.jpg") as image:
        pixels, _ = preprocessed(image.convert("RGB"), 518)
    features = edge.backbone.features(pixels)
    logits = cloud.head.logits(features)
    with torch.inference_mode():
        tokens = whole_dinov2(pixel_values=pixels).last_hidden_state[:, 1:]
        dense = saliency_head(tokens.transpose(1, 2).unflatten(2, (37, 37)))
        expected = functional.interpolate(dense, size=(518, 518), mode="bilinear")[0]
    assert features.shape == (1 + 37 * 37, 384)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("codec", ["raw", "levels", "klt", *LEARNED])
def test_every_codec_answers_and_says_what_it_cost(client: EdgeClient, codec: str) -> None:
    reply = client.answer(QUESTION, CHOICES, codec=codec)
    cost = reply.cost
    assert sum(reply.probabilities) == pytest.approx(1)
    assert reply.choice == max(range(4), key=list(reply.probabilities).__getitem__)
    assert (cost.profile, cost.codec, cost.num_frames) == ("smollm2-135m", codec, 1)
    assert_consistent(cost)
    if codec == "raw":
        assert cost.payload_bytes == cost.raw_bytes


@pytest.mark.parametrize("codec", LEARNED)
def test_a_learned_codec_segments_over_the_wire(client: EdgeClient, jpeg: bytes, codec: str) -> None:
    reference = np.asarray(Image.open(io.BytesIO(client.segment(jpeg, codec="raw").label_map_png))) > 0
    reached = quality_range(client, "dinov2-small", codec)
    qualities = (reached.highest / 2, reached.highest)
    replies = [client.segment(jpeg, codec=codec, rate=Rate(quality=quality)) for quality in qualities]
    labels = np.asarray(Image.open(io.BytesIO(replies[1].label_map_png))) > 0
    assert (labels & reference).sum() / (labels | reference).sum() > 0.9
    assert [reply.cost.codec for reply in replies] == [codec, codec]
    assert replies[0].cost.wire_bytes < replies[1].cost.wire_bytes < replies[1].cost.raw_bytes / 5
    limit = replies[0].cost.wire_bytes + 2000
    limited = client.segment(jpeg, codec=codec, rate=Rate(max_bytes=limit))
    assert 0.9 * limit <= limited.cost.wire_bytes <= limit


@pytest.mark.parametrize("codec", ["levels", "klt"])
def test_every_codec_segments_and_says_what_it_cost(client: EdgeClient, jpeg: bytes, codec: str) -> None:
    reference = np.asarray(Image.open(io.BytesIO(client.segment(jpeg, codec="raw").label_map_png))) > 0
    reply = client.segment(jpeg, codec=codec)
    labels = np.asarray(Image.open(io.BytesIO(reply.label_map_png))) > 0
    assert (labels & reference).sum() / (labels | reference).sum() > 0.9
    assert (reply.cost.profile, reply.cost.codec) == ("dinov2-small", codec)
    assert reply.cost.num_values == (1 + 37 * 37) * 384
    assert_consistent(reply.cost)
    assert reply.cost.wire_bytes < reply.cost.raw_bytes / 3


@pytest.mark.parametrize(("codec", "most_bpfp"), [("raw", 33), ("levels", 4.0), ("klt", 0.4)])
def test_every_codec_classifies_and_says_what_it_cost(
    client: EdgeClient, jpeg: bytes, codec: str, most_bpfp: float
) -> None:
    exact = client.classify(jpeg, codec="raw")
    reply = client.classify(jpeg, codec=codec)
    assert len(reply.labels) == 5
    assert reply.labels[0].index == exact.labels[0].index
    assert reply.labels[0].probability == pytest.approx(exact.labels[0].probability, abs=0.1)
    assert (reply.cost.profile, reply.cost.codec) == ("efficientnet-lite0", codec)
    assert reply.cost.num_values == 1280 * 7 * 7
    assert_consistent(reply.cost)
    assert reply.cost.bpfp_wire < most_bpfp


@pytest.mark.parametrize("codec", LEARNED)
def test_a_learned_codec_that_never_saw_a_cnn_keeps_its_label(client: EdgeClient, codec: str) -> None:
    path = SAMPLES / "rocket.jpg"
    highest = quality_range(client, "efficientnet-lite0", codec).highest
    reply = client.classify(path, codec=codec, rate=Rate(quality=highest))
    assert reply.labels[0].index == client.classify(path, codec="raw").labels[0].index
    assert reply.cost.codec == codec
    assert reply.cost.wire_bytes < reply.cost.raw_bytes / 5
    assert_consistent(reply.cost)


def test_labels_are_five_where_nobody_says_how_many(edge_channel: grpc.Channel, jpeg: bytes) -> None:
    reply = inference_stub(edge_channel).Classify(inference_pb2.ClassifyRequest(image=jpeg), timeout=60)
    assert len(reply.labels) == 5


def quality_range(client: EdgeClient, profile: str, codec: str) -> head_pb2.QualityRange:
    return next(info for info in client.models() if info.name == profile).qualities[codec]


def assert_consistent(cost: inference_pb2.Cost) -> None:
    assert cost.raw_bytes == 4 * cost.num_values
    assert 0 < cost.payload_bytes < cost.wire_bytes < cost.payload_bytes + 64 * cost.num_frames
    assert cost.bpfp_payload == pytest.approx(8 * cost.payload_bytes / cost.num_values)
    assert cost.bpfp_wire == pytest.approx(8 * cost.wire_bytes / cost.num_values)
    seconds = {stage.name: stage.seconds for stage in cost.stages}
    assert set(seconds) >= STAGES
    assert all(taken > 0 for taken in seconds.values())
    assert seconds["round_trip"] > seconds["cloud.decode"] + seconds["cloud.head"]


def test_a_completion_is_charged_for_every_frame(client: EdgeClient) -> None:
    replies = list(client.complete(PROMPT, max_tokens=3, plain=True, codec="klt"))
    cost = replies[-1].cost
    assert [reply.HasField("cost") for reply in replies] == [False] * (len(replies) - 1) + [True]
    assert cost.num_frames == 3
    assert cost.num_values % 576 == 0
    assert_consistent(cost)


def test_klt_is_what_a_fitted_profile_uses_by_default(client: EdgeClient) -> None:
    assert client.answer(QUESTION, CHOICES).cost.codec == "klt"


@pytest.mark.parametrize("codec", LEARNED)
def test_a_quality_that_a_codec_does_not_reach_is_rejected_before_any_work(client: EdgeClient, codec: str) -> None:
    highest = quality_range(client, "smollm2-135m", codec).highest
    with pytest.raises(InputError, match=f"{codec} reaches 0.00 to {highest:.2f}"):
        client.answer(QUESTION, CHOICES, codec=codec, rate=Rate(quality=0.99))


def test_more_quality_is_more_bytes_and_a_nearer_answer(client: EdgeClient) -> None:
    exact = np.array(client.answer(QUESTION, CHOICES, codec="raw").probabilities)
    replies = [client.answer(QUESTION, CHOICES, codec="klt", rate=Rate(quality=q)) for q in (0.0, 0.5, 1.0)]
    sizes = [reply.cost.wire_bytes for reply in replies]
    errors = [float(np.abs(np.array(reply.probabilities) - exact).max()) for reply in replies]
    assert sizes == sorted(set(sizes))
    assert errors[2] < errors[0]
    assert errors[2] < 0.05


@pytest.mark.parametrize("codec", ["klt"])
def test_a_byte_limit_is_kept_and_nearly_used(client: EdgeClient, codec: str) -> None:
    low = client.answer(QUESTION, CHOICES, codec=codec, rate=Rate(quality=0.2)).cost.wire_bytes
    high = client.answer(QUESTION, CHOICES, codec=codec, rate=Rate(quality=0.8)).cost.wire_bytes
    limit = (low + high) // 2
    used = client.answer(QUESTION, CHOICES, codec=codec, rate=Rate(max_bytes=limit)).cost.wire_bytes
    assert 0.97 * limit < used <= limit


def test_a_target_of_bits_a_value_is_kept_and_nearly_used(client: EdgeClient, jpeg: bytes) -> None:
    cost = client.segment(jpeg, rate=Rate(target_bpfp=0.5)).cost
    assert 0.45 <= cost.bpfp_wire <= 0.5


def test_the_edge_lists_what_it_serves(client: EdgeClient) -> None:
    models = {info.name: info for info in client.models()}
    assert set(models) == {"smollm2-135m", "dinov2-small", "efficientnet-lite0", "sd3-emoji"}
    llama = models["smollm2-135m"]
    assert (llama.family, llama.split, llama.num_layers) == ("decoder", 16, 30)
    assert list(llama.codecs) == ["raw", "levels", "klt", *LEARNED]
    assert list(llama.tasks) == ["answer", "complete"]
    assert llama.digest == load_profile("smollm2-135m").digest
    assert set(llama.qualities) == {"klt", *LEARNED}
    assert (llama.qualities["klt"].lowest, llama.qualities["klt"].highest) == (0, 1)
    assert all(reached.lowest < 0.2 < 0.4 < reached.highest <= 1 for reached in llama.qualities.values())
    cnn = models["efficientnet-lite0"]
    assert (cnn.family, cnn.split, cnn.num_layers, list(cnn.tasks)) == ("cnn", 8, 8, ["classify"])
    assert list(cnn.codecs) == ["raw", "levels", "klt", *LEARNED]


def test_a_frame_that_the_edge_pipeline_makes_is_one_the_library_parses() -> None:
    profile = load_profile("smollm2-135m", 1)
    edge, record = EdgePipeline(profile, CPU, torch.float32), Record("answer")
    data = edge.encode(edge.backbone.features(edge.backbone.start(), [1, 2, 3]), "raw", Rate(), record)
    assert parse(data) == data.frame
    assert data.frame.shape == (3, 576)
    assert (record.wire_bytes, record.num_frames) == (len(data), 1)


def test_a_client_that_is_not_ours_finds_the_service_by_reflection_and_segments(
    edge_channel: grpc.Channel, jpeg: bytes
) -> None:
    database = ProtoReflectionDescriptorDatabase(edge_channel)
    assert "dtufc.v1.InferenceService" in database.get_services()
    service = DescriptorPool(database).FindServiceByName("dtufc.v1.InferenceService")
    method = service.FindMethodByName("Segment")
    request_class = message_factory.GetMessageClass(method.input_type)
    reply_class = message_factory.GetMessageClass(method.output_type)
    call = edge_channel.unary_unary(
        f"/{service.full_name}/{method.name}",
        request_serializer=request_class.SerializeToString,
        response_deserializer=reply_class.FromString,
    )
    reply = call(request_class(image=jpeg), timeout=60)
    assert Image.open(io.BytesIO(reply.label_map_png)).size == (reply.width, reply.height)


@pytest.mark.parametrize("service", ["", "dtufc.v1.InferenceService"])
def test_the_edges_health_is_told_as_grpc_health_v1_has_it(edge_channel: grpc.Channel, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(edge_channel)
    reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_the_clouds_health_names_its_service(cloud_channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(cloud_channel)
    reply = stub.Check(health_pb2.HealthCheckRequest(service="dtufc.v1.HeadService"), timeout=10)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_an_image_with_an_orientation_is_segmented_upright(client: EdgeClient, jpeg: bytes) -> None:
    image = Image.open(io.BytesIO(jpeg)).resize((120, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    reply = client.segment(file.getvalue(), codec="raw")
    assert (reply.width, reply.height) == (60, 120)
    assert Image.open(io.BytesIO(reply.label_map_png)).size == (60, 120)
