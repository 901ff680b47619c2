"""The JSON Schema of the job file, and the sample jobs that ship with the project."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from batchrun.job.load import job_schema, load_job
from batchrun.job.settings import (
    EndpointSettings,
    InputSettings,
    Job,
    LaneSettings,
    LimitSettings,
    OutputSettings,
    SimulatorSettings,
)
from batchrun.pricing import Price
from batchrun.prompt.settings import PromptSettings

JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.toml"))
TABLES = [
    Job,
    InputSettings,
    PromptSettings,
    EndpointSettings,
    LaneSettings,
    LimitSettings,
    Price,
    OutputSettings,
    SimulatorSettings,
]


def test_the_schema_is_json_and_has_every_key() -> None:
    schema = json.loads(json.dumps(job_schema(), allow_nan=False))
    assert schema["$ref"] == "#/$defs/Job"
    for table in TABLES:
        described = schema["$defs"][table.__name__]
        assert described["additionalProperties"] is False
        assert set(described["properties"]) == {field.encode_name for field in msgspec.structs.fields(table)}
    assert set(schema["$defs"]["Job"]["required"]) == {"name", "input", "endpoint", "output"}


def test_the_schema_describes_both_forms_of_the_endpoint() -> None:
    one, several = sorted(job_schema()["$defs"]["Job"]["properties"]["endpoint"]["anyOf"], key=len)  # type: ignore[index]
    assert one == {"$ref": "#/$defs/EndpointSettings"}
    assert several == {"type": "array", "items": {"$ref": "#/$defs/LaneSettings"}, "minItems": 1}


def test_there_are_sample_jobs() -> None:
    assert len(JOBS) >= 4


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_the_sample_jobs_load(path: Path) -> None:
    job = load_job(path)
    assert job.name
    assert job.request["model"]
