"""A run's process shares one heap, unless its environment says otherwise."""

from __future__ import annotations

import os

import pytest

from batchrun.cli.memory import share_one_heap


@pytest.mark.parametrize(("asked", "taken"), [(None, "system"), ("mimalloc", "mimalloc")])
def test_arrow_takes_the_allocator_of_the_system_or_of_the_environment(
    asked: str | None, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", "")  # so that it is as it was again at the end
    monkeypatch.delenv("ARROW_DEFAULT_MEMORY_POOL")
    if asked is not None:
        monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", asked)
    share_one_heap()
    assert os.environ["ARROW_DEFAULT_MEMORY_POOL"] == taken
