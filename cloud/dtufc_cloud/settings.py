"""Settings of the cloud."""

from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from dtufc.serving.limits import MAX_TIMEOUT_S, MAX_TOKENS
from dtufc.serving.settings import ServiceSettings


class CloudSettings(ServiceSettings):
    """DTUFC_CLOUD_..., or the flags of `python -m dtufc_cloud`."""

    prefix: ClassVar[str] = "DTUFC_CLOUD_"
    model_config = SettingsConfigDict(env_prefix="DTUFC_CLOUD_")

    listen: str = Field(default="127.0.0.1:50052", description="Address of the gRPC service.")
    metrics_listen: str = Field(default="127.0.0.1:9102", description="Address of the Prometheus metrics.")
    max_image_pixels: int = Field(default=40_000_000, ge=1, le=1 << 31, description="Largest label map to send back.")
    max_tokens: int = Field(default=2048, ge=1, le=MAX_TOKENS, description="Longest sequence of features, in tokens.")
    max_cache_bytes: int = Field(
        default=2 << 30, ge=1, le=1 << 50, description="Keys and values of all sessions together."
    )
    max_sessions: int = Field(default=64, ge=1, le=1 << 16, description="Texts that are generated at a time.")
    session_idle_s: float = Field(
        default=60.0, gt=0, le=MAX_TIMEOUT_S, description="A session that gets no rows for so long ends."
    )
