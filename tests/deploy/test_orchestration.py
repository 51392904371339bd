"""Units of systemd and manifests of Kubernetes: valid, hardened, and with limits that fit those of the service."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dtufc.serving.lifecycle import REST_S
from dtufc.serving.settings import ServiceSettings
from dtufc.serving.transport import LIVENESS
from dtufc.v1 import head_pb2, inference_pb2
from dtufc_cloud.settings import CloudSettings
from dtufc_edge.settings import EdgeSettings
from tests.deploy.images import ROOT, SIDES

SETTINGS: dict[str, type[ServiceSettings]] = {"edge": EdgeSettings, "cloud": CloudSettings}
SERVICES = {
    "edge": inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name,
    "cloud": head_pb2.DESCRIPTOR.services_by_name["HeadService"].full_name,
}


def unit(side: str) -> str:
    return (ROOT / "deploy" / "systemd" / f"dtufc-{side}.service").read_text(encoding="utf-8")


def manifests(side: str) -> dict[str, Any]:
    """By kind."""
    text = (ROOT / "deploy" / "kubernetes" / f"{side}.yaml").read_text(encoding="utf-8")
    return {found["kind"]: found for found in yaml.safe_load_all(text)}


def pod(side: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A pod and its one container."""
    spec = manifests(side)["Deployment"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("side", SIDES)
def test_systemd_finds_no_fault_in_a_unit(side: str, tmp_path: Path) -> None:
    copy = tmp_path / f"dtufc-{side}.service"
    copy.write_text(unit(side).replace("/opt/dtufc/bin/python", sys.executable), encoding="utf-8")
    command = ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("side", SIDES)
def test_a_unit_waits_for_readiness_reloads_by_sighup_and_lets_a_drain_end(side: str) -> None:
    lines = dict(line.split("=", 1) for line in unit(side).splitlines() if "=" in line and not line.startswith("#"))
    assert lines["Type"] == "notify"
    assert lines["ExecReload"].endswith("kill -HUP $MAINPID")
    assert lines["ExecStart"].endswith(f"-m dtufc_{side}")
    assert float(lines["TimeoutStopSec"].removesuffix("s")) > SETTINGS[side].model_fields["drain_s"].default + REST_S
    assert (lines["User"], lines["ProtectSystem"], lines["CapabilityBoundingSet"]) == ("dtufc", "strict", "")


@pytest.mark.parametrize("side", SIDES)
def test_kubernetes_asks_for_readiness_by_the_services_name_and_for_liveness_apart(side: str) -> None:
    _, container = pod(side)
    port = container["ports"][0]["containerPort"]
    assert f":{port}" in SETTINGS[side].model_fields["listen"].default
    assert container["readinessProbe"]["grpc"] == {"port": port, "service": SERVICES[side]}
    for probe in ("livenessProbe", "startupProbe"):
        assert container[probe]["grpc"] == {"port": port, "service": LIVENESS}


@pytest.mark.parametrize("side", SIDES)
def test_kubernetes_gives_a_drain_its_time_and_the_settings_are_the_sides_own(side: str) -> None:
    spec, container = pod(side)
    settings = yaml.safe_load(manifests(side)["ConfigMap"]["data"][f"{side}.yaml"])
    drain_s = SETTINGS[side].model_validate(settings).drain_s
    _, before_s = container["lifecycle"]["preStop"]["exec"]["command"]
    assert spec["terminationGracePeriodSeconds"] > float(before_s) + drain_s + REST_S
    own = {f"{SETTINGS[side].prefix}{name.upper()}" for name in (*SETTINGS[side].model_fields, "config")}
    assert {variable["name"] for variable in container["env"]} <= own


@pytest.mark.parametrize("side", SIDES)
def test_pods_run_with_little(side: str) -> None:
    spec, container = pod(side)
    assert spec["securityContext"]["runAsNonRoot"]
    assert not spec["automountServiceAccountToken"]
    own = container["securityContext"]
    assert own["readOnlyRootFilesystem"]
    assert not own["allowPrivilegeEscalation"]
    assert own["capabilities"] == {"drop": ["ALL"]}
