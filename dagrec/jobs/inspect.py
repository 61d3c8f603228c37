"""Statistics of a data set."""

from __future__ import annotations

from collections import Counter
from typing import Any

from dagrec.data.dataset import Dataset
from dagrec.data.examples import ExampleOptions, extract
from dagrec.data.vocabulary import Vocabulary


def inspect(dataset: Dataset, options: ExampleOptions) -> dict[str, Any]:
    """Return the statistics of a data set, which are exact for any number of paths.

    ``nodes`` and ``links`` count those of all compositions; ``distinct_nodes`` and ``distinct_links``
    count keys and pairs of keys.
    """
    options = options.model_copy(update={"form": options.form or dataset.form})
    examples, report = extract(dataset.compositions, options)
    compositions = dataset.compositions
    keys = {node.key for c in compositions for node in c.nodes}
    links = {
        (c.by_id[source].key, c.by_id[target].key) for c in compositions for source, target in c.links
    }
    targets = Counter(example.target for example in examples)
    times = [c.time for c in compositions if c.time is not None]
    sizes = sorted(len(c.nodes) for c in compositions)
    read_report = dataset.report
    return {
        "compositions": len(compositions),
        "paths": report.paths,
        "pairs": report.pairs,
        "targets": len(
            {n.key for c in compositions for n in c.nodes if n.is_service and c.parents[n.id]}
        ),
        "nodes": sum(len(c.nodes) for c in compositions),
        "links": sum(len(c.links) for c in compositions),
        "distinct_nodes": len(keys),
        "services": len({key for c in compositions for key in c.service_keys}),
        "distinct_links": len(links),
        "cycles": read_report.cycles,
        "links_dropped_for_cycles": read_report.broken_links,
        "skipped": sum(read_report.skipped.values()),
        "skipped_by_rule": dict(read_report.skipped),
        "duplicates": len(compositions) - len({c.signature for c in compositions}),
        "form": report.form,
        "examples": report.examples,
        "paths_taken": report.paths_taken,
        "sampled_compositions": report.sampled_compositions,
        "shortened_contexts": report.shortened,
        "distinct_contexts": len({example.context.path for example in examples}),
        "distinct_pairs": len({(example.context.path, example.target) for example in examples}),
        "vocabulary": len(Vocabulary.of(examples)),
        "nodes_of_median_composition": sizes[len(sizes) // 2],
        "nodes_of_largest_composition": sizes[-1],
        "owners": len({c.owner for c in compositions} - {None}),
        "first_time": min(times, default=None),
        "last_time": max(times, default=None),
        "most_frequent_targets": dict(targets.most_common(5)),
        "formats": dict(read_report.formats),
        "files": read_report.files,
        "ignored_files": read_report.ignored_files,
        "notes": dict(read_report.notes),
        "problems": read_report.problems,
        "fingerprint": dataset.fingerprint,
    }
