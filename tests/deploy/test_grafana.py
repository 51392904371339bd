"""The dashboards and alerts that Grafana is given. Its server is in no registry that the tests reach: files alone."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.dashboards.grafana import DASHBOARDS, SOURCE_UID, generate
from tests.deploy.images import ROOT

GRAFANA = ROOT / "deploy" / "grafana"
SCHEMA = GRAFANA / "schema"
PAGES = {name: json.loads((GRAFANA / "dashboards" / f"{name}.json").read_text("utf-8")) for name in DASHBOARDS}
PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, page in PAGES.items()
    for panel in page["panels"]
    if panel["type"] != "row"
]


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_what_is_committed_is_what_the_code_writes() -> None:
    for path, text in generate().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make dashboards`"


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_has_a_unit_a_description_queries_and_words_for_no_data(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"]
    assert defaults["noValue"]
    assert panel["description"].endswith(".")
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["expr"]
        assert target["legendFormat"]
        assert target["datasource"] == {"type": "prometheus", "uid": SOURCE_UID}


def test_panels_fill_their_rows_and_do_not_overlap() -> None:
    for page in PAGES.values():
        taken: set[tuple[int, int]] = set()
        ids = [panel["id"] for panel in page["panels"]]
        assert len(set(ids)) == len(ids)
        for panel in page["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert max(x for x, _ in cells) < 24
            assert not cells & taken, panel["title"]
            taken |= cells


def test_provisioning_names_the_source_that_the_panels_ask_and_the_folder_that_compose_mounts() -> None:
    (source,) = read("deploy/grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert (source["uid"], source["type"]) == (SOURCE_UID, "prometheus")
    grafana = read("compose.yaml")["services"]["grafana"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = read("deploy/grafana/provisioning/dashboards/dtufc.yaml")["providers"]
    mounted = {volume.split(":")[1] for volume in grafana["volumes"]}
    assert provider["options"]["path"] in mounted
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (GRAFANA / "dashboards" / Path(home).name).is_file()


def test_grafana_tells_of_every_alert_of_prometheus() -> None:
    rules = read("deploy/prometheus/rules.yml")
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    (group,) = read("deploy/grafana/provisioning/alerting/rules.yaml")["groups"]
    assert [rule["title"] for rule in group["rules"]] == alerts
    for rule in group["rules"]:
        refs = [query["refId"] for query in rule["data"]]
        assert rule["condition"] in refs
        assert len(rule["uid"]) <= 40
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_sdk_schema_and_image_are_of_one_release_of_grafana() -> None:
    image = read("compose.yaml")["services"]["grafana"]["image"]
    version = re.search(r"grafana:([\d.]+)", image)
    assert version is not None
    packages = json.loads((SCHEMA / "package.json").read_text(encoding="utf-8"))["dependencies"]
    assert packages["@grafana/schema"] == version.group(1)
    pinned = re.search(r"grafana-foundation-sdk==\d+!([\d.]+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert pinned is not None
    assert pinned.group(1) == version.group(1)


@pytest.fixture(scope="module")
def checker() -> list[str]:
    """The command that checks dashboards against Grafana's own types."""
    if shutil.which("npm") is None:
        pytest.skip("no npm here: Grafana's types are an npm package")
    if not (SCHEMA / "node_modules").is_dir():
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=SCHEMA, check=True)
    return ["node", str(SCHEMA / "check.mjs")]


def faults(checker: list[str], *files: Path) -> list[str]:
    done = subprocess.run([*checker, *map(str, files)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_dashboards_are_what_grafanas_own_types_allow(checker: list[str]) -> None:
    assert faults(checker, *sorted((GRAFANA / "dashboards").glob("*.json"))) == []


def test_the_check_sees_a_wrong_key_a_wrong_type_and_a_wrong_option(checker: list[str], tmp_path: Path) -> None:
    page = json.loads((GRAFANA / "dashboards" / "codec.json").read_text(encoding="utf-8"))
    number = next(panel for panel in page["panels"] if panel["type"] == "stat")
    lines = next(panel for panel in page["panels"] if panel["type"] == "timeseries")
    page["titel"] = "DT-UFC"
    page["panels"][0]["gridPos"]["x"] = "left"
    number["options"]["graphMode"] = "loud"
    lines["fieldConfig"]["defaults"]["custom"]["lineWidth"] = "thick"
    (tmp_path / "bad.json").write_text(json.dumps(page), encoding="utf-8")
    found = "\n".join(faults(checker, tmp_path / "bad.json"))
    assert "titel" in found
    assert "/gridPos/x" in found
    assert "options/graphMode" in found
    assert "custom/lineWidth" in found
