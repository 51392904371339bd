"""Addresses and times: what cannot be is bad input at once, and not another port, or a false time-out."""

import math

import pytest

from dtufc.client import AsyncEdgeClient, EdgeClient
from dtufc.errors import InputError
from dtufc.serving.given import address_of, check_target, check_timeout, listen_address
from dtufc.serving.transport import check_health
from dtufc_edge.http.server import HttpServer
from dtufc_edge.settings import EdgeSettings

NO_TIMES = [math.inf, -math.inf, math.nan, 9e9, 86_401, 0, -1, None, "5"]
NO_TARGETS = [
    "host:116587",
    "host:65536",
    "host:0",
    "host:-1",
    "host: 50051",
    " host:50051",
    "host",
    "",
    ":50051",
    "::1:50051",
    "http://host:50051",
    "host:50051/path",
    "dns:///host:116587",
    "dns:///",
    "ipv4:10.0.0.1:50051,10.0.0.2:116587",
    "ipv6:[::1]:116587",
]
TARGETS = [
    "127.0.0.1:50051",
    "localhost:1",
    "edge.example:65535",
    "[::1]:50051",
    "dns:///edge.example:50051",
    "dns:edge.example:50051",
    "dns://10.0.0.53/edge.example:50051",
    "dns:///edge.example",  # gRPC's own port, 443
    "ipv4:10.0.0.1:50051,10.0.0.2:50051",
    "ipv6:[::1]:50051,[::2]:50051",
    "unix:/run/edge 1.sock",
    "unix:///run/edge.sock",
]


@pytest.mark.parametrize("timeout_s", NO_TIMES)
def test_a_time_that_no_call_can_have_is_bad_input_and_no_false_time_out(timeout_s: float) -> None:
    for use in (
        lambda: EdgeClient(timeout_s=timeout_s),
        lambda: AsyncEdgeClient(timeout_s=timeout_s),
        lambda: check_health("127.0.0.1:1", timeout_s=timeout_s),
    ):
        with pytest.raises(InputError, match=r"timeout_s: .*Give seconds, above 0 and at most 86400"):
            use()


def test_a_day_is_a_time() -> None:
    assert check_timeout(86_400) == 86_400


@pytest.mark.parametrize("address", NO_TARGETS)
def test_an_address_that_is_none_is_bad_input_and_no_other_port(address: str) -> None:
    for use in (lambda: EdgeClient(address), lambda: check_health(address)):
        with pytest.raises(InputError, match=r"address: .*Give HOST:PORT"):
            use()
    with pytest.raises(InputError, match=r"cloud: .*Give HOST:PORT"):
        EdgeSettings(cloud=address or " ")


@pytest.mark.parametrize("address", TARGETS)
def test_every_kind_of_address_that_grpc_has_is_taken(address: str) -> None:
    assert check_target(address, "address") == address
    EdgeClient(address).close()


@pytest.mark.parametrize("field", ["listen", "metrics_listen", "http_listen"])
@pytest.mark.parametrize(
    "address", ["host", "host:", ":1", "::1:1", "host:65536", "host:116587", "host:x", "host:\u0663"]
)
def test_an_address_to_listen_on_that_is_none_is_bad_input_that_names_the_setting(field: str, address: str) -> None:
    with pytest.raises(InputError, match=rf"{field}: .*Give HOST:PORT or \[IPv6\]:PORT"):
        EdgeSettings(**{field: address})  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:9101", "localhost:65535"])
def test_an_address_is_split_and_joined(address: str) -> None:
    assert address_of(*listen_address(address, "listen")) == address


def test_http_tells_the_port_that_it_took() -> None:
    http = HttpServer(EdgeSettings(http_listen="[::1]:0"))
    http._socket.close()
    assert http.address.startswith("[::1]:")
    assert not http.address.endswith(":0")
