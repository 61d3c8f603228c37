"""Node texts as vectors: TF-IDF of words and of parts of words, projected on a few dimensions.

Words are the runs of letters or digits in a key and its text, split where lower case meets upper case
(``HTTPRequest2`` gives http, request and 2), in lower case. Parts are the character trigrams of
``<word>``, so that ``plotting`` is similar to ``plot``. The weight of a term is 1 + log of its
frequency in a text, times

    idf = log((1 + n) / (1 + n_term)) + 1

where n_term of the n texts contain the term, and every row is scaled to length 1. The projection on the
largest singular directions preserves most of the inner products in a few dimensions. Its rows are
scaled to length 1 again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dagrec.data.texts import node_texts
from dagrec.data.vocabulary import FIRST_SERVICE, Vocabulary
from dagrec.errors import missing_package
from dagrec.training.data import TrainingData
from dagrec.types import Floats

LETTERS_OR_DIGITS = re.compile(r"[^\W\d_]+|\d+")
MAX_TEXT_LENGTH = 2000
"""Number of characters of a text that are used."""
MAX_TERMS = 20_000
"""Number of terms that are used: those that occur in the most texts."""


def key_texts(data: TrainingData) -> dict[str, str]:
    """Return the text of each key.

    It is the most frequent text of the key's nodes in the compositions of the training examples, or
    else the declared text.
    """
    return {**data.services, **node_texts(data.examples)}


def text_features(vocabulary: Vocabulary, texts: Mapping[str, str], dimensions: int) -> Floats:
    """Return the text vectors of all nodes: [V, D] with D <= ``dimensions`` and rows of length 1.

    The rows of padding and of the unknown node are 0.
    """
    keys = [*vocabulary.services, *vocabulary.others]
    rows = project(tf_idf([f"{key} {texts.get(key, '')}" for key in keys]), dimensions)
    return np.concatenate([np.zeros((FIRST_SERVICE, rows.shape[1])), rows])


def terms(text: str) -> Iterator[str]:
    """Yield the words of a text and their parts; parts start with ``#``."""
    for run in LETTERS_OR_DIGITS.findall(text[:MAX_TEXT_LENGTH]):
        for word in _split_camel_case(run):
            yield word
            marked = f"<{word}>"
            yield from (f"#{marked[i : i + 3]}" for i in range(len(marked) - 2))


def _split_camel_case(run: str) -> list[str]:
    """Return the words of ``HTTPRequest`` as ``["http", "request"]``."""
    starts = [
        i
        for i in range(1, len(run))
        if run[i].isupper() and (run[i - 1].islower() or run[i + 1 : i + 2].islower())
    ]
    return [run[i:j].lower() for i, j in zip([0, *starts], [*starts, len(run)], strict=True)]


def tf_idf(texts: Sequence[str]) -> Floats:
    """Return the TF-IDF weights [n, terms]; a row has length 1, or is 0 if its text has no term."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ModuleNotFoundError as error:
        raise missing_package("TF-IDF of texts", error, "train") from None
    documents = [list(terms(text)) for text in texts]
    frequency = Counter(term for document in documents for term in set(document))
    # max_features of scikit-learn would select the terms with the most occurrences in all texts.
    vocabulary = sorted(frequency, key=lambda term: (-frequency[term], term))[:MAX_TERMS]
    if not vocabulary:
        return np.zeros((len(texts), 0))
    model = TfidfVectorizer(analyzer=list, vocabulary=vocabulary, sublinear_tf=True, norm=None)
    return normalise_rows(model.fit_transform(documents).toarray())


def project(rows: Floats, dimensions: int) -> Floats:
    """Return the projection [n, D] on the largest right singular directions, with rows of length 1.

    D = min(``dimensions``, rank). The entry of largest magnitude of each direction is made positive, so
    that the projection of a matrix is unique.
    """
    if not rows.size:
        return np.zeros((len(rows), 1))
    _, values, directions = np.linalg.svd(rows, full_matrices=False)
    rank = max(1, min(dimensions, int((values > values[0] * 1e-10).sum())))
    directions = directions[:rank]
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(rank), largest])[:, None]
    return normalise_rows(rows @ directions.T)


def normalise_rows(rows: Floats) -> Floats:
    """Return the rows scaled to length 1; rows of 0 are unchanged."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    normalised: Floats = rows / np.where(lengths > 0, lengths, 1)
    return normalised
