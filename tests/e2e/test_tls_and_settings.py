"""TLS on both ways, and settings: flags over environment over YAML, and nothing misspelt is passed over."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import trustme

from dtufc.client import EdgeClient
from dtufc.errors import Unavailable
from dtufc.serving.transport import Tls, check_health
from tests.e2e.services import Service, environment, run_to_end, start, stop_all

Launch = Callable[..., Service]
TWO = ["yes", "no"]


class Certificates:
    """Two authorities and what they signed, as PEM files."""

    def __init__(self, folder: Path) -> None:
        ours, strangers = trustme.CA(), trustme.CA()
        self.ca, self.other_ca = folder / "ca.pem", folder / "other-ca.pem"
        ours.cert_pem.write_to_path(str(self.ca))
        strangers.cert_pem.write_to_path(str(self.other_ca))
        self.server = self._issue(ours, folder, "127.0.0.1")
        self.client = self._issue(ours, folder, "client.example")
        self.stranger = self._issue(strangers, folder, "stranger.example")

    @staticmethod
    def _issue(authority: trustme.CA, folder: Path, name: str) -> tuple[Path, Path]:
        issued = authority.issue_cert(name)
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_pair(certificates: Certificates, logs: Path) -> Iterator[tuple[Service, Service]]:
    """The cloud asks for the edge's certificate; the edge takes any client that trusts its own."""
    server = ("--tls-certificate", str(certificates.server[0]), "--tls-key", str(certificates.server[1]))
    llama = ("--profiles", "smollm2-135m@30")
    cloud = start("cloud", logs, *llama, *server, "--tls-ca", str(certificates.ca))
    as_client = ("--cloud-tls-certificate", str(certificates.client[0]), "--cloud-tls-key", str(certificates.client[1]))
    to_cloud = ("--cloud", cloud.address, "--cloud-tls-ca", str(certificates.ca), *as_client)
    edge = start("edge", logs, *llama, *server, *to_cloud)
    try:
        cloud.wait_until_logged("serving")
        edge.wait_until_logged("serving")
        yield edge, cloud
    finally:
        stop_all([edge, cloud])


def test_an_encrypted_pair_answers_an_encrypted_client(
    tls_pair: tuple[Service, Service], certificates: Certificates
) -> None:
    with EdgeClient(tls_pair[0].address, tls=Tls(ca=certificates.ca)) as client:
        assert client.answer("Is it?", TWO).letter in "AB"


def test_a_health_check_of_an_encrypted_edge_is_encrypted_too(
    tls_pair: tuple[Service, Service], certificates: Certificates
) -> None:
    edge, _ = tls_pair
    check_health(edge.address, Tls(ca=certificates.ca))
    with pytest.raises(Unavailable):
        check_health(edge.address)


def test_a_plain_client_is_rejected_by_an_encrypted_edge(tls_pair: tuple[Service, Service]) -> None:
    with EdgeClient(tls_pair[0].address, timeout_s=10) as client, pytest.raises(Unavailable):
        client.models()


def test_a_client_that_trusts_another_authority_does_not_talk_to_the_edge(
    tls_pair: tuple[Service, Service], certificates: Certificates
) -> None:
    tls = Tls(ca=certificates.other_ca)
    with EdgeClient(tls_pair[0].address, timeout_s=10, tls=tls) as client, pytest.raises(Unavailable):
        client.models()


@pytest.mark.parametrize("who", ["nobody", "stranger", "client"])
def test_a_cloud_that_asks_for_certificates_lets_only_its_own_authoritys_in(
    tls_pair: tuple[Service, Service], certificates: Certificates, who: str
) -> None:
    pair = {"nobody": None, "stranger": certificates.stranger, "client": certificates.client}[who]
    certificate, key = pair or (None, None)
    credentials = grpc.ssl_channel_credentials(*Tls(ca=certificates.ca, certificate=certificate, key=key).read())
    with grpc.secure_channel(tls_pair[1].address, credentials) as channel:
        describe = channel.unary_unary("/dtufc.v1.HeadService/Describe")
        if who == "client":
            assert b"smollm2-135m" in describe(b"", timeout=20)
        else:
            with pytest.raises(grpc.RpcError) as caught:
                describe(b"", timeout=20)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


class Rejection:
    """Settings that a side must reject, and words of the message."""

    def __init__(self, side: str, *flags: str, says: str, **variables: str) -> None:
        self.side, self.flags, self.says, self.variables = side, flags, says, variables


@pytest.fixture(scope="module")
def rejections(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> dict[str, Rejection]:
    folder = tmp_path_factory.mktemp("settings")
    (folder / "misspelt.yaml").write_text("thraeds: 1\n", encoding="utf-8")
    (folder / "broken.yaml").write_text("threads: [1\n", encoding="utf-8")
    nowhere = str(folder / "nowhere.yaml")
    key, server = str(certificates.server[1]), str(certificates.server[0])
    return {
        "misspelt variable of the edge": Rejection("edge", says="DTUFC_EDGE_PORFILES", DTUFC_EDGE_PORFILES="x"),
        "misspelt variable of the cloud": Rejection("cloud", says="DTUFC_CLOUD_LISTENN", DTUFC_CLOUD_LISTENN="x"),
        "misspelt prefix": Rejection("cloud", says="DTUFC_CLUOD_LISTEN", DTUFC_CLUOD_LISTEN="x"),
        "misspelt key in YAML": Rejection("edge", says="thraeds", DTUFC_EDGE_CONFIG=str(folder / "misspelt.yaml")),
        "broken YAML": Rejection("edge", says="broken.yaml", DTUFC_EDGE_CONFIG=str(folder / "broken.yaml")),
        "missing YAML": Rejection("edge", says="nowhere.yaml", DTUFC_EDGE_CONFIG=nowhere),
        "misspelt flag": Rejection("edge", "--thraeds", "1", says="thraeds"),
        "number out of range": Rejection("edge", "--threads", "0", says="threads"),
        "no number": Rejection("edge", says="threads", DTUFC_EDGE_THREADS="many"),
        "unknown profile": Rejection("cloud", "--profiles", "gpt-9", says="gpt-9"),
        "split beyond the model": Rejection("cloud", "--profiles", "smollm2-135m@31", says="31"),
        "one profile twice": Rejection("cloud", "--profiles", "smollm2-135m,smollm2-135m@30", says="once"),
        "metrics without a port": Rejection("cloud", "--metrics-listen", "localhost", says="metrics_listen"),
        "metrics with a port that is none": Rejection("cloud", "--metrics-listen", "127.0.0.1:99999", says="metrics"),
        "an address that is none": Rejection("cloud", "--listen", "here", "--profiles", "dinov2-small", says="listen"),
        "key without certificate": Rejection("cloud", "--tls-key", key, "--profiles", "dinov2-small", says="tls"),
        "authority without certificate": Rejection(
            "cloud", "--tls-ca", server, "--profiles", "dinov2-small", says="tls"
        ),
        "certificate that is none": Rejection(
            "cloud", "--tls-key", key, "--tls-certificate", key, "--profiles", "dinov2-small", says="tls"
        ),
        "unreadable key": Rejection("cloud", "--tls-key", nowhere, "--tls-certificate", server, says="nowhere"),
        "client's certificate without an authority": Rejection(
            "edge", "--cloud-tls-certificate", server, "--cloud-tls-key", key, says="tls"
        ),
    }


NAMES = [
    "misspelt variable of the edge", "misspelt variable of the cloud", "misspelt prefix", "misspelt key in YAML",
    "broken YAML", "missing YAML", "misspelt flag", "number out of range", "no number", "unknown profile",
    "split beyond the model", "one profile twice", "metrics without a port", "metrics with a port that is none",
    "an address that is none", "key without certificate", "authority without certificate", "certificate that is none",
    "unreadable key", "client's certificate without an authority",
]  # fmt: skip


# One interpreter, because importing the models' libraries takes seconds; each case in a fork of its own.
IN_FORKS = """
import json, os, signal, sys, tempfile
import dtufc_cloud.__main__ as cloud, dtufc_edge.__main__ as edge
ends = {}
for name, side, flags, variables in json.load(sys.stdin):
    with tempfile.TemporaryFile() as output:
        if (child := os.fork()) == 0:
            signal.alarm(8)
            os.dup2(output.fileno(), 2)
            os.environ.update(variables)
            sys.argv[1:] = flags
            status = 70
            try:
                if side == "edge":
                    status = edge.run(edge.EdgeSettings, edge.start)
                else:
                    status = cloud.run(cloud.CloudSettings, cloud.start)
            except SystemExit as end:
                status = end.code
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        ends[name] = (status, output.read().decode())
print(json.dumps(ends))
"""


@pytest.fixture(scope="module")
def outcomes(rejections: dict[str, Rejection]) -> dict[str, tuple[int, str]]:
    """Exit code and stderr of each; a negative code where it started after all."""
    assert list(rejections) == NAMES
    cases = []
    for name, rejection in rejections.items():
        spare = [] if "--listen" in rejection.flags else ["--listen", "127.0.0.1:0"]
        spare += [] if "--metrics-listen" in rejection.flags else ["--metrics-listen", "127.0.0.1:0"]
        cases.append((name, rejection.side, [*rejection.flags, *spare], rejection.variables))
    command = [sys.executable, "-c", IN_FORKS]
    done = subprocess.run(
        command, input=json.dumps(cases), capture_output=True, text=True, check=True, env=environment(), timeout=300
    )
    return {name: (code, stderr) for name, (code, stderr) in json.loads(done.stdout).items()}


def _end_of(process: "subprocess.Popen[str]") -> tuple[int, str]:
    try:
        _, stderr = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        return -1, process.communicate()[1]
    return process.returncode, stderr


@pytest.mark.parametrize("name", NAMES)
def test_settings_that_cannot_be_are_a_start_up_error_of_one_line(
    name: str, rejections: dict[str, Rejection], outcomes: dict[str, tuple[int, str]]
) -> None:
    code, stderr = outcomes[name]
    assert code == 2, stderr
    assert rejections[name].says in stderr
    assert "Traceback" not in stderr


def test_a_misspelt_variable_ends_the_process_with_status_2_and_its_name() -> None:
    code, stderr = _end_of(run_to_end("cloud", env={"DTUFC_CLOUD_PORFILES": "smollm2-135m"}))
    assert code == 2
    assert "DTUFC_CLOUD_PORFILES" in stderr
    assert len(stderr.splitlines()) == 1


def test_an_address_in_use_is_a_start_up_error(edge: Service) -> None:
    flags = ("--listen", edge.address, "--metrics-listen", "127.0.0.1:0", "--profiles", "dinov2-small")
    code, stderr = _end_of(run_to_end("edge", *flags))
    assert code == 2, stderr
    assert edge.address in stderr
    assert "Traceback" not in stderr


def test_flags_go_over_the_environment_and_the_environment_over_yaml(launch: Launch, tmp_path: Path) -> None:
    config = tmp_path / "edge.yaml"
    config.write_text("profiles: [smollm2-135m]\nmax_new_tokens: 3\nmax_image_bytes: 10\n", encoding="utf-8")
    variables = {
        "DTUFC_EDGE_CONFIG": str(config),
        "DTUFC_EDGE_PROFILES": "smollm2-135m@30, dinov2-small",
        "DTUFC_EDGE_MAX_IMAGE_BYTES": "20",
        "DTUFC_CLOUD_LISTEN": "another side's, which the edge leaves alone",
    }
    edge = launch("edge", "--max-image-bytes", "30", env=variables)
    edge.wait_until_serving()
    with EdgeClient(edge.address) as client:
        assert {info.name: info.split for info in client.models()} == {"smollm2-135m": 30, "dinov2-small": 12}
        with pytest.raises(Exception, match="1 to 30 bytes"):  # the flag, not the variable's 20 nor the file's 10
            client.segment(bytes(31))
        with pytest.raises(Exception, match="at most 3"):  # the file's: nothing else says it
            list(client.complete("Hi", max_tokens=4))


def test_help_names_every_setting_of_a_side() -> None:
    process = run_to_end("edge", "--help")
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    for flag in ("--listen", "--cloud", "--profiles", "--max-image-pixels", "--tls-ca", "--cloud-tls-ca"):
        assert flag in stdout
