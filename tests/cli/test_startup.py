"""A command imports what it uses and no more, and what libraries do at their import that no command needs is not done.

Each test looks at a process of its own: in this one all is imported already.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_tools import job_file, write_rows

HEAVY = ("aiohttp", "aiolimiter", "asyncio", "jinja2", "msgspec", "pyarrow", "rich", "sqlite3", "tenacity", "uvloop")
COMMAND = """
import json, sys
from batchrun.cli.main import main
try:
    main()
except SystemExit as ended:
    status = ended.code
"""


def python(code: str, *words: str) -> object:
    """Run code in a process of its own; return the JSON in the last line that it prints."""
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, timeout=60)
    return json.loads(ended.stdout.splitlines()[-1])


def imported(*words: str) -> set[str]:
    """The modules that a process of the command has imported at its end."""
    found = python(f"{COMMAND}print(json.dumps([status, sorted(sys.modules)]))", *words)
    assert isinstance(found, list)
    assert found[0] == 0, found[0]
    return set(found[1])


def unsent(folder: Path) -> list[str]:
    """A run that has nothing to send."""
    write_rows(folder, [])
    return ["run", str(job_file(folder, endpoint={"base_url": "http://127.0.0.1:9"})), "--quiet"]


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"], ["init", "-"]])
def test_what_is_only_told_imports_no_heavy_library(words: list[str]) -> None:
    assert not imported(*words) & {*HEAVY, "ssl", "logging", "batchrun.execution", "batchrun.job.settings"}


def test_a_run_imports_neither_numpy_nor_pandas(tmp_path: Path) -> None:
    """Both are installed, and pyarrow imports what it finds of them: a tenth of a second, and four tenths."""
    pytest.importorskip("numpy")
    pytest.importorskip("pandas")
    modules = imported(*unsent(tmp_path))
    assert "pyarrow" in modules
    assert not modules & {"numpy", "pandas"}


def test_a_run_imports_a_library_only_where_the_job_asks_for_what_it_does(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"prompt": "p"}])
    asked = {"jinja2": "prompt.user={{ prompt | trim }}", "aiolimiter": "limits.requests_per_minute=6000"}
    for number, words in enumerate([(), *[("--set", setting) for setting in asked.values()]]):
        job = job_file(tmp_path, output={"path": str(tmp_path / f"out {number}")})
        modules = imported("run", str(job), "--quiet", *words)
        assert modules & asked.keys() == {name for name, setting in asked.items() if setting in words}
        assert not modules & {"tenacity", "statistics"}  # no row is in trouble, none is streamed


def test_a_run_that_has_nothing_to_do_imports_nothing_that_sends(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"prompt": "p"}])
    words = ["run", str(job_file(tmp_path)), "--quiet"]
    assert {"asyncio", "aiohttp"} <= imported(*words)
    assert not imported(*words) & {"asyncio", "aiohttp", "uvloop", "jinja2", "tenacity", "batchrun.worker"}


def test_a_program_that_runs_a_job_keeps_numpy() -> None:
    pytest.importorskip("numpy")
    code = "import batchrun.engine.local, json, numpy, sys; print(json.dumps('pyarrow' in sys.modules))"
    assert python(code) is True


def test_certificates_are_read_where_tls_is_spoken_and_nowhere_else() -> None:
    """aiohttp's own contexts trust nobody then; those that are made later trust whom they would have trusted."""
    code = """
import json, ssl
before = ssl.SSLContext.set_default_verify_paths
from batchrun.startup import start_light
start_light()
import aiohttp.connector as module
anchors = len(module._SSL_CONTEXT_VERIFIED.get_ca_certs())
refuses = module._SSL_CONTEXT_VERIFIED.verify_mode == ssl.CERT_REQUIRED
as_before = ssl.SSLContext.set_default_verify_paths is before
print(json.dumps([anchors, refuses, as_before]))
"""
    assert python(code) == [0, True, True]


def test_the_collector_works_on_but_for_what_was_loaded(tmp_path: Path) -> None:
    looked_at = "gc.isenabled(), gc.get_threshold()[0], gc.get_freeze_count() > 10_000"
    found = python(f"{COMMAND}import gc; print(json.dumps([{looked_at}]))", *unsent(tmp_path))
    assert found == [True, 5_000, True]


def test_the_simulators_process_imports_no_library_of_the_runs() -> None:
    code = "import batchrun.simulator.piped, json, sys; print(json.dumps(sorted(sys.modules)))"
    found = python(code)
    assert isinstance(found, list)
    assert "aiohttp" in found
    assert not set(found) & {"jinja2", "pyarrow", "sqlite3", "tenacity", "aiolimiter", "rich", "click"}
