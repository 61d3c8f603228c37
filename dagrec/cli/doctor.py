"""The command doctor."""

from __future__ import annotations

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.errors import DagrecError


def doctor(json: opts.Json = None) -> None:
    """Check the installation: versions, devices, memory, disk, missing packages of extras, plug-ins.

    The exit status is 0 if the core is complete, even if packages of an extra are missing.
    """
    from dagrec.jobs.doctor import CORE
    from dagrec.jobs.doctor import doctor as run

    result = run()
    parts = result["parts"]
    if json is not None:
        console.write_json(json, result)
    else:
        sizes = {name: _size(result[name]) for name in ("memory_total", "memory_free", "disk_free")}
        values = {
            name: "-" if value is None else value
            for name, value in result.items()
            if name not in ("devices", "torch_problem", "parts", "plugins")
        }
        console.print_pairs("this machine", values | sizes)
        rows = [
            [d["name"], d["about"], _size(d["memory"]), _yes_or_no(d["bf16"])]
            for d in result["devices"]
        ]
        console.print_table("devices of torch", ["device", "about", "memory", "bf16"], rows)
        packages = [
            [part, row["package"], row["wanted"], row["found"] or "-", row["status"]]
            for part, about in parts.items()
            for row in about["packages"]
        ]
        console.print_table("packages", ["part", "package", "required", "found", "status"], packages)
        if result["plugins"]:
            about_plugins = [
                [p["name"], p["group"], p["package"], p["version"], "skipped" if p["problem"] else "ok"]
                for p in result["plugins"]
            ]
            columns = ["plug-in", "entry point", "package", "version", "status"]
            console.print_table("plug-ins", columns, about_plugins, texts=3)
        for plugin in result["plugins"]:
            if plugin["problem"]:
                console.print_message(f"skipped: {plugin['problem']}", style="yellow")
        if result["torch_problem"]:
            console.print_message(f"note: {result['torch_problem']}", style="yellow")
        for part, about in parts.items():
            if part != CORE and not about["complete"]:
                console.print_message(f"note: {part} is incomplete; {about['command']}", style="yellow")
    if not parts[CORE]["complete"]:
        raise DagrecError(f"the core is incomplete; {parts[CORE]['command']}")


def _size(number: int | None) -> str:
    return "-" if number is None else f"{number / 1e9:.1f} GB"


def _yes_or_no(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "no"
