"""`batchrun init`: a commented job file to start from."""

from __future__ import annotations

from pathlib import Path

import click

from batchrun.cli.say import say
from batchrun.errors import JobError

EXAMPLE = """\
# A batchrun job. Check it:  batchrun plan THIS_FILE     run it:  batchrun run THIS_FILE
# Paths are relative to this file. Running it again goes on where it stopped and sends nothing twice.

name = "my-job"

[input]
path = "prompts.jsonl"            # file, directory or glob; .jsonl, .ndjson (.gz, .zst) or .parquet
# key = "id"                      # a column of unique strings or ints; duplicates are refused

[prompt]                          # Jinja2; the row's columns are the variables
system = "You are a careful annotator."
user = "{{ text }}"               # here: the column `text`

[request]                         # sent as the JSON body, as it stands
model = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
temperature = 0
max_tokens = 256

[endpoint]
base_url = "simulator"            # costs nothing, needs no key; for real work:
# base_url = "https://api.deepinfra.com/v1/openai"
# api_key_env = "DEEPINFRA_API_KEY"   # the NAME of a variable; a key itself is refused here

[limits]
concurrency = 64                  # attempts in flight
# requests_per_minute = 600
max_failed = 0                    # a count, or a share such as "1%"; more failed rows exit with status 1

[output]
path = "out/my-job"               # a directory of Parquet parts, or a file ending in .parquet
rows_per_part = 10000
"""


def write_example(path: str) -> None:
    """Write the example to a new file, or to standard output for `-`; raises JobError when the file is there."""
    if path == "-":
        click.echo(EXAMPLE, nl=False)
        return
    try:
        with Path(path).open("x", encoding="utf-8") as file:
            file.write(EXAMPLE)
    except FileExistsError:
        raise JobError(f"{path}: is there already; name another file") from None
    except OSError as error:
        raise JobError(f"{path}: can't be written: {error.strerror}") from None
    say(f"{path} written; next: batchrun plan {path}")
