"""Random compositions with ports, texts and goals, which are written in a format and read again."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from dagrec.data.compositions import Composition, Wire, compose
from tests.data.dags import graphs

TEXTS = st.none() | st.sampled_from(
    ["a note", "Prüfen", "two\nlines", "œ “quoted” \\", "12", "x" * 300]
)
IDS = st.sampled_from(["w", "7", "id with spaces", "ümlaut"])


@st.composite
def compositions(
    draw: st.DrawFn,
    *,
    outputs: st.SearchStrategy[str | None],
    inputs: st.SearchStrategy[str | None],
) -> Composition:
    """Compositions of services, whose links have a drawn output and input."""
    nodes, links = draw(graphs())
    services = [replace(node, kind="service", text=draw(TEXTS)) for node in nodes]
    wires = [Wire(*link, draw(outputs), draw(inputs)) for link in links]
    wires += [Wire(*link, draw(outputs), draw(inputs)) for link in links if draw(st.booleans())]
    return compose(draw(IDS), services, wires, goal=draw(TEXTS))[0]


def is_same(read: Composition, written: Composition) -> bool:
    """Whether two compositions are equal, except for the order of links, which some formats change."""
    assert read.nodes == written.nodes
    assert set(read.links) == set(written.links)
    assert set(read.wires) == set(written.wires)
    assert (read.id, read.owner, read.time, read.goal) == (
        written.id,
        written.owner,
        written.time,
        written.goal,
    )
    return True
