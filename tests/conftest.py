"""One worker gets all tests over the real server, so that it is started once and nobody else disturbs its counts."""

from __future__ import annotations

import pytest

ONE_WORKERS = "tests/real/"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Spread tests as `--dist load` does, but for this one folder.

    `--dist loadgroup` is made for it, but with pytest 9.2 its marks are silently ignored (pytest-xdist issue 1386).
    """
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - only there where this hook is called

    class FolderTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return ONE_WORKERS if nodeid.startswith(ONE_WORKERS) else nodeid

    return FolderTogether(config, log) if config.getvalue("dist") == "load" else None
