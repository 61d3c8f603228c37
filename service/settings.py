"""Settings of the service: environment variables DAGREC_*, or flags of `dagrec serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dagrec.errors import ConfigError


def _names(value: Any) -> Any:
    return (
        [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    )


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]
Secret = Annotated[SecretStr, Field(min_length=8)]


class Settings(BaseSettings):
    """Each field is the environment variable DAGREC_<FIELD>, and, but for secrets, a flag of serve."""

    model_config = SettingsConfigDict(env_prefix="DAGREC_", extra="forbid", frozen=True)

    store: Path = Field(description="folder of published bundles")
    host: str = Field("127.0.0.1", description="address to bind")
    port: int = Field(8000, ge=0, le=65535, description="port to bind; 0: any free one")
    root_path: str = Field("", description="path prefix that a proxy strips")
    watch: float = Field(
        5.0, ge=0, description="seconds between two looks for a newly published bundle; 0: none"
    )
    cache: int = Field(2000, ge=0, description="contexts whose scores are remembered")
    timeout: float = Field(10.0, gt=0, description="longest that an answer may take, in seconds")
    max_body: int = Field(1_000_000, ge=1, description="largest request body, in bytes")
    body_timeout: float = Field(10.0, gt=0, description="seconds in which a body must have arrived")
    max_requests: int = Field(
        256, ge=1, description="requests answered at the same time; more are told to come back (503)"
    )
    grace: float = Field(
        30.0, ge=0, description="seconds that accepted requests get to finish when it is told to stop"
    )
    cors: Names = Field((), description="origins whose pages may ask, separated by commas; *: any")
    feedback: Path | None = Field(None, description="folder that gets POST /feedback; none: it is off")
    feedback_mb: float = Field(64.0, gt=0, description="size at which a file of feedback is closed")
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "info", description="what is logged: critical, error, warning, info (every request) or debug"
    )
    log_format: Literal["json", "text"] = Field("json", description="a line of the log: json or text")
    log_bodies: bool = Field(False, description="log the bodies of requests, too")
    api_key: Secret | None = Field(
        None, description="asked of every request but those for health and the playground's files"
    )
    admin_token: Secret | None = Field(
        None, description="opens POST /admin/reload and /admin/rollback, which are off without"
    )


SECRETS = frozenset(
    name for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)
)
"""Fields that the environment alone sets: the flags of a process can be read by others."""


def make_settings(**given: Any) -> Settings:
    """Settings from the values that are not None, and from the environment for the others.

    Raises :class:`ConfigError` naming the variable.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        clauses = []
        for item in error.errors():
            name = str(item["loc"][0])
            # A secret is not shown, not even a wrong one.
            found = "" if name in SECRETS or item["type"] == "missing" else f", found {item['input']!a}"
            clauses.append(f"DAGREC_{name.upper()}: {item['msg']}{found}")
        raise ConfigError(f"settings: {'; '.join(clauses)}") from None
