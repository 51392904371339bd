"""Weights: what is fetched is checked, and a user's own folder runs split as it runs whole."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional
from transformers import (
    AutoModelForImageClassification,
    Dinov2Config,
    Dinov2Model,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
)

from dtufc.coding.rate import Rate
from dtufc.errors import InputError, ProfileMismatch
from dtufc.models.capabilities import Turn
from dtufc.models.fingerprint import fingerprint
from dtufc.models.fitting import fit
from dtufc.models.plugins import completed
from dtufc.models.preprocess import View
from dtufc.models.profile import Profile, load_profile
from dtufc.models.zoo import fetch_package, is_fetched, weights_folder
from dtufc.serving.telemetry import Record
from dtufc.v1 import head_pb2
from dtufc_cloud.pipeline import CloudPipeline
from dtufc_edge.pipeline import EdgePipeline
from dtufc_research.evaluation.cuts import save_vision
from tests.models.pairs import decoded, result

CPU = torch.device("cpu")
WORDS = ["<s>", "</s>", "<unk>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "one", "two", "three", "four", "five", "six", "seven"]
LABELS = 5


@pytest.fixture(params=["tied", "untied", "sharded"])
def llama_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random LLaMA of three layers with a tokenizer of words, as `save_pretrained` writes it."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=request.param == "tied",
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.2,
    )
    folder = tmp_path / "model"
    sizes = {"max_shard_size": "60KB"} if request.param == "sharded" else {}
    LlamaForCausalLM(config).save_pretrained(folder, **sizes)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    num_files = len(list(folder.glob("*.safetensors")))
    assert num_files > 1 if request.param == "sharded" else num_files == 1
    return folder


@pytest.fixture(params=["whole", "sharded"])
def dinov2_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random DINOv2 of three blocks on 4 x 4 patches, with a linear head of five labels."""
    torch.manual_seed(2)
    config = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=56,
        patch_size=14,
        initializer_range=0.2,
    )
    folder = tmp_path / "model"
    sizes = {"max_shard_size": "30KB"} if request.param == "sharded" else {}
    Dinov2Model(config).save_pretrained(folder, **sizes)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (request.param == "sharded")
    (folder / "head").mkdir()
    save_file(
        {
            "bn.weight": torch.rand(32) + 0.5,
            "bn.bias": torch.randn(32),
            "bn.running_mean": torch.randn(32),
            "bn.running_var": torch.rand(32) + 0.5,
            "conv_seg.weight": torch.randn(LABELS, 32, 1, 1),
            "conv_seg.bias": torch.randn(LABELS),
        },
        folder / "head" / "model.safetensors",
    )
    (folder / "head" / "config.json").write_text(json.dumps({"kind": "linear", "labels": LABELS}), encoding="utf-8")
    return folder


@pytest.fixture(params=["resnet", "efficientnet"])
def cnn_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random classifier of six labels in three stages, and how it wants its images: as transformers writes both."""
    torch.manual_seed(5)
    names = dict(enumerate(["ant", "bee", "cat", "dog", "eel", "fox"]))
    if request.param == "resnet":
        config = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 2, 1], layer_type="bottleneck", id2label=names
        )
        model: PreTrainedModel = ResNetForImageClassification(config)
    else:
        config = EfficientNetConfig(
            image_size=48,
            depth_coefficient=1.0,
            width_coefficient=0.25,
            kernel_sizes=[3, 5],
            in_channels=[32, 16],
            out_channels=[16, 24],
            depthwise_padding=[],
            strides=[1, 2],
            num_block_repeats=[1, 2],
            expand_ratios=[1, 6],
            hidden_dim=320,  # 1280, by the width
            id2label=names,
        )
        model = EfficientNetForImageClassification(config)
    with torch.no_grad():
        for name, buffer in model.named_buffers():  # or batch norm would do nothing
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.2, 1.0)
        for parameter in model.parameters():
            parameter.mul_(2.0)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    view = {"size": 48, "crop_pct": 0.875, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(view), encoding="utf-8")
    return folder


def profile_of(family: str, folder: Path, split: int, fingerprint_: str | None = None) -> Profile:
    """Writes a profile.yaml beside the model's folder and loads it."""
    source = {"folder": str(folder)} | ({"fingerprint": fingerprint_} if fingerprint_ else {})
    layout = {"decoder": {"family": "llm"}, "vit": {"family": "vit"}, "cnn": {"family": "cnn"}}
    tasks = {"decoder": ["answer", "complete"], "vit": ["segment"], "cnn": ["classify"]}
    spec = {
        "name": "mine",
        "family": family,
        "layout": layout[family],
        "split": split,
        "tasks": tasks[family],
        "source": source,
    }
    home = folder.parent / "profile"
    home.mkdir(exist_ok=True)
    (home / "profile.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    return load_profile(home)


def pipelines(profile: Profile) -> tuple[EdgePipeline, CloudPipeline]:
    return EdgePipeline(profile, CPU, torch.float32), CloudPipeline(profile, CPU, torch.float32)


@pytest.mark.parametrize("split", [1, 2, 3])
def test_a_llama_from_a_folder_runs_split_as_it_runs_whole(llama_folder: Path, split: int) -> None:
    edge, cloud = pipelines(profile_of("decoder", llama_folder, split))
    token_ids = edge.backbone.chat_ids([Turn(role="user", content="one two A three")])
    assert token_ids == [WORDS.index(word) for word in ("one", "two", "A", "three")]
    features = edge.backbone.features(edge.backbone.start(), token_ids)
    frame = edge.encode(features, "raw", Rate(), Record("complete"))
    with torch.inference_mode():
        whole = LlamaForCausalLM.from_pretrained(llama_folder).eval()(torch.tensor([token_ids])).logits[0]
    torch.testing.assert_close(cloud.head.logits(decoded(cloud, frame)), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        cloud.head.next_logits(cloud.head.start(), features, 1), whole[-1:], atol=1e-5, rtol=1e-5
    )
    letters = [edge.backbone.token_id(letter) for letter in "ABC"]
    expected = torch.softmax(whole[-1][letters].double(), dim=0).tolist()
    answer = result(cloud, frame, "answer", head_pb2.AnswerTask(token_ids=letters))
    np.testing.assert_allclose(list(answer.probabilities), expected, atol=1e-6)


@pytest.mark.parametrize("split", [1, 2, 3])
def test_a_dinov2_from_a_folder_runs_split_as_it_runs_whole(dinov2_folder: Path, split: int) -> None:
    edge, cloud = pipelines(profile_of("vit", dinov2_folder, split))
    noise = np.random.default_rng(3).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    pixels, box = edge.backbone.fit(Image.fromarray(noise))
    features = edge.backbone.features(pixels)
    expected = whole_label_logits(dinov2_folder, pixels)
    torch.testing.assert_close(cloud.head.logits(features), expected, atol=1e-4, rtol=1e-5)
    frame = edge.encode(features, "raw", Rate(), Record("segment"))
    task = head_pb2.SegmentTask(left=box.left, top=box.top, right=box.right, bottom=box.bottom, width=30, height=40)
    png = result(cloud, frame, "segment", task).label_map_png
    labels = expected.argmax(0).numpy()[box.top : box.bottom, box.left : box.right]
    height, width = labels.shape
    rows = ((np.arange(40) + 0.5) * height / 40).astype(int)  # the nearest pixel of each, by its centre
    columns = ((np.arange(30) + 0.5) * width / 30).astype(int)
    found = np.asarray(Image.open(io.BytesIO(png)))
    assert len(np.unique(found)) > 1
    np.testing.assert_array_equal(found, labels[np.ix_(rows, columns)])


def test_a_vit_with_a_classifier_runs_split_as_it_runs_whole(tmp_path: Path) -> None:
    save_vision("ViTForImageClassification", tmp_path / "model")
    view = {"size": {"height": 56, "width": 56}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(view), encoding="utf-8")
    profile = profile_of("vit", tmp_path / "model", 3)
    edge, cloud = pipelines(replace(profile, spec=profile.spec.model_copy(update={"tasks": ("classify",)})))
    pixels = edge.backbone.crop(Image.fromarray(np.random.default_rng(3).integers(0, 256, (80, 60, 3), np.uint8)))
    frame = edge.encode(edge.backbone.features(pixels), "raw", Rate(), Record("classify"))
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "model").eval()
    with torch.inference_mode():
        expected = torch.softmax(model(pixel_values=pixels).logits[0].double(), dim=0)
    labels = result(cloud, frame, "classify", head_pb2.ClassifyTask(top_k=3)).labels
    assert [label.index for label in labels] == torch.topk(expected, 3).indices.tolist()
    np.testing.assert_allclose([label.probability for label in labels], torch.topk(expected, 3).values, atol=1e-6)


def test_prefix_tokens_that_a_profile_leaves_out_are_the_models_own(dinov2_folder: Path) -> None:
    profile = profile_of("vit", dinov2_folder, 1)
    edge, cloud = pipelines(profile)
    assert edge.profile.layout.prefix == completed(profile).layout.prefix == 1
    assert edge.profile.digest == cloud.profile.digest
    with pytest.raises(InputError, match="leaves the number of prefix tokens to its model"):
        fit([np.zeros((17, 32), np.float32)], profile=profile)


def test_a_layout_that_is_not_the_models_is_rejected_with_the_one_that_is(dinov2_folder: Path) -> None:
    profile = profile_of("vit", dinov2_folder, 1)
    layout = profile.spec.layout.model_copy(update={"prefix": 5})
    with pytest.raises(InputError, match="the model has 1 prefix tokens"):
        EdgePipeline(replace(profile, spec=profile.spec.model_copy(update={"layout": layout})), CPU, torch.float32)


def whole_label_logits(folder: Path, pixels: torch.Tensor) -> torch.Tensor:
    """The whole model and its head, written out: batch norm by its running statistics, one matrix a patch."""
    w = load_file(folder / "head" / "model.safetensors")
    with torch.inference_mode():
        tokens = Dinov2Model.from_pretrained(folder).eval()(pixel_values=pixels).last_hidden_state[0, 1:]  # [16, 32]
    normed = (tokens - w["bn.running_mean"]) / torch.sqrt(w["bn.running_var"] + 1e-5) * w["bn.weight"] + w["bn.bias"]
    logits = normed @ w["conv_seg.weight"][:, :, 0, 0].T + w["conv_seg.bias"]  # [16, labels]
    grid = logits.T.reshape(1, LABELS, 4, 4)
    return functional.interpolate(grid, size=(56, 56), mode="bilinear")[0]


@pytest.mark.parametrize("split", [1, 2, 3])
def test_a_cnn_from_a_folder_runs_split_as_it_runs_whole(cnn_folder: Path, split: int) -> None:
    edge, cloud = pipelines(profile_of("cnn", cnn_folder, split))
    noise = np.random.default_rng(6).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    pixels = edge.backbone.crop(Image.fromarray(noise))
    features = edge.backbone.features(pixels)
    assert pixels.shape == (1, 3, 48, 48)
    assert features.ndim == 3
    model = AutoModelForImageClassification.from_pretrained(cnn_folder).eval()
    with torch.inference_mode():
        expected = model(pixel_values=pixels).logits[0]
    assert float(expected.std()) > 1e-3, "a model whose logits tell nothing apart"
    torch.testing.assert_close(cloud.head.logits(features), expected, atol=1e-5, rtol=1e-5)
    frame = edge.encode(features, "raw", Rate(), Record("classify"))
    labels = result(cloud, frame, "classify", head_pb2.ClassifyTask(top_k=4)).labels
    best = torch.topk(torch.softmax(expected.double(), 0), 4)
    assert [label.index for label in labels] == best.indices.tolist()
    assert [label.name for label in labels] == [model.config.id2label[index] for index in best.indices.tolist()]
    np.testing.assert_allclose([label.probability for label in labels], best.values, atol=1e-6)


def torchvision_state(state: dict[str, torch.Tensor], depths: list[int], convolutions: int) -> dict[str, torch.Tensor]:
    """The tensors of a ResNet under the names of a checkpoint of torchvision, spelled out block by block."""
    parts = {"conv1": "resnet.embedder.embedder.convolution", "bn1": "resnet.embedder.embedder.normalization"}
    for stage, depth in enumerate(depths):
        for block in range(depth):
            ours, theirs = f"resnet.encoder.stages.{stage}.layers.{block}", f"layer{stage + 1}.{block}"
            parts |= {f"{theirs}.conv{i + 1}": f"{ours}.layer.{i}.convolution" for i in range(convolutions)}
            parts |= {f"{theirs}.bn{i + 1}": f"{ours}.layer.{i}.normalization" for i in range(convolutions)}
            parts |= {f"{theirs}.downsample.0": f"{ours}.shortcut.convolution"}
            parts |= {f"{theirs}.downsample.1": f"{ours}.shortcut.normalization"}
    parts["fc"] = "classifier.1"
    return {
        f"{theirs}.{kind}": state.pop(f"{ours}.{kind}")
        for theirs, ours in parts.items()
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        if f"{ours}.{kind}" in state
    }


@pytest.mark.parametrize("cnn_folder", ["resnet"], indirect=True)
@pytest.mark.parametrize("file", ["safetensors", "pickle", "old pickle"])
def test_a_state_dict_with_the_names_of_torchvision_is_the_same_model(cnn_folder: Path, file: str) -> None:
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))

    def logits() -> torch.Tensor:
        profile = profile_of("cnn", cnn_folder, 2)
        edge, cloud = EdgePipeline(profile, CPU, torch.float32), CloudPipeline(profile, CPU, torch.float32)
        return torch.as_tensor(cloud.head.logits(edge.backbone.features(pixels)))

    expected = logits()
    state = load_file(cnn_folder / "model.safetensors")
    (cnn_folder / "model.safetensors").unlink()
    renamed = torchvision_state(state, [1, 2, 1], 3)
    assert "layer2.1.bn3.running_var" in renamed
    assert state == {}
    if file == "safetensors":
        save_file(renamed, cnn_folder / "model.safetensors")
    else:
        is_new = file == "pickle"
        torch.save(renamed, cnn_folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_new)
    torch.testing.assert_close(logits(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("cnn_folder", ["resnet"], indirect=True)
def test_weights_that_lack_a_tensor_or_are_no_state_dict_are_named(cnn_folder: Path) -> None:
    path = cnn_folder / "model.safetensors"
    state = load_file(path)
    save_file({name: value for name, value in state.items() if name != "classifier.1.bias"}, path)
    with pytest.raises(InputError, match=r"lacks classifier\.1\.bias"):
        CloudPipeline(profile_of("cnn", cnn_folder, 2), CPU, torch.float32)
    path.unlink()
    torch.save({"model": state}, cnn_folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="no state dict"):
        CloudPipeline(profile_of("cnn", cnn_folder, 2), CPU, torch.float32)
    (cnn_folder / "pytorch_model.bin").write_bytes(b"no pickle")
    with pytest.raises(InputError, match=r"pytorch_model\.bin"):
        CloudPipeline(profile_of("cnn", cnn_folder, 2), CPU, torch.float32)


def test_an_image_is_cropped_and_normalised_as_the_folder_says(cnn_folder: Path) -> None:
    edge = EdgePipeline(profile_of("cnn", cnn_folder, 1), CPU, torch.float32)
    image = np.zeros((110, 220, 3), np.uint8)  # its middle square of 96 of 110 is what the model sees
    image[7:103, 62:158] = (255, 0, 51)
    pixels = edge.backbone.crop(Image.fromarray(image))[0, :, 4:-4, 4:-4]
    for plane, value, mean, std in zip(pixels, (1.0, 0.0, 0.2), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), strict=True):
        torch.testing.assert_close(plane, torch.full_like(plane, (value - mean) / std), atol=1e-5, rtol=0)


def test_a_split_behind_the_last_stage_is_rejected_with_how_many_there_are(cnn_folder: Path) -> None:
    profile = profile_of("cnn", cnn_folder, 9)
    for side in (EdgePipeline, CloudPipeline):
        with pytest.raises(InputError, match="3 stages"):
            side(profile, CPU, torch.float32)


def test_a_folder_of_another_kind_of_model_is_rejected(dinov2_folder: Path) -> None:
    profile = profile_of("cnn", dinov2_folder, 1)
    with pytest.raises(InputError, match="dinov2"):
        CloudPipeline(profile, CPU, torch.float32)


@pytest.mark.parametrize(
    ("says", "side", "resized"),
    [
        ({"size": {"shortest_edge": 224}}, 224, 256),
        ({"size": 224, "crop_pct": 0.7}, 224, 320),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, 224, 256),
        ({"size": {"height": 224, "width": 224}, "crop_size": {"height": 289}, "do_center_crop": False}, 224, 224),
        ({"size": {"height": 346, "width": 346}}, 346, 346),
    ],
)
def test_what_a_model_sees_is_what_transformers_would_show_it(
    tmp_path: Path, says: dict[str, object], side: int, resized: int
) -> None:
    colours = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(says | colours), encoding="utf-8")
    view = View.read(tmp_path)
    assert (view.side, view.resized) == (side, resized)


_TOO_SMALL = '{"size": 224, "crop_size": {"height": 289}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}'


@pytest.mark.parametrize("text", [None, "{}", '{"size": {}}', "no json", _TOO_SMALL])
def test_a_folder_that_does_not_say_how_to_preprocess_images_is_rejected(cnn_folder: Path, text: str | None) -> None:
    file = cnn_folder / "preprocessor_config.json"
    file.unlink() if text is None else file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="preprocessor_config"):
        EdgePipeline(profile_of("cnn", cnn_folder, 1), CPU, torch.float32)


def test_a_profile_saved_elsewhere_names_no_split_that_is_not_there(tmp_path: Path) -> None:
    fitted = load_profile("smollm2-135m", 16)
    fitted.save(tmp_path)
    assert set(load_profile(tmp_path).spec.calibrations) == {16}
    replace(load_profile("smollm2-135m", 30), spec=load_profile(tmp_path).spec).save(tmp_path)
    assert set(load_profile(tmp_path).spec.calibrations) == {16, 30}
    assert load_profile(tmp_path, 16).digest == fitted.digest


def test_features_have_no_source_and_a_model_needs_one(tmp_path: Path) -> None:
    source = load_profile("dinov2-small").spec.model_dump(mode="json")["source"]
    for spec in ({"split": 1, "source": source}, {"family": "decoder", "split": 1}):
        (tmp_path / "profile.yaml").write_text(
            yaml.safe_dump({"name": "x", "layout": {"family": "llm"}, **spec}), encoding="utf-8"
        )
        with pytest.raises(InputError, match=r"no source|needs a source"):
            load_profile(tmp_path)


def test_a_family_that_is_not_installed_is_rejected_with_those_that_are(llama_folder: Path) -> None:
    profile = profile_of("decoder", llama_folder, 1)
    other = replace(profile, spec=profile.spec.model_copy(update={"family": "encoder"}))
    for side in (EdgePipeline, CloudPipeline):
        with pytest.raises(InputError, match=r"no family encoder is installed.*decoder"):
            side(other, CPU, torch.float32)


def test_a_profile_fitted_to_a_users_model_codes_its_features(llama_folder: Path) -> None:
    base = profile_of("decoder", llama_folder, 2)
    edge = EdgePipeline(base, CPU, torch.float32)
    rng = np.random.default_rng(4)
    texts = [rng.integers(3, len(WORDS), 40).tolist() for _ in range(8)]
    samples = [edge.backbone.features(edge.backbone.start(), text) for text in texts]
    home = llama_folder.parent / "fitted"
    fit(samples, profile=base).save(home)
    profile = load_profile(home)
    edge, cloud = pipelines(profile)
    frame = edge.encode(samples[0], "klt", Rate(quality=1.0), Record("complete"))
    assert len(frame) < samples[0].nbytes / 2
    assert float((decoded(cloud, frame) - samples[0]).norm() / samples[0].norm()) < 0.1
    with pytest.raises(ProfileMismatch, match="mine"):
        decoded(CloudPipeline(base, CPU, torch.float32), frame)


def test_the_right_fingerprint_is_taken_and_another_rejected(llama_folder: Path) -> None:
    right = fingerprint(llama_folder)
    assert weights_folder(profile_of("decoder", llama_folder, 1, right).spec) == llama_folder
    with pytest.raises(InputError, match="other weights"):
        EdgePipeline(profile_of("decoder", llama_folder, 1, "0" * 64), CPU, torch.float32)
    with pytest.raises(InputError, match="other weights"):
        CloudPipeline(profile_of("decoder", llama_folder, 1, "0" * 64), CPU, torch.float32)


def test_a_fingerprint_notices_other_weights_and_another_config(llama_folder: Path) -> None:
    before = fingerprint(llama_folder)
    file = next(llama_folder.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    changed = fingerprint(llama_folder)
    config = json.loads((llama_folder / "config.json").read_text(encoding="utf-8"))
    (llama_folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}), encoding="utf-8")
    assert len({before, changed, fingerprint(llama_folder)}) == 3


def test_a_fingerprint_notices_another_head(dinov2_folder: Path) -> None:
    before = fingerprint(dinov2_folder)
    file = dinov2_folder / "head" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert fingerprint(dinov2_folder) != before


def test_profiles_of_other_fingerprints_have_other_digests(llama_folder: Path) -> None:
    digests = {profile_of("decoder", llama_folder, 1, letter * 64).digest for letter in "abc"}
    assert len(digests) == 3


def test_a_profile_reads_its_relative_folder_from_beside_itself(llama_folder: Path) -> None:
    home = llama_folder.parent
    (home / "profile.yaml").write_text(
        "name: mine\nfamily: decoder\nlayout: {family: llm}\nsplit: 1\nsource: {folder: model}\n",
        encoding="utf-8",
    )
    assert weights_folder(load_profile(home).spec).resolve() == llama_folder.resolve()


def test_a_folder_without_a_model_is_rejected_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    profile = profile_of("decoder", tmp_path / "model", 1)
    assert not is_fetched(profile.spec)
    with pytest.raises(InputError, match="no model in"):
        weights_folder(profile.spec)


def test_a_missing_tensor_is_an_input_error_that_names_the_folder(llama_folder: Path) -> None:
    for file in llama_folder.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    profile = profile_of("decoder", llama_folder, 1)
    for side in (EdgePipeline, CloudPipeline):
        with pytest.raises(InputError, match="weights"):
            side(profile, CPU, torch.float32)


def test_a_package_of_another_sha256_is_rejected_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTUFC_CACHE", str(tmp_path))  # the setting that a user has for it
    folder = tmp_path / "packages" / "thing-1.0"
    folder.mkdir(parents=True)
    wheel = folder / "thing-1.0-py3-none-any.whl"
    wheel.write_bytes(b"not what was published")
    right = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert fetch_package("thing", "1.0", right) == wheel
    with pytest.raises(InputError, match="sha256") as caught:
        fetch_package("thing", "1.0", "0" * 64)
    assert right in str(caught.value)
    assert not wheel.exists()


def test_both_sides_load_their_default_codec_when_they_start() -> None:
    profile = load_profile("efficientnet-lite0")
    for pipeline in (EdgePipeline(profile, CPU, torch.float32), CloudPipeline(profile, CPU, torch.float32)):
        assert pipeline.codec.is_loaded("klt")
        assert not pipeline.codec.is_loaded("levels")
    damaged = {**profile.calibration, "klt.steps": np.zeros(3, np.int16)}
    for side in (EdgePipeline, CloudPipeline):
        with pytest.raises(InputError, match="the arrays of klt are damaged"):
            side(replace(profile, calibration=damaged), CPU, torch.float32)
