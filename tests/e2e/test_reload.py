"""Health while models load; profiles and certificates read anew while requests run: real processes, tiny models."""

import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
import trustme
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from safetensors.numpy import save

from dtufc.client import EdgeClient
from dtufc.errors import DtufcError, InputError, Unavailable
from dtufc.serving.transport import LIVENESS, Tls
from tests.e2e.services import Service, free_port, start, stop_all
from tests.serving.local_pair import tiny_decoder

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
EDGE_SERVICE = "dtufc.v1.InferenceService"


def eventually(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def profile_folder(folder: Path, name: str) -> Path:
    """A tiny random language model under this name."""
    tiny_decoder("Llama", folder)
    path = folder / "profile" / "profile.yaml"
    spec = {**yaml.safe_load(path.read_text(encoding="utf-8")), "name": name}
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return path.parent


def status(address: str, service: str) -> int:
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status)


def test_an_edge_that_loads_is_alive_and_not_ready_and_says_so_to_everybody(
    tmp_path: Path, launch: Callable[..., Service]
) -> None:
    folder = profile_folder(tmp_path, "tiny")
    spec = yaml.safe_load((folder / "profile.yaml").read_text(encoding="utf-8"))
    spec["calibrations"] = {spec["split"]: "gate"}
    (folder / "profile.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    os.mkfifo(folder / "gate")  # who reads it waits until somebody writes
    http = f"127.0.0.1:{free_port()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        edge = launch(
            *("edge", "--profiles", str(folder), "--http-listen", http), env={"NOTIFY_SOCKET": str(tmp_path / "notify")}
        )
        assert systemd.recv(4096) == b"STATUS=loading models"

        assert status(edge.address, LIVENESS) == SERVING
        assert status(edge.address, "") == status(edge.address, EDGE_SERVICE) == NOT_SERVING
        assert httpx2.get(f"http://{http}/health/live").status_code == 200
        assert httpx2.get(f"http://{http}/health").status_code == 503
        body = {"model": "tiny", "prompt": "a", "max_tokens": 1}
        rejected = httpx2.post(f"http://{http}/v1/completions", json=body)
        assert (rejected.status_code, rejected.json()["error"]["code"]) == (503, "UNAVAILABLE")
        with EdgeClient(edge.address) as client:
            for call in (client.models, lambda: client.answer("Is it?", ["yes", "no"])):
                with pytest.raises(Unavailable, match="it is loading its models"):
                    call()
        edge.process.send_signal(signal.SIGHUP)  # is no end; the reload comes once models are loaded

        (folder / "gate").write_bytes(save({}))
        assert systemd.recv(4096).startswith(b"READY=1\n")
        (folder / "gate").write_bytes(save({}))
        reloading = systemd.recv(4096).decode().splitlines()
        assert reloading[0] == "RELOADING=1"
        assert int(reloading[1].removeprefix("MONOTONIC_USEC=")) > 0
        assert systemd.recv(4096) == b"READY=1\nSTATUS=serving"
        assert status(edge.address, "") == status(edge.address, EDGE_SERVICE) == SERVING
        assert httpx2.get(f"http://{http}/health").status_code == 200
        edge.process.terminate()
        assert systemd.recv(4096).startswith(b"STOPPING=1\n")
    assert edge.process.wait(10) == 0


class Pair:
    """Edge and cloud with TLS, whose settings are files that a test may change."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self.authority = trustme.CA()
        self.folder, self.ca = folder, folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.renew_certificate()
        self.profiles = {name: str(profile_folder(folder / name, name)) for name in ("one", "two")}
        for side in ("edge", "cloud"):
            self.configure(side, ["one"])
        files = ("--tls-certificate", str(folder / "own.pem"), "--tls-key", str(folder / "own.key"))
        self.http = f"127.0.0.1:{free_port()}"
        self.cloud = start("cloud", logs, *files, env=self._env("cloud"))
        to_cloud = ("--cloud", self.cloud.address, "--cloud-tls-ca", str(self.ca), "--http-listen", self.http)
        self.edge = start("edge", logs, *files, *to_cloud, env=self._env("edge"))

    def _env(self, side: str) -> dict[str, str]:
        return {f"DTUFC_{side.upper()}_CONFIG": str(self.folder / f"{side}.yaml")}

    def configure(self, side: str, profiles: list[str], **others: Any) -> None:
        settings = {"profiles": [self.profiles.get(name, name) for name in profiles], **others}
        (self.folder / f"{side}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")

    def renew_certificate(self) -> None:
        issued = self.authority.issue_cert("127.0.0.1")
        (self.folder / "own.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(self.folder / "own.key"))

    def certificate(self) -> bytes:
        return ssl.PEM_cert_to_DER_cert((self.folder / "own.pem").read_text(encoding="ascii"))

    def seen(self, address: str) -> bytes:
        """The certificate that a new connection is shown."""
        context = ssl.create_default_context(cafile=self.ca)
        context.set_alpn_protocols(["h2", "http/1.1"])
        host, _, port = address.rpartition(":")
        plain = socket.create_connection((host, int(port)), timeout=10)
        with context.wrap_socket(plain, server_hostname=host) as encrypted:
            return encrypted.getpeercert(binary_form=True) or b""

    def reload(self, service: Service, result: str = "ok") -> None:
        """SIGHUP, until the service has counted its end."""
        name = f"dtufc_{service.side}_reloads_total"
        before = {each: service.total(name, result=each) for each in ("ok", "failed")}
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: service.total(name) > sum(before.values()))
        assert service.total(name, result=result) == before[result] + 1, service.log_text()

    def client(self) -> EdgeClient:
        return EdgeClient(self.edge.address, tls=Tls(ca=self.ca), timeout_s=60)

    def served(self) -> list[str]:
        with self.client() as client:
            return [info.name for info in client.models()]


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory, logs: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("reloaded"), logs)
    try:
        pair.cloud.wait_until_logged("serving")
        pair.edge.wait_until_logged("serving")
        yield pair
    finally:
        stop_all([pair.edge, pair.cloud])


class Traffic:
    """Requests, one after the other, in a thread."""

    def __init__(self, pair: Pair, ask: Callable[[EdgeClient], object]) -> None:
        self.num_answered = 0
        self.errors: list[DtufcError] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(pair, ask))

    def __enter__(self) -> "Traffic":
        self._thread.start()
        self.goes_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def goes_on(self) -> None:
        """Waits until two more requests are answered: one of them began after this call."""
        wanted = self.num_answered + 2
        eventually(lambda: self.num_answered >= wanted or bool(self.errors))
        assert self.errors == []

    def _run(self, pair: Pair, ask: Callable[[EdgeClient], object]) -> None:
        with pair.client() as client:
            while not self._stop.is_set() and not self.errors:
                try:
                    ask(client)
                except DtufcError as error:
                    self.errors.append(error)
                self.num_answered += 1


def test_requests_run_without_a_failure_through_reloads_of_profiles_and_certificates(reloaded: Pair) -> None:
    def answer(client: EdgeClient) -> object:
        return client.answer("Is it?", ["yes", "no"], profile="one")

    def complete(client: EdgeClient) -> object:
        return list(client.complete("Hi", max_tokens=20, plain=True, profile="one"))

    with Traffic(reloaded, answer) as answers, Traffic(reloaded, complete) as texts:
        for side in (reloaded.cloud, reloaded.edge):
            reloaded.configure(side.side, ["one", "two"])
            reloaded.reload(side)
        answers.goes_on()
        texts.goes_on()
        assert reloaded.served() == ["one", "two"]
        with reloaded.client() as client:
            assert client.answer("Is it?", ["yes", "no"], profile="two").letter in "AB"

        before = reloaded.certificate()
        addresses = [reloaded.cloud.address, reloaded.edge.address, reloaded.http]
        reloaded.renew_certificate()
        assert [reloaded.seen(address) for address in addresses] == [before] * 3
        for side in (reloaded.cloud, reloaded.edge):
            reloaded.reload(side)
        assert [reloaded.seen(address) for address in addresses] == [reloaded.certificate()] * 3
        answers.goes_on()
        texts.goes_on()


def test_a_profile_that_is_gone_from_the_list_is_served_no_more(reloaded: Pair) -> None:
    for names in (["one", "two"], ["two"], ["one"]):
        for side in (reloaded.edge, reloaded.cloud):
            reloaded.configure(side.side, names)
            reloaded.reload(side)
        assert reloaded.served() == names
    with reloaded.client() as client, pytest.raises(InputError, match="no profile two here"):
        client.answer("Is it?", ["yes", "no"], profile="two")


def test_a_reload_that_fails_says_why_in_one_line_and_all_goes_on_as_before(reloaded: Pair) -> None:
    nowhere = reloaded.folder / "nowhere"
    nowhere.mkdir()
    spec = yaml.safe_load((Path(reloaded.profiles["two"]) / "profile.yaml").read_text(encoding="utf-8"))
    spec["source"] = {"folder": str(nowhere / "weights")}
    (nowhere / "profile.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    kept = {path: path.read_bytes() for path in (*reloaded.folder.glob("own.*"), *reloaded.folder.glob("*.yaml"))}

    def break_yaml(side: str) -> str:
        (reloaded.folder / f"{side}.yaml").write_text("profiles: [\n", encoding="utf-8")
        return f"{side}.yaml"

    def name_nothing(side: str) -> str:
        reloaded.configure(side, ["one", "gpt-9"])
        return "no profile gpt-9"

    def lose_weights(side: str) -> str:
        reloaded.configure(side, ["one", str(nowhere)])
        return "weights"

    def change_another_setting(side: str) -> str:
        reloaded.configure(side, ["one"], queue_limit=7)
        return "queue_limit: changed"

    def take_another_key(side: str) -> str:
        reloaded.authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(str(reloaded.folder / "own.key"))
        return "own.key"

    for side in (reloaded.edge, reloaded.cloud):
        for change in (break_yaml, name_nothing, lose_weights, change_another_setting, take_another_key):
            says = change(side.side)
            num_lines = len(side.log_text().splitlines())
            reloaded.reload(side, "failed")
            (line,) = [line for line in side.log_text().splitlines()[num_lines:] if "reload" in line]
            assert says in line, line
            assert '"level": "ERROR"' in line
            assert "trace" not in line
            for path, content in kept.items():
                path.write_bytes(content)
        reloaded.reload(side)
    assert reloaded.served() == ["one"]
    with reloaded.client() as client:
        assert client.answer("Is it?", ["yes", "no"]).letter in "AB"
