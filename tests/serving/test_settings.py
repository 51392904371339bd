"""Variables that Kubernetes sets are no settings, and misspelt ones are errors."""

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
    ],
)
def test_a_misspelt_variable_is_an_error_that_names_it(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["side"])
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as caught:
        EdgeSettings.from_command_line()
    assert caught.value.context["field"] == name
