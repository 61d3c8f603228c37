"""Settings of the service, from environment variables DAGREC_* or the flags of `dagrec serve`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dagrec.errors import ConfigError


def _split(value: Any) -> Any:
    return (
        [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    )


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+", origin):
            raise ValueError(
                f"an origin must be like https://editor.example, without a path, not {origin!a}"
            )
    return origins


def _check_prefix(path: str) -> str:
    path = path.rstrip("/")
    if path and not re.fullmatch(r"(/[\w.~-]+)+", path):
        raise ValueError("must be a path that starts with /, like /recommend")
    return path


def _check_folder(value: Any) -> Any:
    if value == "":
        raise ValueError("must name a folder; unset the variable if there is none")
    return value


def _check_secret(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]{8,}", value.get_secret_value()):
        raise ValueError("must be at least 8 characters of ASCII without spaces or line breaks")
    return value


Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_origins)]
Prefix = Annotated[str, AfterValidator(_check_prefix)]
Folder = Annotated[Path, BeforeValidator(_check_folder)]
Secret = Annotated[SecretStr, AfterValidator(_check_secret)]

PREFIX = "DAGREC_"


class Settings(BaseSettings):
    """Each field is an environment variable DAGREC_<FIELD> and, except for secrets, a flag of serve."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, allow_inf_nan=False
    )

    store: Folder = Field(description="folder of published bundles")
    host: str = Field("127.0.0.1", min_length=1, description="address to bind")
    port: int = Field(8000, ge=0, le=65535, description="port to bind; 0 for any free port")
    root_path: Prefix = Field("", description="path prefix that a proxy strips")
    watch: float = Field(
        5.0, ge=0, description="seconds between checks for a newly published bundle; 0 for no checks"
    )
    cache: int = Field(2000, ge=0, description="number of contexts whose scores are cached")
    timeout: float = Field(10.0, gt=0, description="time limit for an answer, in seconds")
    max_body: int = Field(1_000_000, ge=1, description="maximum size of a request body, in bytes")
    body_timeout: float = Field(10.0, gt=0, description="time limit for receiving a body, in seconds")
    max_requests: int = Field(
        256, ge=1, description="maximum number of concurrent requests; others are rejected with 503"
    )
    keep_alive: int = Field(
        5,
        ge=1,
        description="seconds that a connection may be idle; set it higher than the proxy's idle time",
    )
    grace: int = Field(
        30, ge=0, description="seconds that requests in progress get to finish on shutdown"
    )
    cors: Origins = Field((), description="allowed CORS origins, separated by commas; * for any")
    feedback: Folder | None = Field(
        None, description="folder for the reports of POST /feedback, which is off without it"
    )
    feedback_mb: float = Field(64.0, gt=0, description="maximum size of a feedback file, in megabytes")
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "info", description="log level: critical, error, warning, info (logs each request) or debug"
    )
    log_format: Literal["json", "text"] = Field(
        "json", description="format of a log line: json or text"
    )
    log_bodies: bool = Field(False, description="also log request bodies")
    api_key: Secret | None = Field(
        None, description="key for all requests except those for health and the playground's files"
    )
    admin_token: Secret | None = Field(
        None, description="token for POST /admin/reload and /admin/rollback, which are off without it"
    )


SECRETS = frozenset(
    name for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)
)
"""Fields without a flag: other users can read the command line of a process."""


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the environment variables that look like settings but are not, such as misspelt ones."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    return sorted(
        name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known
    )


def make_settings(**values: Any) -> Settings:
    """Return settings from the values that are not None, and from the environment for the others.

    Raises :class:`ConfigError`, which names the variable or flag.
    """
    try:
        return Settings(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        clauses = []
        for item in error.errors():
            name = str(item["loc"][0])
            # The value of a secret is not shown, even if it is invalid.
            found = "" if name in SECRETS or item["type"] == "missing" else f", found {item['input']!a}"
            rule = item["msg"].removeprefix("Value error, ")
            is_flag = values.get(name) is not None
            label = f"--{name.replace('_', '-')}" if is_flag else f"{PREFIX}{name.upper()}"
            clauses.append(f"{label}: {rule}{found}")
        raise ConfigError(f"settings: {'; '.join(clauses)}") from None
