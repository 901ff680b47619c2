"""Job files for the tests of the loader."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchrun.errors import JobError
from batchrun.job.load import load_job

if TYPE_CHECKING:
    from pathlib import Path

    from batchrun.job.settings import Job

SMALL = """\
name = "small"

[input]
path = "in.jsonl"

[request]
model = "m"

[endpoint]
base_url = "simulator"

[output]
path = "out"
"""

SAMPLE = """\
name = "label-reviews"

[input]
path = "../sample_data/reviews.parquet"
format = "parquet"
key = "review_id"

[prompt]
system = "You label product reviews."
user = "Review: {{ text }}"
params = "params"

[request]
model = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
temperature = 0
max_tokens = 64

[endpoint]
base_url = "https://api.deepinfra.com/v1/openai"
api_key_env = "DEEPINFRA_API_KEY"
auth_header = "Authorization"
headers = {}
query = {}
stream = false
timeout_s = 900
keep_raw = false
transport = "auto"

[limits]
concurrency = 200
requests_per_minute = 600
max_attempts = 5
max_ambiguous_attempts = 1
max_row_time_s = 1800
max_pause_s = 300
max_failed = "1%"
fail_on = ["failed", "invalid", "empty"]

[price]
input = 0.12
output = 0.30
cached_input = 0.06

[output]
path = "../out/labels"
state_dir = "../state"
columns = "all"
prefix = ""
rows_per_part = 10000
compression = "zstd"

[simulator]
seed = 3
"""
"""Section 2 of SPEC.md, with the keys that this version has."""


def written(folder: Path, text: str = SMALL) -> Path:
    path = folder / "job.toml"
    path.write_text(text, encoding="utf-8")
    return path


def loaded(folder: Path, *overrides: str, text: str = SMALL) -> Job:
    return load_job(written(folder, text), overrides=overrides)


def refusal(folder: Path, *overrides: str, text: str = SMALL) -> str:
    """The message that a job file or an override of it is refused with."""
    with pytest.raises(JobError) as refused:
        loaded(folder, *overrides, text=text)
    assert refused.value.__cause__ is None
    return str(refused.value)
