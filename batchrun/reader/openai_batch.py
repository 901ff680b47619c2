"""OpenAI batch files into a survey of them, and into stretches of records: JSONL whose lines are requests.

A line that asks for anything but a chat completion is a bad line; `custom_id` is the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from batchrun.model.record import Column, Survey
from batchrun.prompt.openai_batch import CUSTOM_ID, refusal_of
from batchrun.reader.jsonl import JsonlReader, survey_jsonl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.reader.keys import KeyCheck
    from batchrun.reader.source import Needs


def survey_openai_batch(paths: Sequence[str], keys: KeyCheck) -> Survey:
    """Scan all files once as `survey_jsonl` does, checking `custom_id`, which is always a column.

    Raises JobError as that does.
    """
    found = survey_jsonl(paths, keys)
    columns = found.columns or (Column(name=CUSTOM_ID, kind="string"),)
    return msgspec.structs.replace(found, format="openai-batch", columns=columns)


def open_openai_batch(survey: Survey, needs: Needs) -> JsonlReader:
    """Make a reader of the surveyed lines; its records are those of JSONL, their requests in column `body`."""
    return JsonlReader(survey, needs, refusal_of)
