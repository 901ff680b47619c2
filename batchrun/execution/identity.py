"""What makes two runs the same run: the fingerprint of job and input, and a readable difference where they differ."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import cast

import msgspec

from batchrun.job.lanes import lanes_of
from batchrun.job.settings import Job
from batchrun.model.record import Survey
from batchrun.model.request import NEVER_IN_DIGEST

_SHOWN_CHARS = 80
_BEFORE_CHARS = 20


def identity_of(job: Job, survey: Survey) -> Mapping[str, object]:
    """Return all that decides what is asked: request, prompt, base URL, input; nothing about key, pace or output.

    Of several endpoints it is the first one's base URL; the others may come and go.
    """
    prompt: dict[str, object] = msgspec.structs.asdict(job.prompt) if job.prompt else {}
    return {
        "request": {name: value for name, value in job.request.items() if name not in NEVER_IN_DIGEST},
        "prompt": {name: value for name, value in prompt.items() if value is not None},
        "endpoint": {"base_url": lanes_of(job)[0].endpoint.base_url},
        "input": {
            "format": survey.format,
            "key": survey.key,
            "rows": survey.rows,
            "sha256": input_fingerprint(survey),
        },
    }


def input_fingerprint(survey: Survey) -> str:
    """Return a digest, in hex, of the contents of all input files in their order."""
    digest = hashlib.sha256()
    for file in survey.files:
        digest.update(f"{file.sha256} {file.rows}\n".encode())
    return digest.hexdigest()


def difference(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """Return the keys whose values differ, each with both values, one a line; empty when nothing differs."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return "\n".join(f"  {name}: {_both(old.get(name), new.get(name))}" for name in names)


def _leaves(tree: object, at: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping) and tree:
        for name, value in cast("Mapping[str, object]", tree).items():
            yield from _leaves(value, f"{at}.{name}" if at else name)
    else:
        yield at, msgspec.json.encode(tree, order="sorted").decode()


def _both(old: str | None, new: str | None) -> str:
    """Return both values, long ones cut down to where they begin to differ."""
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(old or "", new or "", strict=False)))
    return f"{_shown(old, same)} → {_shown(new, same)}"


def _shown(text: str | None, same: int) -> str:
    if text is None:
        return "not set"
    if len(text) <= _SHOWN_CHARS:
        return text
    first = max(0, same - _BEFORE_CHARS)
    last = first + _SHOWN_CHARS
    return f"{'…' if first else ''}{text[first:last]}{'…' if last < len(text) else ''}"
