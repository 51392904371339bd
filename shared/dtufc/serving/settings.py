"""What both services can be told: flags over environment over a YAML file over defaults."""

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from dtufc.errors import InputError
from dtufc.models.profile import default_profiles
from dtufc.models.strict_yaml import read_mapping
from dtufc.serving.given import listen_address
from dtufc.serving.limits import MAX_MESSAGE_BYTES, MAX_PENDING_BYTES, MAX_SETTABLE_MESSAGE_BYTES, MAX_TIMEOUT_S
from dtufc.serving.transport import Tls
from dtufc.serving.variables import check_variables, variable


class ServiceSettings(BaseSettings):
    """Settings that the sides share. A side's own class adds to them and sets the prefix."""

    prefix: ClassVar[str]
    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_ignore_empty=True,
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
        default=60.0,
        gt=0,
        le=MAX_TIMEOUT_S,
        description="Deadline of a call that brings none: waiting and work together.",
    )
    drain_s: float = Field(
        default=5.0, ge=0, le=MAX_TIMEOUT_S, description="How long running calls may take once a stop is asked for."
    )
    max_message_bytes: int = Field(
        default=MAX_MESSAGE_BYTES, ge=1 << 16, le=MAX_SETTABLE_MESSAGE_BYTES, description="Both ways."
    )
    max_pending_bytes: int = Field(
        default=MAX_PENDING_BYTES,
        ge=1 << 16,
        le=1 << 40,
        description="Messages of all requests that are read or worked on; at least max_message_bytes. The others stay "
        "unread until there is room.",
    )
    tls_certificate: Path | None = Field(default=None, description="PEM file of this service's certificate.")
    tls_key: Path | None = Field(default=None, description="PEM file of its key.")
    tls_ca: Path | None = Field(default=None, description="PEM file of the CA that clients' certificates must be of.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_value(cls, value: object) -> object:
        if isinstance(value, bool):  # YAML's yes, no, on, off too; it would pass for 1 or 0
            raise ValueError("Input should be no truth value")  # noqa: TRY004 - pydantic takes no other
        return value

    @field_validator("profiles", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("listen", "metrics_listen", "http_listen", check_fields=False)
    @classmethod
    def _is_address(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None:
            listen_address(value, str(info.field_name))
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
        check_variables(cls.prefix, cls.model_fields)
        flags = Counter(argument.partition("=")[0] for argument in sys.argv[1:] if argument.startswith("--"))
        for flag, count in flags.items():
            if count > 1:  # argparse would take the last one
                raise InputError(field=flag, problem="given twice", remedy="Give it once")
        try:
            return cls(_cli_parse_args=True, _cli_prog_name=cls.prefix.lower().rstrip("_"))  # type: ignore[call-arg]
        except ValidationError as error:
            problems = "; ".join(_told(one) for one in error.errors())
            raise InputError(field="settings", problem=problems, remedy="See --help") from error
        except SettingsError as error:
            raise InputError(field="settings", problem=_one_line(error), remedy="See --help") from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, InitSettingsSource(settings_cls, _configured(f"{cls.prefix}CONFIG"))


def _configured(name: str) -> dict[str, Any]:
    """The settings of the YAML file that a variable names."""
    path = variable(name)
    return {} if path is None else read_mapping(Path(path), field=name, remedy="Name a YAML file")


def _told(error: Any) -> str:
    """One of pydantic's errors: the setting, its value, what it should be."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{name}: no such setting"
    return f"{name}: {error['input']!r}, {error['msg'][:1].lower()}{error['msg'][1:]}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
