"""The human-rated snippets of Hutto & Gilbert (2014): at least 15 people rated each on -4..4."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from tunesmith.core import store
from tunesmith.core.errors import WorkFailed
from tunesmith.core.files import text_hash
from tunesmith.core.records import Example

LICENCE = store.HUTTO.licence
CITATION = store.HUTTO.citation
# Snippets nearer to neutral than this have no side on which people agree.
CLEAR = 0.5
_TEST_SHARE, _VALIDATION_SHARE = 0.20, 0.05
_KINDS = ("movieReviewSnippets", "tweets", "amazonReviewSnippets", "nytEditorialSnippets")


def folder() -> Path:
    """Return the folder with the unpacked rating files, fetched on first use."""
    return store.prepared("hutto-2014", store.HUTTO, _build)


def _build(archive: Path, target: Path) -> None:
    names = {f"hutto_ICWSM_2014/{kind}_{part}.txt" for kind in _KINDS for part in ("GroundTruth", "anonDataRatings")}
    with tarfile.open(archive) as outer:
        inner_file = outer.extractfile("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz")
        if inner_file is None:
            raise WorkFailed("the ratings are not where the pinned archive keeps them")
        with tarfile.open(fileobj=inner_file) as inner:
            # Named members are read as bytes; nothing is extracted by the path an archive claims.
            for name in sorted(names):
                member = inner.extractfile(name)
                if member is None:
                    raise WorkFailed(f"{name} is not in the pinned archive")
                (target / name.split("/")[-1]).write_bytes(member.read())


def rated(kind: str) -> list[Example]:
    """Read one collection: fields text, label ("negative", "positive" or "neutral"), mean and ratings (list of -4..4)."""
    ratings = {}
    for line in _lines(f"{kind}_anonDataRatings.txt"):
        identity, _, _, listed = line.split("\t")
        ratings[identity] = json.loads(listed)
    examples = []
    for line in _lines(f"{kind}_GroundTruth.txt"):
        identity, mean_text, text = line.split("\t")
        mean, text = float(mean_text), " ".join(text.split())
        label = "positive" if mean >= CLEAR else "negative" if mean <= -CLEAR else "neutral"
        fields = {"text": text, "label": label, "mean": mean, "ratings": ratings.get(identity, [])}
        examples.append(Example(text_hash(kind, identity, text), fields, f"{kind}:{identity}"))
    return examples


def splits(kind: str) -> dict[str, list[Example]]:
    """Split the clearly positive and negative snippets into train, validation and test, in a fixed shuffled order.

    Sentences of one product review or editorial stay together, so the test never sees a neighbour of what was trained on.
    Film sentences and tweets come without a document, and each is one of its own.
    """
    parts: dict[str, list[Example]] = {"train": [], "validation": [], "test": []}
    seen: set[str] = set()
    for example in sorted(rated(kind), key=lambda e: e.id):
        if example.fields["label"] == "neutral" or example.fields["text"].casefold() in seen:
            continue
        seen.add(example.fields["text"].casefold())
        document = example.where.split(":")[1].split("_")[0]
        share = int(text_hash("split", kind, document), 16) / 16**16
        part = "test" if share < _TEST_SHARE else "validation" if share < _TEST_SHARE + _VALIDATION_SHARE else "train"
        parts[part].append(example)
    return parts


def _lines(name: str) -> list[str]:
    text = (folder() / name).read_text(encoding="utf-8-sig")
    return [line.rstrip("\r") for line in text.split("\n") if line.strip()]
