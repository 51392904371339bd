"""A model of one's own, as a stranger brings it: init, fit, evaluate, and then the pair serves it."""

import json
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

import dtufc
from dtufc.models.capabilities import Turn
from dtufc.models.drafting import draft_profile
from dtufc.models.from_inputs import choose, fit_to_inputs
from dtufc.models.inputs import read_inputs
from dtufc.models.measuring import Pair
from dtufc.models.profile import FolderSource, load_profile
from dtufc.models.zoo import weights_folder
from dtufc.v1 import inference_pb2
from tests.e2e.services import SAMPLES, inference_stub, start, stop_all
from tests.e2e.test_cli import dtufc as run
from tests.e2e.test_cli import error_of, parsed

DOCS = Path(__file__).parents[2] / "docs"
QUESTIONS = Path(__file__).parents[2] / "research/dtufc_research/data/questions.jsonl"
NAMES = {0: "cat, a tabby", 1: "dog", 2: "bird"}
SIDE = 32
T = TypeVar("T")


class Silent:
    """Progress that shows nothing, and may end the work as Ctrl-C does."""

    def __init__(self, interrupt_at: str = "") -> None:
        self.interrupt_at = interrupt_at
        self.done: list[str] = []

    def steps(self, of: Iterable[T], total: int, description: str) -> Iterable[T]:
        for index, one in enumerate(of):
            if description == self.interrupt_at and index == 1:
                raise KeyboardInterrupt
            self.done.append(description)
            yield one

    def share(self, description: str) -> Callable[[float], None]:
        return lambda share: None


def save_classifier(cls: Any, config: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    config.id2label = NAMES
    model = cls(config).eval()
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    view = {"size": size, "do_center_crop": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(view), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight parts of photographs, and a file that says what each shows."""
    folder = tmp_path_factory.mktemp("images")
    lines = []
    for index in range(8):
        photo = Image.open(SAMPLES / ("chelsea.jpg", "rocket.jpg")[index % 2])
        photo.crop((20 * index, 10 * index, 20 * index + 150, 10 * index + 150)).save(folder / f"{index}.png")
        lines.append({"image": f"{index}.png", "label": (index % 3) if index < 4 else NAMES[index % 3].split(",")[0]})
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The profile of a language model, fitted to texts; and what `dtufc fit` printed."""
    folder = tmp_path_factory.mktemp("llama") / "my-llama"
    source = weights_folder(load_profile("smollm2-135m").spec)
    told = parsed("init", source, "--split", "28", "-o", folder)
    assert (told["family"], told["split"], told["proof"]) == ("decoder", 28, "split equals whole")
    texts = sorted(DOCS.glob("decisions/000*.md"))
    return folder, parsed("fit", folder, *texts, "--samples", "4", "--held-out", "2")


def test_init_writes_what_the_models_own_configuration_says(llama: tuple[Path, dict[str, Any]]) -> None:
    spec = load_profile(llama[0]).spec
    assert (spec.name, spec.family, spec.split, spec.tasks) == ("my-llama", "decoder", 28, ("answer", "complete"))
    assert (spec.layout.family, spec.layout.channels) == ("llm", 576)
    assert isinstance(spec.source, FolderSource)


def test_fit_takes_gradients_and_ends_with_a_table_on_samples_it_was_not_fitted_to(
    llama: tuple[Path, dict[str, Any]],
) -> None:
    folder, told = llama
    assert told["samples"] == 4
    assert told["rows"] > 4 * 200
    assert told["saved_by_gradients"] > 0
    assert told["held_out"]["samples"] == 2
    rows = {(row["codec"], row["quality"]): row for row in told["held_out"]["rows"]}
    assert [quality for codec, quality in rows if codec == "klt"] == [0.2, 0.4, 0.5, 0.6, 0.8]
    assert rows["none", None]["agreement"] == 1
    assert 0.95 < rows["float16", None]["agreement"] <= 1
    assert 8 < rows["int8", None]["bpfp"] < 8.1
    assert rows["klt", 0.8]["agreement"] > rows["klt", 0.2]["agreement"]
    assert rows["klt", 0.2]["perplexity"] > 1
    assert sorted(path.name for path in folder.iterdir()) == ["profile.yaml", "split28.safetensors"]


def test_the_pair_serves_it(llama: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    cloud = start("cloud", tmp_path, "--profiles", str(llama[0]))
    services = [cloud]
    try:
        cloud.wait_until_serving()
        services.append(start("edge", tmp_path, "--profiles", str(llama[0]), "--cloud", cloud.address))
        services[-1].wait_until_serving()
        import grpc

        with grpc.insecure_channel(services[-1].address) as channel:
            request = inference_pb2.AnswerRequest(question="Which is a fruit?", choices=["stone", "apple"])
            reply = inference_stub(channel).Answer(request, timeout=60)
        assert reply.letter in "AB"
        assert reply.cost.codec == "klt"
        assert reply.cost.profile == "my-llama"
    finally:
        stop_all(services)


def test_evaluate_asks_questions_and_tells_accuracy_and_what_is_kept(
    llama: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    lines = list(islice(QUESTIONS.read_text(encoding="utf-8").splitlines(), 12))
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(lines), encoding="utf-8")
    options = ("--codec", "klt", "--codec", "levels", "--quality", "0.9", "-o", tmp_path / "report")
    told = parsed("evaluate", llama[0], data, *options)
    rows = {row["codec"]: row for row in told["rows"]}
    assert list(rows) == ["none", "float16", "int8", "klt", "levels"]
    assert told["samples"] == 12
    assert {12 * row["accuracy"] for row in rows.values()} <= {float(count) for count in range(13)}
    assert rows["none"]["kept"] == rows["none"]["agreement"] == 1
    assert rows["klt"]["agreement"] >= 10 / 12
    written = json.loads((tmp_path / "report" / "evaluation.json").read_text(encoding="utf-8"))
    assert written == told
    with Image.open(tmp_path / "report" / "evaluation.png") as plot:
        assert plot.format == "PNG"
        assert plot.width == 3 * 600


def test_evaluate_reads_texts_and_warns_of_other_lengths(llama: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("The quick brown fox jumps over the lazy dog. " * 3, encoding="utf-8")
    told = parsed("evaluate", llama[0], tmp_path / "short.txt", "--codec", "klt", "--quality", "0.6")
    assert set(told["rows"][0]) == {"codec", "quality", "bpfp", "agreement", "perplexity"}
    assert "tokens, and the profile was fitted on" in told["warnings"][0]


def test_the_noise_floor_is_the_same_model_in_float32(llama: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    text = DOCS / "decisions/0001-dependencies.md"
    command = ("evaluate", llama[0], text, "--codec", "klt", "--quality", "0.6", "--limit", "1")
    first, floor, *others = parsed(*command, "--dtype", "bfloat16", "--noise-floor", "-o", tmp_path)["rows"]
    assert [row["codec"] for row in (first, floor, *others)] == ["none", "model in float32", "float16", "int8", "klt"]
    assert first["agreement"] == 1
    assert 0.9 < floor["agreement"] < 1
    exact = parsed(*command, "--dtype", "float32")["rows"][0]
    assert floor["perplexity"] == exact["perplexity"] != first["perplexity"]
    assert (floor["bpfp"], exact["bpfp"], first["bpfp"]) == (32, 32, 16)
    assert "float32 already" in error_of(*command, "--dtype", "float32", "--noise-floor")


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_three_commands_bring_a_classifier(kind: str, images: Path, tmp_path: Path) -> None:
    if kind == "vit":
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}
        config = ViTConfig(image_size=SIDE, patch_size=8, **sizes)
        source = save_classifier(ViTForImageClassification, config, tmp_path / "model")
    else:
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic")
        source = save_classifier(ResNetForImageClassification, config, tmp_path / "model")
    told = parsed("init", source, "-o", tmp_path / "mine")
    assert (told["family"], told["split"], told["tasks"]) == ({"vit": "vit", "resnet": "cnn"}[kind], 2, "classify")
    fitted = parsed("fit", tmp_path / "mine", images)
    assert fitted["saved_by_gradients"] is not None
    assert {"agreement"} <= set(fitted["held_out"]["rows"][0])
    found = parsed("evaluate", tmp_path / "mine", images / "labels.jsonl", "--codec", "klt", "--quality", "0.9")
    rows = {row["codec"]: row for row in found["rows"]}
    assert found["samples"] == 8
    assert 0 <= rows["none"]["accuracy"] <= 1
    assert rows["klt"]["agreement"] >= 0.75
    assert dtufc.load(tmp_path / "mine").default_codec == "klt"


def test_labels_may_be_numbers_or_names(images: Path, tmp_path: Path) -> None:
    config = ViTConfig(
        image_size=SIDE, patch_size=8, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    profile = draft_profile(str(save_classifier(ViTForImageClassification, config, tmp_path / "model")), 1, name="mine")
    pair = Pair(profile)
    (source,) = read_inputs([images / "labels.jsonl"])
    expected = pair.head.labels(next(pair.feeds(source[0])).features(), 1)[0].index
    for label in (expected, NAMES[expected].upper(), NAMES[expected].split(",")[-1], (expected + 1) % 3):
        (tmp_path / "one.jsonl").write_text(json.dumps({"image": str(images / "0.png"), "label": label}))
        ((item,),) = read_inputs([tmp_path / "one.jsonl"])
        feed = next(pair.feeds(item))
        features = feed.features()
        accuracy = feed.judge(features)(features.numpy())["accuracy"][0]
        assert accuracy == (label != (expected + 1) % 3), label
    for label in (3, "fish", "0"):
        (tmp_path / "one.jsonl").write_text(json.dumps({"image": str(images / "0.png"), "label": label}))
        ((item,),) = read_inputs([tmp_path / "one.jsonl"])
        with pytest.raises(dtufc.errors.InputError, match="none of the model's 3 labels"):
            next(pair.feeds(item)).judge(features)


def test_masks_are_held_against_the_heads_own(tmp_path: Path) -> None:
    pair = Pair(load_profile("dinov2-small"))
    photo = SAMPLES / "astronaut.jpg"
    with Image.open(photo) as image:
        size = image.size
    ((plain,),) = read_inputs([photo])
    feed = next(pair.feeds(plain))
    features = feed.features()
    box = pair.backbone.fit(Image.open(photo))[1]
    own = pair.head.label_map(features, (box.left, box.top, box.right, box.bottom), size[::-1])
    found = []
    for name, mask in (("own", own), ("ones", own // 255), ("inverse", 255 - own)):
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
        line = {"image": str(photo), "mask": f"{name}.png"}
        (tmp_path / "one.jsonl").write_text(json.dumps(line), encoding="utf-8")
        ((item,),) = read_inputs([tmp_path / "one.jsonl"])
        found.append(next(pair.feeds(item)).judge(features)(features.numpy())["mean IoU"][0])
    assert found == [1.0, 1.0, 0.0]
    Image.fromarray(own[:-1]).save(tmp_path / "own.png")
    (tmp_path / "one.jsonl").write_text(json.dumps({"image": str(photo), "mask": "own.png"}), encoding="utf-8")
    ((item,),) = read_inputs([tmp_path / "one.jsonl"])
    with pytest.raises(dtufc.errors.InputError, match="a mask of"):
        next(pair.feeds(item)).judge(features)


def test_an_interrupted_fit_keeps_its_features_and_goes_on(images: Path, tmp_path: Path) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    source = save_classifier(ResNetForImageClassification, config, tmp_path / "model")
    profile = draft_profile(str(source), 1, name="mine")
    sources = read_inputs([images / f"{index}.png" for index in range(8)])
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        fit_to_inputs(Pair(profile), sources, output, Silent("gradients"))
    kept = {path: path.stat().st_mtime_ns for path in (output / ".fit").iterdir()}
    assert len(kept) == 8 + 1  # features of all, the gradient of one
    again = Silent("fit")
    seen: dict[Path, int] = {}

    class Watching(Silent):
        def share(self, description: str) -> Callable[[float], None]:
            seen.update({path: path.stat().st_mtime_ns for path in (output / ".fit").iterdir()})
            return super().share(description)

    resumed = fit_to_inputs(Pair(profile), sources, output, Watching())
    assert {path: seen[path] for path in kept} == kept
    assert len(seen) == 8 + 6
    assert not (output / ".fit").exists()
    whole = fit_to_inputs(Pair(profile), sources, tmp_path / "whole", again)
    assert resumed.codec.profile.digest == whole.codec.profile.digest


def test_every_fourth_source_is_held_out_and_no_sample_is_in_both(images: Path, tmp_path: Path) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    source = save_classifier(ResNetForImageClassification, config, tmp_path / "model")
    pair = Pair(draft_profile(str(source), 1, name="mine"))
    files = [images / f"{index}.png" for index in range(8)]
    fitted = fit_to_inputs(pair, read_inputs(files), tmp_path / "a", Silent(), gradients=False)
    assert (fitted.num_samples, fitted.evaluation.num_samples) == (6, 2)
    alone = fit_to_inputs(pair, read_inputs(files[:2]), tmp_path / "b", Silent(), gradients=False)
    assert (alone.num_samples, alone.evaluation.num_samples) == (1, 1)
    copy = tmp_path / "copy.png"  # the same image under another name
    copy.write_bytes(files[0].read_bytes())
    with pytest.raises(dtufc.errors.InputError, match="1 to fit to and 0 to evaluate on"):
        fit_to_inputs(pair, read_inputs([files[0], copy]), tmp_path / "c", Silent(), gradients=False)


def test_a_file_that_is_named_twice_is_one_source(images: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words", encoding="utf-8")
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    assert len(read_inputs([tmp_path, tmp_path, tmp_path / "a.txt"])) == 1
    ((first, *others),) = read_inputs([images])  # of each image the file of labels says more
    assert len(others) == 7
    assert first == read_inputs([images / "labels.jsonl"])[0][0]


def test_every_fourth_sample_is_a_turn_of_a_chat_and_no_excerpt_is_in_both_parts(
    llama: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    words = (DOCS / "bitstream.md").read_text(encoding="utf-8")
    for number in range(20):
        part = words[2500 * number : 2500 * number + 2500] if number < 12 else words[2500 * (number - 12) :][:2500]
        (tmp_path / f"{number:02}.txt").write_text(part, encoding="utf-8")  # the last eight are the first again
    pair = Pair(load_profile(llama[0]))
    chosen, held_out = choose(pair, read_inputs([tmp_path]), 12, 4)
    assert (len(chosen), len(held_out)) == (12, 4)
    ends = {number for number, feed in enumerate(chosen) if feed.as_turn is None}
    assert ends == {3, 7, 11}
    assert [feed.as_turn is None for feed in held_out] == [False, False, False, True]
    turned = {feed.as_turn().key for feed in [*chosen, *held_out] if feed.as_turn}
    keys = [feed.key for feed in [*chosen, *held_out]]
    assert len(set(keys)) == 16
    assert not turned & set(keys)

    def turn_ids(text: str) -> list[int]:
        return list(pair.backbone.chat_ids([Turn(role="user", content=text)]))

    turn = turn_ids(words[:2500])
    ending = turn[-4:]  # where the reply begins
    features = chosen[3].features()
    assert len(features) <= 256 + 8
    excerpt = pair.backbone.plain_ids(words[3 * 2500 :][:2500])[: 256 - len(turn_ids(""))]
    assert turn_ids(pair.backbone.decode(excerpt))[-4:] == ending


def test_a_mask_in_a_folder_is_no_input(tmp_path: Path) -> None:
    for name in ("a.png", "a-mask.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    line = json.dumps({"image": "a.png", "mask": "a-mask.png"})
    (tmp_path / "data.jsonl").write_text(f"\ufeff{line}\n" + '{"text": "one\u2028line"}', encoding="utf-8")
    assert [len(items) for items in read_inputs([tmp_path])] == [2]


def test_a_fit_removes_what_it_kept_and_nothing_else(images: Path, tmp_path: Path) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    source = save_classifier(ResNetForImageClassification, config, tmp_path / "model")
    profile = draft_profile(str(source), 1, name="mine")
    (tmp_path / "out" / ".fit").mkdir(parents=True)
    (tmp_path / "out" / ".fit" / "mine.npy").write_bytes(b"precious")
    sources = read_inputs([images / f"{index}.png" for index in range(4)])
    fit_to_inputs(Pair(profile), sources, tmp_path / "out", Silent(), gradients=False)
    assert [path.name for path in (tmp_path / "out" / ".fit").iterdir()] == ["mine.npy"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": 3}', "no input"),
        ('{"question": "a", "choices": ["b"], "right": 0}', "no input"),
        ('{"question": "a", "choices": ["b", "c"], "right": 2}', "no input"),
        ('{"question": "a", "choices": ["b", "c"], "right": "Z"}', "no input"),
        ('{"question": "a", "choices": ["b", "c"]}', "right"),
        ('{"image": "a.png", "label": [1]}', "no input"),
        ("[1, 2]", "no input"),
        ('{"question": "a", "choices": ["b", "c"], "right": 1e999}', "no input"),
        ('{"question": "a", "choices": ["b", "c"], "right": true}', "no input"),
        ('{"question": "a", "choices": ["b", "c"], "right": ""}', "no input"),
        ('{"question": "a", "choices": ["b", "c"], "right": 0.5}', "no input"),
        ('{"image": "a.png", "label": true}', "no input"),
        ('{"image": "a\\u0000.png"}', "no input"),
        ('{"text": "\\ud800"}', "surrogates"),
        ('{"text": "a"', "JSONDecodeError"),
        ("[" * 100_000, "Recursion"),
    ],
)
def test_a_line_that_is_no_input_is_named_with_its_number(line: str, problem: str, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "fine"}\n\n' + line, encoding="utf-8")
    with pytest.raises(dtufc.errors.InputError, match=problem) as caught:
        read_inputs([data])
    assert "data.jsonl:3" in str(caught.value)


def test_what_cannot_be_brought_is_one_line_that_says_what_to_do(
    llama: tuple[Path, dict[str, Any]], images: Path, tmp_path: Path
) -> None:
    folder = llama[0]
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("a,b", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("\xe9t\xe9".encode("latin-1"))
    (tmp_path / "image.png").write_bytes(b"no image")
    assert "holds a profile" in error_of("init", tmp_path, "-o", folder)
    assert "no model in" in error_of("init", tmp_path, "-o", tmp_path / "x")
    assert "named org/name" in error_of("init", "no/such/model", "-o", tmp_path / "x")
    assert "comes with the package" in error_of("init", tmp_path, "-o", tmp_path / "smollm2-135m")
    source = load_profile(folder).spec.source
    assert isinstance(source, FolderSource)
    assert "Give 1 to 30" in error_of("init", source.folder, "--split", "31", "-o", tmp_path / "x")
    assert "dtufc init" in error_of("fit", tmp_path / "none", tmp_path / "latin.txt")
    assert "Name a folder with -o" in error_of("fit", "smollm2-135m", tmp_path / "latin.txt")
    assert "Name the profile first" in error_of("fit", "a.npy", "b.npy")
    assert ".npy files and others" in error_of("fit", folder, "a.npy", "b.txt")
    assert "there is no" in error_of("evaluate", folder, tmp_path / "nowhere")
    assert "no input in" in error_of("evaluate", folder, tmp_path / "empty")
    assert "of no kind" in error_of("evaluate", folder, tmp_path / "a.csv")
    assert "UTF-8" in error_of("evaluate", folder, tmp_path / "latin.txt")
    assert "takes no image" in error_of("evaluate", folder, images / "0.png")
    last = run("evaluate", "dinov2-small", tmp_path / "image.png").stderr.splitlines()[-1]
    assert "image.png: is none of a kind that is known" in last
    assert not (tmp_path / "x").exists()


def test_fit_without_json_shows_each_step_and_a_table(images: Path, tmp_path: Path) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    parsed("init", save_classifier(ResNetForImageClassification, config, tmp_path / "model"), "-o", tmp_path / "mine")
    done = run("fit", tmp_path / "mine", images)
    assert done.returncode == 0, done.stderr
    steps = ["features: 8", "gradients: 6", "fit", "held-out samples: 2"]
    assert [line for line in done.stderr.splitlines() if line in steps] == steps
    assert "on 2 samples that it was not fitted to" in done.stdout
    assert "agreement" in done.stdout


def test_features_of_named_axes_are_fitted_and_a_wrong_order_names_the_right_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", rng.standard_normal((1, 6, 6, 48)).astype(np.float32))
    files = sorted(tmp_path.glob("*.npy"))
    told = parsed("fit", tmp_path / "maps", *files, "--axes", "NHWC")
    assert told["channels"] == 48
    assert load_profile(tmp_path / "maps").layout.axes == "NHWC"
    assert "NHWC" in error_of("fit", tmp_path / "x", *files, "--layout", "cnn")
    assert "axes alone" in error_of("fit", tmp_path / "x", *files, "--layout", "cnn", "--axes", "NHWC")
