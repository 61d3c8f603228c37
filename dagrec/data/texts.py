"""What is written about nodes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from dagrec.data.examples import Example


def node_texts(examples: Iterable[Example]) -> dict[str, str]:
    """Key -> the text that the most nodes with it have in the compositions behind examples; of equally
    frequent ones the first in the alphabet. A key without any text is missing."""
    sources = {e.composition: e.context.composition for e in examples}
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for source in sources.values():
        for node in source.nodes if source else ():
            if node.text:
                found[node.key][node.text] += 1
    return {key: min(counts, key=lambda text: (-counts[text], text)) for key, counts in found.items()}
