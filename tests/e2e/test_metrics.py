"""The metrics of both sides, read over HTTP: each moves by what happened, and no caller's word becomes a label."""

from functools import partial

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from dtufc.client import EdgeClient
from dtufc.coding.bitstream import CodecId
from dtufc.coding.rate import Rate
from dtufc.errors import InputError
from dtufc.models.fitting import load
from dtufc.v1 import head_pb2
from tests.e2e.services import Service, head_stub, run_request
from tests.e2e.test_failures import eventually

TWO = ["yes", "no"]
LABELS = {"model": "smollm2-135m", "codec": "klt"}


class Moved:
    """How far the samples of a side have moved since it was made."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._before = service.samples()

    def by(self, name: str, **labels: str) -> float:
        wanted = set(labels.items())
        return sum(
            value - self._before.get((found, has), 0.0)
            for (found, has), value in self._service.samples().items()
            if found == name and wanted <= has
        )


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_an_answer_moves_the_metrics_of_each_side_by_what_it_cost(
    side: str, edge: Service, cloud: Service, client: EdgeClient
) -> None:
    moved = Moved({"edge": edge, "cloud": cloud}[side])
    cost = client.answer("Is it?", TWO, codec="klt").cost
    name = f"dtufc_{side}"
    assert moved.by(f"{name}_requests_total", task="answer", **LABELS) == 1
    assert moved.by(f"{name}_requests_total") == 1
    assert moved.by(f"{name}_errors_total") == 0
    assert moved.by(f"{name}_raw_bytes_total", **LABELS) == cost.raw_bytes
    assert moved.by(f"{name}_coded_bytes_total", **LABELS) == cost.wire_bytes
    assert moved.by(f"{name}_feature_values_total", **LABELS) == cost.num_values
    assert moved.by(f"{name}_bpfp_count", **LABELS) == 1
    assert moved.by(f"{name}_bpfp_sum", **LABELS) == pytest.approx(cost.bpfp_wire)
    assert moved.by(f"{name}_request_seconds_count", task="answer", **LABELS) == 1
    seconds = {stage.name: stage.seconds for stage in cost.stages}
    own = {stage for stage in seconds if side == "edge" or stage.startswith("cloud.")}
    assert own
    for stage in own:
        assert moved.by(f"{name}_stage_seconds_count", stage=stage, **LABELS) == 1
        assert moved.by(f"{name}_stage_seconds_sum", stage=stage, **LABELS) == pytest.approx(seconds[stage])
    assert moved.by(f"{name}_running") == 0


def test_a_completion_counts_once_on_each_side_with_all_its_frames(
    edge: Service, cloud: Service, client: EdgeClient
) -> None:
    at_edge, at_cloud = Moved(edge), Moved(cloud)
    cost = list(client.complete("One, two,", max_tokens=3, plain=True, codec="levels"))[-1].cost
    labels = {"model": "smollm2-135m", "codec": "levels"}
    assert at_edge.by("dtufc_edge_requests_total", task="complete", **labels) == 1
    eventually(lambda: at_cloud.by("dtufc_cloud_requests_total", task="complete", **labels) == 1)
    assert cost.num_frames == 3
    assert at_edge.by("dtufc_edge_coded_bytes_total", **labels) == cost.wire_bytes
    assert at_cloud.by("dtufc_cloud_coded_bytes_total", **labels) == cost.wire_bytes


def test_a_completion_of_three_tokens_moves_the_metrics_of_generation(
    edge: Service, cloud: Service, client: EdgeClient
) -> None:
    at_edge, at_cloud = Moved(edge), Moved(cloud)
    replies = client.complete("One, two,", max_tokens=3, plain=True, codec="klt", drafts="off")
    first = next(replies)
    assert first.HasField("token")
    generated = list(replies)[-1].generated
    assert generated.new_tokens == 3
    assert at_edge.by("dtufc_edge_tokens_total", kind="prompt", **LABELS) == generated.prompt_tokens
    assert at_edge.by("dtufc_edge_tokens_total", kind="new", **LABELS) == 3
    assert at_edge.by("dtufc_edge_first_token_seconds_count", **LABELS) == 1
    assert at_edge.by("dtufc_edge_token_seconds_count", **LABELS) == 2
    assert at_edge.by("dtufc_edge_pass_sequences_sum", model=LABELS["model"]) == 3
    assert at_edge.by("dtufc_edge_recoveries_total") == 0
    eventually(lambda: at_cloud.by("dtufc_cloud_sessions_total", reason="closed", model=LABELS["model"]) == 1)
    assert at_cloud.by("dtufc_cloud_sessions_total") == 1
    assert at_cloud.by("dtufc_cloud_tokens_total", kind="sampled", **LABELS) == 3
    assert at_cloud.by("dtufc_cloud_step_seconds_count", **LABELS) == 3
    steps_s = at_cloud.by("dtufc_cloud_step_seconds_sum", **LABELS)
    assert at_cloud.by("dtufc_cloud_request_seconds_sum", task="complete", **LABELS) == pytest.approx(steps_s)
    for side, moved in (("edge", at_edge), ("cloud", at_cloud)):
        assert moved.by(f"dtufc_{side}_tokens_total", kind="drafted") == 0
        assert moved.by(f"dtufc_{side}_tokens_total", kind="accepted") == 0


def test_a_text_that_is_generated_holds_its_cache_on_both_sides_until_it_ends(
    edge: Service, cloud: Service, client: EdgeClient
) -> None:
    replies = client.complete("One, two,", max_tokens=200, plain=True)
    next(replies)
    for side, service in (("edge", edge), ("cloud", cloud)):
        assert service.total(f"dtufc_{side}_sequences") == 1
        assert 0 < service.total(f"dtufc_{side}_cache_bytes") < service.total(f"dtufc_{side}_cache_limit_bytes")
    replies.close()
    for side, service in (("edge", edge), ("cloud", cloud)):
        eventually(partial(holds_nothing, service, side))
        assert service.total(f"dtufc_{side}_cache_bytes") == 0


def holds_nothing(service: Service, side: str) -> bool:
    return service.total(f"dtufc_{side}_sequences") == 0


@pytest.mark.parametrize(
    ("codec", "rate", "label"),
    [
        ("klt", Rate(), "default"),
        ("klt", Rate(quality=0.8123), "0.8"),
        ("klt", Rate(target_bpfp=1.0), "target_bpfp"),
        ("klt", Rate(max_bytes=9000), "max_bytes"),
        ("levels", Rate(), "none"),
        ("raw", Rate(quality=0.8), "none"),
    ],
)
def test_bpfp_is_told_apart_by_quality_to_a_tenth_or_by_the_kind_of_limit(
    codec: str, rate: Rate, label: str, edge: Service, client: EdgeClient
) -> None:
    moved = Moved(edge)
    cost = client.answer("Is it?", TWO, codec=codec, rate=rate).cost
    labels = {"model": "smollm2-135m", "codec": codec, "quality": label}
    assert moved.by("dtufc_edge_bpfp_count") == moved.by("dtufc_edge_bpfp_count", **labels) == 1
    assert moved.by("dtufc_edge_bpfp_sum", **labels) == pytest.approx(cost.bpfp_wire)


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_the_queue_tells_its_places_and_the_process_its_memory(side: str, edge: Service, cloud: Service) -> None:
    service = {"edge": edge, "cloud": cloud}[side]
    assert service.total(f"dtufc_{side}_slots") == 33  # one thread and 32 that wait
    assert service.total(f"dtufc_{side}_process_resident_memory_bytes") > 1e8
    assert service.total(f"dtufc_{side}_process_cpu_seconds_total") > 0


def test_desyncs_start_at_zero_for_every_model_and_codec(edge: Service, client: EdgeClient) -> None:
    found = {dict(labels)["codec"] for name, labels in edge.samples() if name == "dtufc_edge_desyncs_total"}
    assert found == {codec for profile in client.models() for codec in profile.codecs}


def test_errors_are_counted_by_reason_on_the_side_where_they_arise(
    edge: Service, cloud: Service, client: EdgeClient, cloud_channel: grpc.Channel
) -> None:
    at_edge, at_cloud = Moved(edge), Moved(cloud)
    with pytest.raises(InputError):
        client.answer("", TWO)
    assert at_edge.by("dtufc_edge_errors_total", task="answer", reason="INPUT", model="smollm2-135m") == 1
    assert at_edge.by("dtufc_edge_requests_total", task="answer") == 1
    assert at_cloud.by("dtufc_cloud_requests_total") == 0
    frame = load("smollm2-135m", split=30).encode(zeros(), codec="raw")
    for data, reason in ((frame[:20], "TRUNCATED"), (frame, "PROFILE_MISMATCH")):
        with pytest.raises(grpc.RpcError):
            head_stub(cloud_channel).Run(
                run_request("smollm2-135m", data, head_pb2.AnswerTask(token_ids=[1])), timeout=60
            )
        assert at_cloud.by("dtufc_cloud_errors_total", task="answer", reason=reason) == 1


def zeros() -> NDArray[np.float32]:
    return np.zeros((2, 576), np.float32)


def test_no_word_of_a_caller_becomes_a_label(
    edge: Service, cloud: Service, client: EdgeClient, cloud_channel: grpc.Channel
) -> None:
    bogus = "bogus-name-7f3a"
    with pytest.raises(InputError):
        client.answer("Is it?", TWO, profile=bogus)
    with pytest.raises(InputError):
        client.answer("Is it?", TWO, codec=bogus)
    with pytest.raises(grpc.RpcError):
        head_stub(cloud_channel).Run(head_pb2.RunRequest(profile=bogus), timeout=60)
    for service in (edge, cloud):
        words = {value for _, labels in service.samples() for _, value in labels}
        assert bogus not in words
        models = {dict(labels)["model"] for _, labels in service.samples() if "model" in dict(labels)}
        codecs = {dict(labels)["codec"] for _, labels in service.samples() if "codec" in dict(labels)}
        assert models <= {"smollm2-135m", "dinov2-small", "efficientnet-lite0", "sd3-emoji", "unknown"}
        assert codecs <= {*CodecId.__members__, "unknown"}


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_metrics_are_named_for_their_side_and_in_base_units(side: str, edge: Service, cloud: Service) -> None:
    names = {name for name, _ in {"edge": edge, "cloud": cloud}[side].samples()}
    assert names
    assert all(name.startswith(f"dtufc_{side}_") for name in names)
