"""What is in the images, and what is not."""

import json
from typing import Any

import docker
import pytest

import dtufc
from dtufc.models.profile import shipped_profiles
from tests.deploy.images import SIDES, Built, layers

OTHER = {"edge": "cloud", "cloud": "edge"}
pytestmark = pytest.mark.parametrize("side", SIDES)


def run(engine: docker.DockerClient, image: str, *command: str, **options: Any) -> str:
    """The output of a command in a fresh container without a network."""
    output = engine.containers.run(image, list(command), remove=True, network_mode="none", stderr=True, **options)
    return bytes(output).decode()


def test_an_image_says_what_it_is_and_runs_as_nobody_special(
    engine: docker.DockerClient, images: dict[str, Built], side: str
) -> None:
    config = engine.images.get(images[side].name).attrs["Config"]
    assert config["User"] == "10001:10001"
    assert config["Healthcheck"]["Test"][:3] == ["CMD", "dtufc", "health"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["title"] == f"dtufc-{side}"
    assert labels["version"] == dtufc.__version__
    assert labels["licenses"] == "Apache-2.0"
    assert labels["description"]


def test_an_image_holds_its_own_side_and_the_library_and_nothing_else(
    engine: docker.DockerClient, images: dict[str, Built], side: str
) -> None:
    found = set(run(engine, images[side].name, "ls", "/opt/code").split())
    packages = {name for name in found if name.startswith("dtufc") and not name.endswith(".dist-info")}
    assert packages == {"dtufc", f"dtufc_{side}"}
    importable = f"import importlib.util as u; print([bool(u.find_spec(n)) for n in ('dtufc_{OTHER[side]}', 'pytest')])"
    assert run(engine, images[side].name, "python", "-c", importable).strip() == "[False, False]"


def test_its_commands_run_on_a_read_only_file_system_without_rights(
    engine: docker.DockerClient, images: dict[str, Built], side: str
) -> None:
    options = {"read_only": True, "tmpfs": {"/tmp": ""}, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
    models = json.loads(run(engine, images[side].name, "dtufc", "models", "--json", **options))
    assert [model["profile"] for model in models] == shipped_profiles()
    assert "--listen" in run(engine, images[side].name, "python", "-m", f"dtufc_{side}", "--help", **options)


def test_its_layers_are_few_and_the_packages_are_the_largest(
    engine: docker.DockerClient, images: dict[str, Built], side: str
) -> None:
    sizes = layers(engine, images[side].name)
    print(f"\n{images[side].name}: built in {images[side].seconds:.0f} s")
    for size, origin in sizes:
        print(f"  {size / 1e6:8.1f} MB  {origin[:90]}")
    assert len(sizes) <= 6
    assert max(sizes)[1].rstrip().endswith("/opt/dtufc")


def test_the_two_images_share_the_layer_of_packages(
    engine: docker.DockerClient, images: dict[str, Built], side: str
) -> None:
    def of(which: str) -> list[str]:
        return list(engine.images.get(images[which].name).attrs["RootFS"]["Layers"])

    shared = [layer for layer in of(side) if layer in of(OTHER[side])]
    assert len(shared) >= 3, "base, user and packages are the same in both"
