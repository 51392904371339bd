"""What both services can be told: flags over environment over a YAML file over defaults."""

import os
import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from dtufc.errors import InputError
from dtufc.models.profile import default_profiles
from dtufc.serving.limits import MAX_MESSAGE_BYTES, MAX_PENDING_BYTES, MAX_SETTABLE_MESSAGE_BYTES
from dtufc.serving.transport import Tls

_PREFIXES = ("DTUFC_EDGE_", "DTUFC_CLOUD_")
_OTHERS = {"DTUFC_CACHE"}
# What Kubernetes sets in every pod for a Service whose name starts with dtufc. A bare PORT is one of them by its value.
_OF_KUBERNETES = re.compile(
    r"DTUFC(_\w+)?_(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT=\w+://|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=).*"
)


class ServiceSettings(BaseSettings):
    """Settings that the sides share. A side's own class adds to them and sets the prefix."""

    prefix: ClassVar[str]
    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
    )

    listen: str
    metrics_listen: str
    profiles: Annotated[tuple[str, ...], NoDecode] = Field(
        default=default_profiles(),
        description="Profiles to serve, separated by commas: names that `dtufc models` lists, or folders with a "
        "profile.yaml. NAME@K splits the model after layer K.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N. auto takes CUDA where there is one.")
    dtype: Literal["float32", "float16", "bfloat16"] = Field(default="float32", description="What the model runs in.")
    threads: int = Field(default=1, ge=1, le=64, description="Requests whose model or codec work runs at a time.")
    queue_limit: int = Field(
        default=32,
        ge=0,
        le=4096,
        description="Requests that may wait; one more is rejected, but for clients that have fewer than their share.",
    )
    timeout_s: float = Field(
        default=60.0, gt=0, description="Deadline of a call that brings none: waiting and work together."
    )
    drain_s: float = Field(default=5.0, ge=0, description="How long running calls may take once a stop is asked for.")
    max_message_bytes: int = Field(
        default=MAX_MESSAGE_BYTES, ge=1 << 16, le=MAX_SETTABLE_MESSAGE_BYTES, description="Both ways."
    )
    max_pending_bytes: int = Field(
        default=MAX_PENDING_BYTES,
        ge=1 << 16,
        description="Messages of all requests that are read or worked on; at least max_message_bytes. The others stay "
        "unread until there is room.",
    )
    tls_certificate: Path | None = Field(default=None, description="PEM file of this service's certificate.")
    tls_key: Path | None = Field(default=None, description="PEM file of its key.")
    tls_ca: Path | None = Field(default=None, description="PEM file of the CA that clients' certificates must be of.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("profiles", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("listen", "metrics_listen", "http_listen", check_fields=False)
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        host, colon, port = value.rpartition(":")
        if not (host and colon and port.isdecimal() and int(port) < 1 << 16):
            raise ValueError("give HOST:PORT")
        return value

    @model_validator(mode="after")
    def _holds_a_message(self) -> Self:
        if self.max_pending_bytes < self.max_message_bytes:
            raise ValueError(f"max_pending_bytes {self.max_pending_bytes} is below max_message_bytes")
        return self

    @property
    def server_tls(self) -> Tls | None:
        """What the server encrypts with; None where no file is named."""
        if self.tls_certificate is None and self.tls_key is None and self.tls_ca is None:
            return None
        return Tls(certificate=self.tls_certificate, key=self.tls_key, ca=self.tls_ca)

    @classmethod
    def from_command_line(cls) -> Self:
        """Reads flags, environment and the YAML file that PREFIX_CONFIG names.

        Raises:
            InputError: a value that cannot be, or a DTUFC_ variable that no side knows.
        """
        _reject_unknown_variables(cls)
        try:
            return cls(_cli_parse_args=True, _cli_prog_name=cls.prefix.lower().rstrip("_"))  # type: ignore[call-arg]
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise InputError(field="settings", problem=problems, remedy="See --help") from error
        except (yaml.YAMLError, UnicodeDecodeError, SettingsError, TypeError) as error:
            config = os.environ.get(f"{cls.prefix}CONFIG")
            remedy = f"Write a mapping of settings into {config}" if config else "See --help"
            problem = " ".join(str(error).split())
            raise InputError(field="settings", problem=problem, remedy=remedy) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        config = os.environ.get(f"{cls.prefix}CONFIG")
        if config is not None and not Path(config).is_file():
            raise InputError(field=f"{cls.prefix}CONFIG", problem=f"no file {config}", remedy="Name a YAML file")
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=config)


def _reject_unknown_variables(cls: type[ServiceSettings]) -> None:
    own = {f"{cls.prefix}{name.upper()}" for name in cls.model_fields} | {f"{cls.prefix}CONFIG"} | _OTHERS
    other_sides = tuple(prefix for prefix in _PREFIXES if prefix != cls.prefix)
    for name, value in sorted(os.environ.items()):
        if _OF_KUBERNETES.fullmatch(f"{name}={value}"):
            continue
        if name.startswith("DTUFC_") and name not in own and not name.startswith(other_sides):
            raise InputError(field=name, problem="no such setting", remedy="See --help for the settings' names")
