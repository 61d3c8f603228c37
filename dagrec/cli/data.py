"""Commands on data: inspect, generate, formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.config import load_config, make_options
from dagrec.data.examples import ExampleOptions, extract
from dagrec.data.formats import FORMATS, read_composition


@opts.reads_compositions
def inspect(
    context: typer.Context,
    data: opts.Data,
    json: opts.Json = None,
) -> None:
    """Count what is in a data set: compositions, paths, pairs, nodes, links, cycles, skips."""
    from dagrec.jobs.inspect import inspect as run

    config = load_config(changes=opts.changes(context))
    with console.progress() as progress:
        result = run(opts.read_data(data, config.read, progress), config.examples)
    if json is not None:
        console.write_json(json, result)
        return
    del result["problems"]  # said already
    for name in ("first_time", "last_time"):
        result[name] = console.moment(result[name])
    console.pairs(str(data), result)


def generate(
    out: Annotated[Path, typer.Option(help="file to write")],
    options: opts.Set = None,
) -> None:
    """Draw compositions from a known world, and state the best accuracy anyone can reach on them.

    Options of the world are set with --set, e.g. --set predictability=0.8 --set compositions=2000.
    """
    from dagrec.data.synthetic import World, WorldOptions, dump

    world = World(make_options(WorldOptions, options or ()))
    documents = world.draw()
    compositions = [read_composition(document) for document in documents]
    examples, report = extract(compositions, ExampleOptions(max_paths=10**9))
    console.write_file(out, dump(documents))
    facts = {"compositions": len(compositions), "paths": report.paths, "pairs": report.pairs}
    best = round(world.best_accuracy(examples), 4)
    console.pairs(str(out), facts | {"best_possible_accuracy": best} | world.options.model_dump())


def formats(json: opts.Json = None) -> None:
    """List the formats that are read, and what happens to a cycle in each."""
    rows = [[f.name, f.about, f.on_cycle] for f in FORMATS.values()]
    if json is not None:
        console.write_json(
            json, [dict(zip(("name", "about", "on_cycle"), r, strict=True)) for r in rows]
        )
        return
    console.table("formats, told apart by content", ["name", "about", "on cycle"], rows)
