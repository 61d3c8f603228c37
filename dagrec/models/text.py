"""What is written about nodes, as vectors: tf-idf of words and of parts of words, in plain numpy.

Words are the runs of letters or digits of a key and of its text, cut where small letters and capitals
meet (``HTTPRequest2`` is http, request, 2), in lower case. Parts are the runs of three characters of
each word between marks, so that ``plotting`` is near ``plot``. A term counts 1 + log of its number in a
text, times

    idf = log((1 + n) / (1 + n_term)) + 1

of the n texts (as in scikit-learn), and every row is brought to length 1. The rows' projection on the
largest singular directions keeps most of their products in a few numbers; it has length 1 again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dagrec.data.texts import node_texts
from dagrec.data.vocabulary import FIRST, Vocabulary
from dagrec.training.data import TrainingData
from dagrec.types import Floats

RUN = re.compile(r"[^\W\d_]+|\d+")
MAX_TEXT_LENGTH = 2000
"""Characters of a text that are read."""
MAX_TERMS = 20_000
"""Terms that are told apart, those of the most texts first."""


def key_texts(data: TrainingData) -> dict[str, str]:
    """Key -> the text that the most nodes with it have in the compositions of training examples, or the
    one that it was declared with."""
    return {**data.services, **node_texts(data.examples)}


def text_features(vocabulary: Vocabulary, texts: Mapping[str, str], dimensions: int) -> Floats:
    """[V, D] with rows of length 1, D = ``dimensions`` at most; 0 for padding and the unknown node."""
    keys = [*vocabulary.services, *vocabulary.others]
    rows = projected(tf_idf([f"{key} {texts.get(key, '')}" for key in keys]), dimensions)
    return np.concatenate([np.zeros((FIRST, rows.shape[1])), rows])


def terms(text: str) -> Iterator[str]:
    """The words of a text, and their parts, which are marked by a leading ``#``."""
    for run in RUN.findall(text[:MAX_TEXT_LENGTH]):
        for word in _parted(run):
            yield word
            marked = f"<{word}>"
            yield from (f"#{marked[i : i + 3]}" for i in range(len(marked) - 2))


def _parted(run: str) -> list[str]:
    """``HTTPRequest`` as http, request: a word begins at a capital beside a small letter."""
    starts = [
        i
        for i in range(1, len(run))
        if run[i].isupper() and (run[i - 1].islower() or run[i + 1 : i + 2].islower())
    ]
    return [run[i:j].lower() for i, j in zip([0, *starts], [*starts, len(run)], strict=True)]


def tf_idf(texts: Sequence[str]) -> Floats:
    """[n, terms], each row of length 1, or 0 where a text has no term."""
    counts = [Counter(terms(text)) for text in texts]
    held = Counter(term for own in counts for term in own)
    columns = {
        term: i for i, term in enumerate(sorted(held, key=lambda term: (-held[term], term))[:MAX_TERMS])
    }
    found = np.zeros((len(texts), len(columns)))
    for i, own in enumerate(counts):
        for term, count in own.items():
            if term in columns:
                found[i, columns[term]] = 1 + np.log(count)
    idf = np.log((1 + len(texts)) / (1 + np.array([held[term] for term in columns]))) + 1
    return unit(found * idf)


def projected(rows: Floats, dimensions: int) -> Floats:
    """[n, D] on the D = min(``dimensions``, rank) largest right singular directions, of length 1.

    The sign of a direction is such that its largest entry is above 0: one matrix has one projection.
    """
    if not rows.size:
        return np.zeros((len(rows), 1))
    _, values, directions = np.linalg.svd(rows, full_matrices=False)
    kept = max(1, min(dimensions, int((values > values[0] * 1e-10).sum())))
    directions = directions[:kept]
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(kept), largest])[:, None]
    return unit(rows @ directions.T)


def unit(rows: Floats) -> Floats:
    """The rows brought to length 1; a row of 0 stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Floats = rows / np.where(lengths > 0, lengths, 1)
    return found
