"""compose.yaml and .env.example, read without an engine."""

import re
import tomllib
from typing import Any

import pytest
import yaml

from dtufc.serving.lifecycle import REST_S
from dtufc.serving.settings import ServiceSettings
from dtufc_cloud.settings import CloudSettings
from dtufc_edge.settings import EdgeSettings
from tests.deploy.images import ROOT, SIDES

COMPOSE_TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)["services"]
# What a container has fixed, and what needs files that a default cannot name.
LEFT_OUT = {
    "listen",
    "metrics_listen",
    "http_listen",
    "cloud_proxy",
    *(f"{whose}tls_{what}" for whose in ("", "cloud_") for what in ("ca", "key", "certificate")),
}

DIFFERENT = {
    "cloud",
    "device",
    "drain_s",
}  # another host, no surprise where there is a GPU, and `down` within ten seconds


def defaults() -> dict[str, str]:
    """Every variable of compose.yaml and its default."""
    return dict(re.findall(r"\$\{(\w+):?-([^}]*)\}", COMPOSE_TEXT))


def test_every_variable_has_a_default_and_stands_commented_in_the_example() -> None:
    assert set(re.findall(r"\$\{?(\w+)", COMPOSE_TEXT)) == set(defaults())
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert all(line == "" or line.startswith("#") for line in lines)
    examples = dict(line.removeprefix("# ").split("=", 1) for line in lines if re.match(r"# [A-Z_]+=", line))
    assert examples == defaults()


@pytest.mark.parametrize(("side", "settings"), [("edge", EdgeSettings), ("cloud", CloudSettings)])
def test_every_setting_of_a_side_can_be_set_and_its_default_is_the_sides_own(
    side: str, settings: type[ServiceSettings]
) -> None:
    environment = SERVICES[side]["environment"]
    names = {f"{settings.prefix}{name.upper()}": name for name in settings.model_fields if name not in LEFT_OUT}
    assert set(names) == {name for name in environment if name.startswith("DTUFC_")}
    values = {name: re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", environment[variable]) for variable, name in names.items()}
    chosen = settings.model_validate(values)
    for name in set(values) - DIFFERENT:
        assert getattr(chosen, name) == settings.model_fields[name].default, name


def test_only_edge_prometheus_and_grafana_are_published_and_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"edge", "prometheus", "grafana"}
    for ports in published.values():
        assert all(port.startswith("${BIND_ADDRESS:-127.0.0.1}:") for port in ports)


@pytest.mark.parametrize("name", list(SERVICES))
def test_every_service_runs_with_little(name: str) -> None:
    service = SERVICES[name]
    assert service["init"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["stop_grace_period"] == "4s"


@pytest.mark.parametrize("side", SIDES)
def test_a_container_that_stops_has_time_for_its_drain_and_the_last_of_its_process(side: str) -> None:
    drain_s = float(defaults()[f"DTUFC_{side.upper()}_DRAIN_S"])
    assert drain_s + REST_S < float(SERVICES[side]["stop_grace_period"].removesuffix("s"))


def test_who_needs_another_waits_until_it_is_well() -> None:
    assert SERVICES["edge"]["depends_on"]["cloud"]["condition"] == "service_healthy"
    assert SERVICES["grafana"]["depends_on"]["prometheus"]["condition"] == "service_healthy"
    for side in SIDES:
        assert SERVICES[side]["depends_on"]["weights"]["condition"] == "service_completed_successfully"


def test_the_images_say_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    for side in SIDES:
        assert f"ARG VERSION={version}\n" in (ROOT / f"Dockerfile.{side}").read_text(encoding="utf-8")


def test_both_images_install_packages_alike_so_that_they_share_their_largest_layer() -> None:
    texts = [(ROOT / f"Dockerfile.{side}").read_text(encoding="utf-8") for side in SIDES]
    edge, cloud = (re.findall(r"\nFROM \S+ AS (?:wanted|packages)\n(?:.+\n)+", text) for text in texts)
    assert edge == cloud
    assert len(edge) == 2
