"""A real Prometheus scrapes a real pair under load: every rule and every panel's query gives data.

A metric that is renamed, here or in the services, leaves some query empty, and the test fails.
"""

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from deploy.dashboards import queries
from deploy.dashboards.grafana import DASHBOARDS
from dtufc.client import EdgeClient
from dtufc.errors import DtufcError, InputError, Overloaded, Unavailable
from dtufc.v1 import head_pb2
from tests.deploy.examples import EXAMPLES
from tests.deploy.images import ROOT
from tests.e2e.services import Service, free_port, head_stub, start, stop_all

FOLDER = ROOT / "deploy" / "prometheus"
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "rules.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
OURS = re.compile(r"\b(?:\w+:)?dtufc[\w:]*(?=[^\w:-]|$)")
WAIT_S = 30.0
ONE_TEXT = ("--max-sessions", "1")  # at a time

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus here (Debian: apt install prometheus)"
)


class Prometheus:
    """One server, and what it answers."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}/api/v1"

    def get(self, path: str, **parameters: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as reply:
            return json.load(reply)["data"]

    def has(self, expr: str) -> bool:
        """Whether a query gives at least one number that is one."""
        samples = self.get("query", query=expr)["result"]
        return any(sample["value"][1] != "NaN" for sample in samples)

    def is_up(self) -> bool:
        try:
            return {target["health"] for target in self.get("targets")["activeTargets"]} == {"up"}
        except OSError:
            return False


def configuration(edge: Service, cloud: Service, folder: Path) -> Path:
    """The committed configuration with other addresses, and often."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    addresses = {"dtufc-edge": edge.metrics_address, "dtufc-cloud": cloud.metrics_address}
    for job in config["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [addresses.pop(job["job_name"])]}]
    assert not addresses
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, after it has seen every task, a caller's error, a cloud's error, and a cloud that was away."""
    folder = tmp_path_factory.mktemp("prometheus")
    cloud = start("cloud", folder, *ONE_TEXT)
    edge = start("edge", folder, "--cloud", cloud.address)
    services = [edge, cloud]
    address = f"127.0.0.1:{free_port()}"
    server = None
    try:
        cloud.wait_until_serving()
        edge.wait_until_serving()
        flags = [f"--config.file={configuration(edge, cloud, folder)}", f"--storage.tsdb.path={folder / 'data'}"]
        with (folder / "prometheus.log").open("wb") as log:
            server = subprocess.Popen(["prometheus", *flags, f"--web.listen-address={address}"], stderr=log)
        asked = Prometheus(address)
        eventually(asked.is_up)
        with EdgeClient(edge.address, timeout_s=20) as client:
            work(client, rounds=3)
            break_things(client, cloud)
            cloud.kill()
            for _ in range(3):
                with pytest.raises(Unavailable):
                    client.answer("Is it?", ["yes", "no"])
                time.sleep(1.1)  # a scrape apart
            port = int(cloud.address.rpartition(":")[2])
            services.append(start("cloud", folder, *ONE_TEXT, port=port, metrics=cloud.metrics_address))
            services[-1].wait_until_serving()
            eventually(lambda: answers(client))
            break_things(client, services[-1])
            work(client, rounds=3)
        yield asked
    finally:
        stop_all(services)
        if server is not None:
            server.terminate()
            server.wait(30)


def work(client: EdgeClient, rounds: int) -> None:
    for _ in range(rounds):
        for example in EXAMPLES.values():
            example(client)


def break_things(client: EdgeClient, cloud: Service) -> None:
    """A text too many, one error by the caller's fault at the edge, and at the cloud: twice with a scrape between."""
    for _ in range(2):
        text = client.complete("One, two,", max_tokens=200, plain=True)
        next(text)
        with pytest.raises(Overloaded):
            next(client.complete("One, two,", plain=True))
        text.close()
        with pytest.raises(InputError):
            client.answer("", ["yes", "no"])
        with grpc.insecure_channel(cloud.address) as channel, pytest.raises(grpc.RpcError):
            head_stub(channel).Run(head_pb2.RunRequest(profile="smollm2-135m", frame=b"no frame"), timeout=20)
        time.sleep(1.1)


def answers(client: EdgeClient) -> bool:
    try:
        return client.answer("Is it?", ["yes", "no"]).letter in "AB"
    except DtufcError:
        return False


def eventually(check: Any, timeout_s: float = WAIT_S) -> None:
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.5)


def rule_queries() -> list[tuple[str, str]]:
    """Name and PromQL of every rule; of an alert, its judgement as 0 or 1, which needs the same series."""
    recorded = [(rule["record"], rule["expr"]) for rule in RULES if "record" in rule]
    judged = [(rule["alert"], re.sub(r" ([<>]) ", r" \1 bool ", rule["expr"])) for rule in RULES if "alert" in rule]
    return recorded + judged


def panel_queries() -> list[tuple[str, str]]:
    """Title and PromQL of every panel's queries, with Grafana's variables filled in."""
    filled = {"$__rate_interval": "30s", "$model": ".*", "$codec": ".*"}
    found = []
    for page in DASHBOARDS.values():
        for title, template in queries(page):
            expr = template
            for name, value in filled.items():
                expr = expr.replace(name, value)
            found.append((f"{page.uid}: {title}", expr))
    return found


@needs_prometheus
def test_every_rule_and_every_panel_gives_data_asked_one_by_one(prometheus: Prometheus) -> None:
    left = dict.fromkeys([*rule_queries(), *panel_queries()])
    print(f"\n{len(left)} queries")
    end = time.monotonic() + WAIT_S
    while left and time.monotonic() < end:
        left = {asked: None for asked in left if not prometheus.has(asked[1])}
        time.sleep(0.5 if left else 0)
    assert not left, "no data"


@needs_prometheus
def test_no_query_gives_data_when_a_metric_of_it_is_renamed(prometheus: Prometheus) -> None:
    for title, expr in [*rule_queries(), *panel_queries()]:
        for name in set(OURS.findall(expr)) - {"dtufc-cloud", "dtufc-edge"}:
            renamed = re.sub(rf"(?<![\w:]){re.escape(name)}(?![\w:])", f"{name}_renamed", expr)
            assert renamed != expr
            if " or " not in expr:
                assert not prometheus.has(renamed), f"{title}: {renamed}"


@needs_prometheus
def test_the_choices_of_the_codec_page_are_the_models_and_codecs_that_were_asked_for(prometheus: Prometheus) -> None:
    for name in DASHBOARDS["codec"].variables:
        assert prometheus.get(f"label/{name}/values", **{"match[]": "dtufc_edge_requests_total"})


@needs_prometheus
def test_every_task_has_an_objective(prometheus: Prometheus) -> None:
    recorded = {rule["labels"]["task"] for rule in RULES if rule.get("record") == "task:dtufc_objective_seconds:p95"}
    assert recorded == set(EXAMPLES)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here (Debian: apt install prometheus)")
@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", str(FOLDER / "prometheus.yml")),
        ("check", "rules", str(FOLDER / "rules.yml")),
        ("test", "rules", str(Path(__file__).parent / "rules" / "rules_test.yml")),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_promtool_is_content(command: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_the_metrics_pages_are_as_prometheus_wants_them(prometheus: Prometheus) -> None:
    """`promtool check metrics`, of what both sides serve after all that work."""
    for target in prometheus.get("targets")["activeTargets"]:
        with urllib.request.urlopen(target["scrapeUrl"], timeout=10) as page:
            done = subprocess.run(["promtool", "check", "metrics"], input=page.read(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
