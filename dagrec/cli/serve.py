"""Command that serves: serve."""

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
    """The flag of a setting; what it is not given, the environment says."""
    kind = next(
        (arg for arg in (field.annotation, *get_args(field.annotation)) if arg in (bool, int, float)),
        str,
    )
    flag = f"--{name.replace('_', '-')}"
    none = field.default in (PydanticUndefined, None, "", ())
    about = f"{field.description} [DAGREC_{name.upper()}{'' if none else f'; default {field.default}'}]"
    option = typer.Option(f"{flag}/--no{flag[1:]}" if kind is bool else flag, help=about)
    annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for every setting but secrets, before its own options."""
    fields = {name: field for name, field in Settings.model_fields.items() if name not in SECRETS}
    flags = [_flag(name, field) for name, field in fields.items()]
    own = [
        p.replace(kind=Parameter.KEYWORD_ONLY)
        for p in signature(command, eval_str=True).parameters.values()
        if p.name != "settings"
    ]

    def serve(**given: Any) -> None:
        settings = {name: given.pop(name) for name in fields}
        command(settings=settings, **given)

    serve.__doc__ = command.__doc__
    serve.__signature__ = signature(command).replace(parameters=[*flags, *own])  # type: ignore[attr-defined]
    serve.__annotations__ = {p.name: p.annotation for p in (*flags, *own)}
    return serve


@_with_settings
def serve(settings: dict[str, Any], threads: opts.Threads = 1) -> None:
    """Answer POST /predict over HTTP from the live bundle of STORE, and show a playground at /.

    Every flag is an environment variable, too. Secrets are variables only, since others can read the
    flags of a process: DAGREC_API_KEY is asked of every request, DAGREC_ADMIN_TOKEN opens /admin.
    """
    try:
        from dagrec_service.app import run
    except ModuleNotFoundError as error:
        raise missing_package("dagrec serve", error, "serve") from None
    opts.set_threads(threads)
    run(make_settings(**settings))
