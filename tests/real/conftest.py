"""One llama.cpp server for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from real_llama import CannotServeError, Llama, served


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    try:
        with served(tmp_path_factory.mktemp("llama") / "server.log") as server:
            yield server
    except CannotServeError as reason:
        pytest.skip(str(reason))
