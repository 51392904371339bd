"""A package that is not ours adds a family and a task: both services serve them without a line changed here."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import torch
import yaml
from google.protobuf.wrappers_pb2 import BoolValue, StringValue
from safetensors.torch import save_file

import dtufc
from dtufc.errors import InputError
from dtufc.models import plugins
from dtufc.models.profile import load_profile
from dtufc_cloud.service import tasks_by_message
from tests.e2e.services import Service, environment, error_info, head_stub, run_request

PLUGIN = Path(__file__).parents[1] / "plugin"
ENTRIES = """\
[dtufc.backbones]
rows = dtufc_rows.edge:RowsBackbone
[dtufc.heads]
rows = dtufc_rows.cloud:RowsHead
[dtufc.edge_tasks]
spell = dtufc_rows.edge:Spell
[dtufc.cloud_tasks]
spell = dtufc_rows.cloud:Spell
"""
CHANNELS = 24


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the package, from a wheel."""
    folder = tmp_path_factory.mktemp("plugin")
    wheel = folder / "dtufc_rows-1.0-py3-none-any.whl"
    info = "dtufc_rows-1.0.dist-info"
    files = {f"dtufc_rows/{path.name}": path.read_text(encoding="utf-8") for path in PLUGIN.rglob("*.py")}
    files |= {
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: dtufc-rows\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": ENTRIES,
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
        "site",
        str(wheel),
    ]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "site"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of the package's family, fitted."""
    home = tmp_path_factory.mktemp("profile")
    (home / "model").mkdir()
    torch.manual_seed(0)
    table = torch.randn(256, CHANNELS)
    save_file({"table": table}, home / "model" / "model.safetensors")
    (home / "model" / "config.json").write_text(json.dumps({"bytes": 256}), encoding="utf-8")
    spec = {"name": "spelling", "family": "rows", "layout": {"family": "llm"}, "split": 1, "tasks": ["spell"]}
    spec["source"] = {"folder": "model"}
    (home / "profile.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    samples = [table[torch.randint(256, (60,))] for _ in range(10)]
    dtufc.fit(samples, profile=load_profile(home)).save(home)
    return home


def test_a_family_and_a_task_of_another_package_are_served(
    installed: Path, home: Path, launch: Callable[..., Service]
) -> None:
    env = {"PYTHONPATH": f"{installed}:{environment().get('PYTHONPATH', '')}"}
    cloud = launch("cloud", "--profiles", str(home), env=env)
    edge = launch("edge", "--profiles", str(home), "--cloud", cloud.address, env=env)
    for service in (cloud, edge):
        service.wait_until_serving()
    with grpc.insecure_channel(edge.address) as channel:
        spell = channel.unary_unary(
            "/rows.v1.Spelling/Spell",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        assert spell(StringValue(value="a word of its own"), timeout=30).value == "A WORD OF ITS OWN"
        with pytest.raises(grpc.RpcError) as caught:
            spell(StringValue(), timeout=30)
        assert error_info(caught.value).metadata["field"] == "value"
    assert edge.total("dtufc_edge_requests_total", task="spell", model="spelling", codec="klt") == 2
    assert edge.total("dtufc_edge_errors_total", task="spell", model="spelling", reason="INPUT") == 1
    assert cloud.total("dtufc_cloud_requests_total", task="spell", model="spelling", codec="klt") == 1
    frame = dtufc.load(home).encode(torch.zeros(3, CHANNELS + 1), codec="raw")
    request = run_request("spelling", frame, BoolValue())
    with grpc.insecure_channel(cloud.address) as channel, pytest.raises(grpc.RpcError) as caught:
        head_stub(channel).Run(request, timeout=30)
    assert f"[bytes, {CHANNELS}]" in str(caught.value.details())


def test_the_command_line_lists_what_other_packages_add(installed: Path) -> None:
    env = {**environment(), "PYTHONPATH": f"{installed}:{environment().get('PYTHONPATH', '')}"}
    command = [str(Path(sys.executable).with_name("dtufc")), "models"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "families: cnn, decoder, rows, sd3, vit" in done.stdout
    assert "spell" in done.stdout


def test_a_profile_of_a_family_that_is_not_installed_ends_the_start_with_those_that_are(
    home: Path, launch: Callable[..., Service]
) -> None:
    edge = launch("edge", "--profiles", str(home))
    assert edge.process.wait(60) == 2
    assert "no family rows is installed. Use one of cnn, decoder, sd3, vit" in edge.log_text()


def test_two_tasks_that_take_the_same_message_are_rejected() -> None:
    answer = plugins.load(plugins.CLOUD_TASKS, "answer")
    with pytest.raises(InputError, match=r"answer and answer both take dtufc\.v1\.AnswerTask"):
        tasks_by_message([answer(), answer()])
