"""Settings of the service: environment variables DAGREC_*, or flags of `dagrec serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from dagrec.errors import ConfigError


class Settings(BaseSettings):
    """Each field is the environment variable DAGREC_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="DAGREC_", extra="forbid", frozen=True)

    store: Path = Field(description="folder of published bundles")
    host: str = Field("127.0.0.1", description="address to bind")
    port: int = Field(8000, ge=0, le=65535, description="port to bind; 0: any free one")
    max_body: int = Field(1_000_000, ge=1, description="largest request body, in bytes")
    timeout: float = Field(10.0, gt=0, description="longest that an answer may take, in seconds")
    root_path: str = Field("", description="path prefix that a proxy strips")
    log_level: str = Field("info", description="of the server: critical, error, warning, info, debug")


def make_settings(**given: Any) -> Settings:
    """Settings from the values that are not None, and from the environment for the others.

    Raises :class:`ConfigError` naming the variable.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        clauses = [f"DAGREC_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"settings: {'; '.join(clauses)}") from None
