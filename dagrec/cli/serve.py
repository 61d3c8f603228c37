"""The command serve."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Annotated, Any, get_args

import typer
from dagrec_service.settings import SECRETS, Settings, make_settings
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dagrec.cli import options as opts
from dagrec.errors import missing_package


def _flag(name: str, field: FieldInfo) -> Parameter:
    """The flag of a setting; without it, the environment variable or the default applies."""
    type_ = next(
        (arg for arg in (field.annotation, *get_args(field.annotation)) if arg in (bool, int, float)),
        str,
    )
    flag = f"--{name.replace('_', '-')}"
    description = field.description or ""
    has_default = field.default not in (PydanticUndefined, None, "", ())
    default = f"; default: {field.default}" if has_default else ""
    option = typer.Option(
        f"{flag}/--no{flag[1:]}" if type_ is bool else flag,
        help=f"{description[:1].upper()}{description[1:]}. [env var: DAGREC_{name.upper()}{default}]",
    )
    annotation = Annotated[type_ | None, option]  # type: ignore[valid-type]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Add a flag for every setting except secrets, in front of a command's own options."""
    fields = {name: field for name, field in Settings.model_fields.items() if name not in SECRETS}
    parameters = [_flag(name, field) for name, field in fields.items()]
    parameters += [
        p.replace(kind=Parameter.KEYWORD_ONLY)
        for p in signature(command, eval_str=True).parameters.values()
        if p.name != "settings"
    ]

    def serve(**arguments: Any) -> None:
        settings = {name: arguments.pop(name) for name in fields}
        command(settings=settings, **arguments)

    serve.__doc__ = command.__doc__
    serve.__signature__ = signature(command).replace(parameters=parameters)  # type: ignore[attr-defined]
    serve.__annotations__ = {p.name: p.annotation for p in parameters}
    return serve


@_with_settings
def serve(settings: dict[str, Any], threads: opts.Threads = 1) -> None:
    """Serve recommendations from the live bundle of STORE over HTTP, with a playground at /.

    Every flag can be set by an environment variable. Secrets can only be set by environment variables,
    because other users can read the flags of a process: clients must send DAGREC_API_KEY with every
    request if it is set, and DAGREC_ADMIN_TOKEN enables /admin.
    """
    try:
        from dagrec_service.app import run
    except ModuleNotFoundError as error:
        raise missing_package("dagrec serve", error, "serve") from None
    opts.set_threads(threads)
    run(make_settings(**settings))
