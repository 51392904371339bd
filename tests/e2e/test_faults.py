"""Faults of a process's life and at its border: signals, a taken address, tasks that are none, idle questions."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from dtufc.client import EdgeClient
from dtufc.errors import Unavailable
from dtufc.models.fitting import load
from dtufc.serving.transport import check_health
from dtufc.v1 import head_pb2, inference_pb2, inference_pb2_grpc
from tests.e2e.services import (
    Service,
    environment,
    error_info,
    free_port,
    head_stub,
    inference_stub,
    run_to_end,
    stop_all,
)

# A side whose models take LOAD_S to load, and whose work ends long after anybody would wait for it.
STUBBORN = """
import asyncio, os, sys, time
import grpc
from dtufc.serving.calls import Calls
from dtufc.serving.lifecycle import run, serve
from dtufc.serving.reload import Side
from dtufc.serving.status import grpc_status
from dtufc.serving.telemetry import Telemetry
from dtufc_edge.settings import EdgeSettings

async def add(server, worker, telemetry):
    calls = Calls(worker, telemetry, service="the edge", address="", timeout_s=60)

    async def work(request, context):
        async with grpc_status(context), calls.admit("work", context.time_remaining()):
            print('"message": "working"', file=sys.stderr, flush=True)
            await worker.run(time.sleep, 120)

    methods = {"Work": grpc.unary_unary_rpc_method_handler(work)}
    server.grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", methods),))

    async def load(settings):
        print('"message": "loading"', file=sys.stderr, flush=True)
        await asyncio.to_thread(time.sleep, float(os.environ["LOAD_S"]))
        return lambda: None

    return Side(services=["test.Test"], load=load)

sys.exit(run(EdgeSettings, lambda settings: serve(settings, Telemetry("edge"), add)))
"""


@pytest.fixture
def stubborn(logs: Path) -> Iterator[Callable[..., Service]]:
    """Starts one, and waits until it has logged a message."""
    started: list[Service] = []

    def start(message: str, *, drain_s: float = 60, load_s: float = 0) -> Service:
        address, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        log = logs / f"stubborn-{time.monotonic_ns()}.log"
        flags = ["--listen", address, "--metrics-listen", metrics, "--drain-s", str(drain_s)]
        with log.open("wb") as stderr:
            command = [sys.executable, "-c", STUBBORN, *flags]
            process = subprocess.Popen(command, stderr=stderr, stdout=stderr, env=environment({"LOAD_S": str(load_s)}))
        started.append(Service(side="edge", address=address, metrics_address=metrics, process=process, log=log))
        started[-1].wait_until_logged(message)
        return started[-1]

    yield start
    stop_all(started)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_does_not_wait_for_work_that_does_not_end(
    number: signal.Signals, stubborn: Callable[..., Service]
) -> None:
    service = stubborn("serving", drain_s=0.3)
    with grpc.insecure_channel(service.address) as channel:
        call = channel.unary_unary("/test.Test/Work").future(b"")
        service.wait_until_logged("working")
        service.process.send_signal(number)
        assert service.process.wait(5) == 0
        assert isinstance(call.exception(5), grpc.RpcError)
    assert '"message": "stopped"' in service.log_text()
    assert "Traceback" not in service.log_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_drain_at_once(number: signal.Signals, stubborn: Callable[..., Service]) -> None:
    service = stubborn("serving")
    with grpc.insecure_channel(service.address) as channel:
        call = channel.unary_unary("/test.Test/Work").future(b"")
        service.wait_until_logged("working")
        service.process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            service.process.wait(1)  # it drains
        service.process.send_signal(number)
        assert service.process.wait(2) == 128 + number
        assert isinstance(call.exception(5), grpc.RpcError)
    assert "Traceback" not in service.log_text()


def test_while_models_load_a_service_is_not_ready_and_a_signal_ends_the_process_at_once(
    stubborn: Callable[..., Service],
) -> None:
    loading = stubborn("loading", load_s=60)
    with pytest.raises(Unavailable, match="NOT_SERVING"):
        check_health(loading.address)
    loading.process.send_signal(signal.SIGINT)
    assert loading.process.wait(5) == 128 + signal.SIGINT
    assert "Traceback" not in loading.log_text()
    check_health(stubborn("serving").address)


def test_an_address_that_is_taken_is_told_in_one_line_before_any_model_is_looked_for(edge: Service) -> None:
    process = run_to_end("edge", "--listen", edge.address, "--metrics-listen", "127.0.0.1:0", "--profiles", "nowhere")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert stderr.splitlines() == [f"error: listen: cannot bind {edge.address}. Choose a free address."]


def test_idle_questions_cost_the_edge_and_the_cloud_next_to_nothing(
    edge: Service, cloud: Service, client: EdgeClient, cloud_channel: grpc.Channel
) -> None:
    before = edge.total("dtufc_edge_process_cpu_seconds_total") + cloud.total("dtufc_cloud_process_cpu_seconds_total")
    for _ in range(100):
        client.models()
        head_stub(cloud_channel).Describe(head_pb2.DescribeRequest(), timeout=10)
    after = edge.total("dtufc_edge_process_cpu_seconds_total") + cloud.total("dtufc_cloud_process_cpu_seconds_total")
    assert after - before < 1, "something is computed anew for each"


PREFIX = "type.googleapis.com/dtufc.v1."
TASKS = {
    "of an unknown type": AnyMessage(type_url=f"{PREFIX}NoSuchTask"),
    "whose bytes do not parse": AnyMessage(type_url=f"{PREFIX}AnswerTask", value=b"\xff\xff\xff"),
    "whose bytes are cut": AnyMessage(type_url=f"{PREFIX}AnswerTask", value=b"\x0a\x05\x01"),
    "whose type is no URL": AnyMessage(type_url="dtufc.v1.AnswerTask"),
    "whose type is a result's": AnyMessage(type_url=f"{PREFIX}AnswerResult"),
    "whose type is very long": AnyMessage(type_url="x" * 100_000),
}


@pytest.mark.parametrize("what", TASKS)
def test_a_task_that_is_none_is_an_input_error(what: str, cloud: Service, cloud_channel: grpc.Channel) -> None:
    frame = load("smollm2-135m").encode(np.zeros((5, 576), np.float32), codec="raw")
    request = head_pb2.RunRequest(profile="smollm2-135m", frame=frame, task=TASKS[what])
    with pytest.raises(grpc.RpcError) as caught:
        head_stub(cloud_channel).Run(request, timeout=60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(caught.value).metadata["field"] == "task"


def test_more_tokens_to_choose_from_than_a_question_has_are_an_input_error(cloud_channel: grpc.Channel) -> None:
    request = head_pb2.RunRequest(profile="smollm2-135m")
    request.task.Pack(head_pb2.AnswerTask(token_ids=[1] * 27))
    with pytest.raises(grpc.RpcError) as caught:
        head_stub(cloud_channel).Run(request, timeout=60)
    assert error_info(caught.value).metadata["field"] == "token_ids"


def test_a_stream_that_expires_ends_with_the_services_reason_and_nothing_unexpected(
    cloud: Service, launch: Callable[..., Service]
) -> None:
    edge = launch("edge", "--profiles", "smollm2-135m", "--timeout-s", "0.7", "--cloud", cloud.address)
    edge.wait_until_serving()
    with grpc.insecure_channel(edge.address) as channel:
        request = inference_pb2.CompleteRequest(prompt="One, two,", max_tokens=200, plain=True)
        with pytest.raises(grpc.RpcError) as caught:
            list(inference_stub(channel).Complete(request))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert error_info(caught.value).reason == "DEADLINE_EXCEEDED"
    assert "Traceback" not in edge.log_text()
    assert edge.terminate() == 0


def test_others_are_answered_while_the_first_requests_of_a_learned_codec_load_it(
    cloud: Service, launch: Callable[..., Service]
) -> None:
    edge = launch("edge", "--profiles", "smollm2-135m", "--threads", "1", "--cloud", cloud.address)
    edge.wait_until_serving()

    def answer(stub: inference_pb2_grpc.InferenceServiceStub, codec: str) -> grpc.Future:
        coding = inference_pb2.Coding(codec=codec)
        request = inference_pb2.AnswerRequest(coding=coding, question="Is it?", choices=["yes", "no"])
        return stub.Answer.future(request, timeout=60)

    with grpc.insecure_channel(edge.address) as channel:
        stub = inference_stub(channel)
        first = [answer(stub, "elic"), answer(stub, "elic")]
        assert answer(stub, "klt").result().cost.codec == "klt"
        assert not any(call.done() for call in first), "elic was loaded before klt had its turn"
        assert [call.result().cost.codec for call in first] == ["elic", "elic"]
