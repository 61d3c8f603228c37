"""Command on the installation: doctor."""

from __future__ import annotations

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.errors import DagrecError


def doctor(json: opts.Json = None) -> None:
    """Show versions, devices, memory and disk, and what is missing of the core and of each extra.

    Exit status 0 when the core is complete, whatever the extras lack.
    """
    from dagrec.jobs.doctor import CORE
    from dagrec.jobs.doctor import doctor as run

    result = run()
    parts = result["parts"]
    if json is not None:
        console.write_json(json, result)
    else:
        sizes = {name: _size(result[name]) for name in ("memory_total", "memory_free", "disk_free")}
        left_out = ("devices", "torch_problem", "parts")
        facts = {name: value for name, value in result.items() if name not in left_out}
        facts = {name: "-" if value is None else value for name, value in facts.items()}
        console.pairs("this machine", facts | sizes)
        rows = [
            [d["name"], d["about"], _size(d["memory"]), _known(d["bf16"])] for d in result["devices"]
        ]
        console.table("devices that torch can use", ["device", "about", "memory", "bf16"], rows)
        packages = [
            [part, row["package"], row["wanted"], row["found"] or "-", row["status"]]
            for part, about in parts.items()
            for row in about["packages"]
        ]
        console.table("packages", ["part", "package", "wanted", "found", "status"], packages)
        if result["torch_problem"]:
            console.say(f"note: {result['torch_problem']}", style="yellow")
        for part, about in parts.items():
            if part != CORE and not about["complete"]:
                console.say(f"note: {part} is not complete; {about['command']}", style="yellow")
    if not parts[CORE]["complete"]:
        raise DagrecError(f"the core is not complete; {parts[CORE]['command']}")


def _size(number: int | None) -> str:
    return "-" if number is None else f"{number / 1e9:.1f} GB"


def _known(answer: bool | None) -> str:
    return "-" if answer is None else "yes" if answer else "no"
