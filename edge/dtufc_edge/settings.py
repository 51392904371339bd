"""Settings of the edge."""

from pathlib import Path
from typing import ClassVar, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from dtufc.errors import InputError
from dtufc.serving.given import check_target
from dtufc.serving.limits import MAX_TOKENS
from dtufc.serving.settings import ServiceSettings
from dtufc.serving.transport import Tls
from dtufc_edge.image_process import ImageLimits

_BASE_BYTES: Final = 64 << 20
_BYTES_PER_PIXEL: Final = 48


class EdgeSettings(ServiceSettings):
    """DTUFC_EDGE_..., or the flags of `python -m dtufc_edge`."""

    prefix: ClassVar[str] = "DTUFC_EDGE_"
    model_config = SettingsConfigDict(env_prefix="DTUFC_EDGE_")

    listen: str = Field(default="127.0.0.1:50051", description="Address of the gRPC service.")
    metrics_listen: str = Field(default="127.0.0.1:9101", description="Address of the Prometheus metrics.")
    http_listen: str | None = Field(
        default=None, description="Address of OpenAI's interface over HTTP, such as 127.0.0.1:8000; off by default."
    )
    cloud: str = Field(default="127.0.0.1:50052", description="Address of the cloud.")
    cloud_tls_ca: Path | None = Field(
        default=None, description="PEM file of the CA to trust: turns on TLS to the cloud."
    )
    cloud_tls_certificate: Path | None = Field(default=None, description="PEM file, where the cloud asks for it.")
    cloud_tls_key: Path | None = Field(default=None, description="PEM file of its key.")
    cloud_proxy: str | None = Field(
        default=None,
        description="http://HOST:PORT of a proxy on the way to the cloud. Those of the environment are not used.",
    )
    cloud_calls: Literal["stream", "unary"] = Field(
        default="stream",
        description="How sessions of generation reach the cloud: unary where it routes such calls alone.",
    )
    max_prompt_tokens: int = Field(default=1024, ge=1, le=MAX_TOKENS, description="Longest prompt, in tokens.")
    max_new_tokens: int = Field(default=256, ge=1, le=MAX_TOKENS, description="Longest completion, in tokens.")
    max_cache_bytes: int = Field(
        default=2 << 30, ge=1, le=1 << 50, description="Keys and values of all texts together."
    )
    max_steps: int = Field(default=100, ge=1, le=10_000, description="Most steps of a denoiser for one image.")
    max_image_bytes: int = Field(default=16 << 20, ge=1, le=1 << 30, description="Largest image file.")
    max_image_pixels: int = Field(default=40_000_000, ge=1, le=1 << 31, description="Largest image, unpacked.")
    max_image_seconds: float = Field(
        default=10.0, gt=0, le=3600, description="Longest time to decode an image; then it is rejected."
    )

    @field_validator("cloud")
    @classmethod
    def _is_target(cls, value: str) -> str:
        return check_target(value, "cloud")

    @property
    def image_limits(self) -> ImageLimits:
        """The limits of one image. Its memory follows from its pixels: more than the costliest format needs."""
        return ImageLimits(
            max_bytes=self.max_image_bytes,
            max_pixels=self.max_image_pixels,
            max_seconds=self.max_image_seconds,
            max_memory_bytes=_BASE_BYTES + 2 * self.max_message_bytes + _BYTES_PER_PIXEL * self.max_image_pixels,
        )

    @field_validator("cloud_proxy")
    @classmethod
    def _is_proxy(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme != "http" or not parts.hostname or parts.port is None or parts.path not in ("", "/"):
            raise ValueError("give http://HOST:PORT")
        return value

    @property
    def cloud_name(self) -> str:
        """The cloud as errors name it: its address, and the proxy on the way, without a password."""
        if self.cloud_proxy is None:
            return self.cloud
        return f"{self.cloud} through the proxy {self.cloud_proxy.rpartition('@')[2].removeprefix('http://')}"

    @property
    def cloud_tls(self) -> Tls | None:
        """What the channel to the cloud encrypts with; None where no file is named."""
        if self.cloud_tls_ca is None and self.cloud_tls_certificate is None and self.cloud_tls_key is None:
            return None
        if self.cloud_tls_ca is None:
            raise InputError(
                field="cloud_tls_ca", problem="missing beside certificate or key", remedy="Name the CA to trust"
            )
        return Tls(certificate=self.cloud_tls_certificate, key=self.cloud_tls_key, ca=self.cloud_tls_ca)
