"""Calls in a thread beside the loop, which nobody waits for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from batchrun.execution.aside import Aside

FOR_EVER = """
import asyncio, threading
from batchrun.execution.aside import Aside

async def main():
    aside, begun = Aside("a"), threading.Event()
    call = asyncio.ensure_future(aside.call(lambda: begun.set() or threading.Event().wait()))
    await asyncio.to_thread(begun.wait)
    call.cancel()
    print("left")

asyncio.run(main())
"""


def test_calls_are_made_in_order_beside_the_loop_and_return_or_raise() -> None:
    async def main() -> None:
        aside = Aside("some name")
        made: list[int] = []
        answers = [asyncio.ensure_future(aside.call(lambda number=number: made.append(number))) for number in range(9)]
        await asyncio.gather(*answers)
        assert made == list(range(9))
        thread = await aside.call(threading.current_thread)
        assert (thread.name, thread.daemon) == ("some name", True)
        with pytest.raises(ZeroDivisionError):
            await aside.call(lambda: 1 // 0)
        assert await aside.call(lambda: "still there") == "still there"
        aside.close()
        await asyncio.to_thread(thread.join, 60)
        assert not thread.is_alive()

    asyncio.run(main())


def test_a_call_that_was_cancelled_is_told_to_nobody_and_holds_up_none_that_follows() -> None:
    async def main() -> None:
        aside, goes_on = Aside("a"), threading.Event()
        call = asyncio.ensure_future(aside.call(goes_on.wait))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        goes_on.set()
        assert await aside.call(lambda: 7) == 7
        aside.close()

    asyncio.run(main())


def test_a_call_that_never_ends_keeps_neither_the_loop_nor_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", FOR_EVER], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "left\n"), ended.stderr
