"""Variables that Kubernetes sets are no settings, misspelt ones are errors, and no number is taken for another."""

from pathlib import Path

import pytest

from dtufc.errors import InputError
from dtufc_cloud.settings import CloudSettings
from dtufc_edge.settings import EdgeSettings


def of_service(name: str) -> dict[str, str]:
    """What Kubernetes sets in a pod for a Service of this name with the port 50051, called grpc."""
    variable = name.upper().replace("-", "_")
    return {
        f"{variable}_SERVICE_HOST": "10.0.0.7",
        f"{variable}_SERVICE_PORT": "50051",
        f"{variable}_SERVICE_PORT_GRPC": "50051",
        f"{variable}_PORT": "tcp://10.0.0.7:50051",
        f"{variable}_PORT_50051_TCP": "tcp://10.0.0.7:50051",
        f"{variable}_PORT_50051_TCP_PROTO": "tcp",
        f"{variable}_PORT_50051_TCP_PORT": "50051",
        f"{variable}_PORT_50051_TCP_ADDR": "10.0.0.7",
    }


@pytest.mark.parametrize("service", ["dtufc", "dtufc-edge", "dtufc-cloud", "dtufc-edge-metrics", "dtufc-prod-cloud"])
@pytest.mark.parametrize("settings", [EdgeSettings, CloudSettings])
def test_a_side_starts_beside_a_service_of_kubernetes(
    service: str, settings: type[EdgeSettings | CloudSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["side"])
    for name, value in of_service(service).items():
        monkeypatch.setenv(name, value)
    assert settings.from_command_line() == settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DTUFC_EDGE_PORT", "50051"),
        ("DTUFC_EDGE_LISTEN_PORT", "50051"),
        ("DTUFC_EDGE_PORFILES", "smollm2-135m"),
        ("DTUFC_EGDE_LISTEN", "127.0.0.1:1"),
        ("DTUFC_EDGE_SERVICE", "x"),
        ("DTUFC_LISTEN", "127.0.0.1:1"),
        ("dtufc_edge_thraeds", "2"),
        ("Dtufc_Edge_Listenn", "127.0.0.1:1"),
        ("dtufc_edge_config", "edge.yaml"),  # read in capitals alone
        ("dtufc_cache", "/weights"),
    ],
)
def test_a_misspelt_variable_is_an_error_that_names_it(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["side"])
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as caught:
        EdgeSettings.from_command_line()
    assert caught.value.context["field"] == name


def edge_of(*flags: str) -> EdgeSettings:
    """The edge's settings, as its command line has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["side", *flags])
        return EdgeSettings.from_command_line()


@pytest.mark.parametrize("name", ["THREADS", "PROFILES", "TIMEOUT_S", "HTTP_LISTEN", "TLS_CA", "CONFIG", "THRAEDS"])
def test_an_empty_variable_counts_as_not_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"DTUFC_EDGE_{name}", "")
    assert edge_of() == EdgeSettings()


def test_an_empty_flag_counts_as_not_set_too() -> None:
    """A script's --threads "$THREADS"."""
    assert edge_of("--threads", "", "--listen=") == EdgeSettings()


def test_a_variable_may_be_in_any_case_but_not_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("dtufc_edge_threads", "2")
    assert edge_of().threads == 2
    monkeypatch.setenv("DTUFC_EDGE_THREADS", "3")
    with pytest.raises(InputError, match=r"dtufc_edge_threads: DTUFC_EDGE_THREADS is set too. Set one of them"):
        edge_of()


NUMBERS = ["timeout-s", "drain-s", "threads", "queue-limit", "max-new-tokens", "max-cache-bytes", "max-image-pixels"]


@pytest.mark.parametrize("flag", NUMBERS)
@pytest.mark.parametrize("value", ["inf", "nan", "-1", "1e30", "9" * 30, "5s", "1,000"])
def test_a_number_that_cannot_be_is_one_line_with_its_name_and_value(flag: str, value: str) -> None:
    with pytest.raises(InputError) as caught:
        edge_of(f"--{flag}={value}")
    assert flag.replace("-", "_") in str(caught.value)
    assert value[:20] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", ["threads=2", "listen=127.0.0.1:1", "timeout-s=5", "device=cpu", "dtype=float16"])
def test_a_flag_that_is_given_twice_is_an_error(flag: str) -> None:
    with pytest.raises(InputError, match=rf"--{flag.partition('=')[0]}: given twice"):
        edge_of(f"--{flag}", f"--{flag}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("listen: 50051", "listen: 50051, input should be a valid string"),
        ("listen: [127.0.0.1, 50051]", "listen"),
        ("listen: null", "listen"),
        ("threads: yes", "threads: True, value error, Input should be no truth value"),
        ("threads: [1]", "threads"),
        ("threads: 1.5", "threads: 1.5"),
        ("timeout_s: .inf", "timeout_s: inf"),
        ("timeout_s: .nan", "timeout_s: nan"),
        ("threads: 2\nthreads: 3", "the key 'threads' twice"),
        ('threads: 2\nlisten: 127.0.0.1:1\n"threads": 3', "the key 'threads' twice"),
        ("1: 2", "it is no mapping of names"),
        ("- threads", "it is no mapping of names"),
        ("threads", "it is no mapping of names"),
        ("profiles: {smollm2-135m: 30}", "profiles"),
        ("profiles: [1]", "profiles"),
        ("max-new-tokens: 3", "max-new-tokens: no such setting"),
    ],
)
def test_a_configuration_that_cannot_be_is_one_line(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edge.yaml").write_text(text + "\n", encoding="utf-8")
    monkeypatch.setenv("DTUFC_EDGE_CONFIG", str(tmp_path / "edge.yaml"))
    with pytest.raises(InputError) as caught:
        edge_of()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_configuration_of_nothing_sets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edge.yaml").write_text("# threads: 2\n", encoding="utf-8")
    monkeypatch.setenv("DTUFC_EDGE_CONFIG", str(tmp_path / "edge.yaml"))
    assert edge_of() == EdgeSettings()


@pytest.mark.parametrize("path", ["", "nowhere.yaml"])
def test_a_configuration_that_cannot_be_read_names_the_variable(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DTUFC_EDGE_CONFIG", str(tmp_path / path))  # a folder, or nothing
    with pytest.raises(InputError, match=r"DTUFC_EDGE_CONFIG: .* (cannot be read|is no regular file)"):
        edge_of()
