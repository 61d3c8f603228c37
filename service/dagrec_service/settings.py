"""Settings of the service: environment variables DAGREC_*, or flags of `dagrec serve`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dagrec.errors import ConfigError


def _names(value: Any) -> Any:
    return (
        [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    )


def _origins(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+", name):
            raise ValueError(
                f"an origin must be like https://editor.example, without a path, not {name!a}"
            )
    return names


def _prefix(path: str) -> str:
    path = path.rstrip("/")
    if path and not re.fullmatch(r"(/[\w.~-]+)+", path):
        raise ValueError("must be a path that starts with /, like /recommend")
    return path


def _folder(value: Any) -> Any:
    if value == "":
        raise ValueError("must name a folder; leave the variable out where there is none")
    return value


def _secret(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]{8,}", value.get_secret_value()):
        raise ValueError("must be at least 8 characters of ASCII without spaces or line breaks")
    return value


Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names), AfterValidator(_origins)]
Prefix = Annotated[str, AfterValidator(_prefix)]
Folder = Annotated[Path, BeforeValidator(_folder)]
Secret = Annotated[SecretStr, AfterValidator(_secret)]


PREFIX = "DAGREC_"


class Settings(BaseSettings):
    """Each field is the environment variable DAGREC_<FIELD>, and, but for secrets, a flag of serve."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, allow_inf_nan=False
    )

    store: Folder = Field(description="folder of published bundles")
    host: str = Field("127.0.0.1", min_length=1, description="address to bind")
    port: int = Field(8000, ge=0, le=65535, description="port to bind; 0: any free one")
    root_path: Prefix = Field("", description="path prefix that a proxy strips")
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
    keep_alive: int = Field(
        5,
        ge=1,
        description="seconds that a connection may be idle; more than the proxy in front keeps it",
    )
    grace: int = Field(
        30, ge=0, description="seconds that accepted requests get to finish when it is told to stop"
    )
    cors: Origins = Field((), description="origins whose pages may ask, separated by commas; *: any")
    feedback: Folder | None = Field(
        None, description="folder that gets POST /feedback; none: it is off"
    )
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


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Names in the environment that look like settings, and are none; a misspelt key is no key."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    return sorted(
        name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known
    )


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
            rule = item["msg"].removeprefix("Value error, ")
            flag = given.get(name) is not None
            label = f"--{name.replace('_', '-')}" if flag else f"{PREFIX}{name.upper()}"
            clauses.append(f"{label}: {rule}{found}")
        raise ConfigError(f"settings: {'; '.join(clauses)}") from None
