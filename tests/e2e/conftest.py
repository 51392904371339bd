"""A pair that serves the shipped profiles, started once; the whole models to hold it against."""

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer, Dinov2Model, EfficientNetForImageClassification, LlamaForCausalLM

from dtufc.client import EdgeClient
from dtufc.models.cnn import drop_excitation
from dtufc.models.profile import load_profile
from dtufc.models.zoo import weights_folder
from dtufc_cloud.heads.vit import SaliencyHead
from tests.e2e.services import SAMPLES, Service, start, stop_all

MAX_IMAGE_SECONDS = 3
SMALL_LIMITS = (
    *("--max-image-bytes", "200000", "--max-image-pixels", "36000000", "--max-image-seconds", str(MAX_IMAGE_SECONDS)),
    *("--max-prompt-tokens", "200"),
)


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="session")
def pair(logs: Path) -> Iterator[tuple[Service, Service]]:
    """Edge and cloud with the shipped profiles. The edge's limits are small, to be met cheaply."""
    cloud = start("cloud", logs)
    edge = start("edge", logs, "--cloud", cloud.address, *SMALL_LIMITS)
    try:
        cloud.wait_until_serving()
        edge.wait_until_serving()
        yield edge, cloud
    finally:
        stop_all([edge, cloud])


@pytest.fixture(scope="session")
def edge(pair: tuple[Service, Service]) -> Service:
    return pair[0]


@pytest.fixture(scope="session")
def cloud(pair: tuple[Service, Service]) -> Service:
    return pair[1]


@pytest.fixture(autouse=True)
def _show_logs(request: pytest.FixtureRequest, logs: Path) -> Iterator[None]:
    """What the services wrote on stderr during a test is shown where the test fails."""
    before = {path: path.stat().st_size for path in logs.glob("*.log")}
    yield
    for path in sorted(logs.glob("*.log")):
        with path.open("rb") as file:
            file.seek(before.get(path, 0))
            written = file.read().decode(errors="replace")
        if written:
            print(f"--- {path.name}\n{written[-4000:]}")


@pytest.fixture(scope="session")
def client(edge: Service) -> Iterator[EdgeClient]:
    with EdgeClient(edge.address, timeout_s=60) as client:
        yield client


@pytest.fixture(scope="session")
def edge_channel(edge: Service) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(edge.address) as channel:
        yield channel


@pytest.fixture(scope="session")
def cloud_channel(cloud: Service) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(cloud.address) as channel:
        yield channel


@pytest.fixture
def launch(logs: Path) -> Iterator[Callable[..., Service]]:
    """Starts services for one test, and kills those that are left at its end."""
    started: list[Service] = []

    def launch_one(side: str, *flags: str, port: int | None = None, env: dict[str, str] | None = None) -> Service:
        started.append(start(side, logs, *flags, port=port, env=env))
        return started[-1]

    try:
        yield launch_one
    finally:
        stop_all(started)


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    return (SAMPLES / "chelsea.jpg").read_bytes()


@pytest.fixture(scope="session")
def whole_llama() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(weights_folder(load_profile("smollm2-135m").spec)).eval()


@pytest.fixture(scope="session")
def tokenizer() -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(weights_folder(load_profile("smollm2-135m").spec))


@pytest.fixture(scope="session")
def whole_dinov2() -> Dinov2Model:
    return Dinov2Model.from_pretrained(weights_folder(load_profile("dinov2-small").spec)).eval()


@pytest.fixture(scope="session")
def whole_cnn() -> EfficientNetForImageClassification:
    folder = weights_folder(load_profile("efficientnet-lite0").spec)
    model = EfficientNetForImageClassification(EfficientNetForImageClassification.config_class.from_pretrained(folder))
    drop_excitation(model)
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return model.eval()


@pytest.fixture(scope="session")
def saliency_head() -> SaliencyHead:
    weights = load_file(weights_folder(load_profile("dinov2-small").spec) / "head" / "model.safetensors")
    widths = [int(weights[f"bn{i}.weight"].shape[0]) for i in (1, 2, 3)]
    head = SaliencyHead(channels=int(weights["upconv1.weight"].shape[0]), widths=widths)
    head.load_state_dict(weights, strict=False)  # counts of batches are not stored
    return head.eval()
