"""The texts of node keys."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from dagrec.data.examples import Example


def node_texts(examples: Iterable[Example]) -> dict[str, str]:
    """Return the most frequent text of each key in the compositions of the examples.

    Ties are broken alphabetically. Keys without any text are left out.
    """
    compositions = {e.composition: e.context.composition for e in examples}
    texts: dict[str, Counter[str]] = defaultdict(Counter)
    for composition in compositions.values():
        for node in composition.nodes if composition else ():
            if node.text:
                texts[node.key][node.text] += 1
    return {key: min(counts, key=lambda text: (-counts[text], text)) for key, counts in texts.items()}
