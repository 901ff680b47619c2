"""A worker process does as it is told to its very end, which is when whoever leads it hangs up."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import msgspec
from e2e_tools import job_file, prompts, write_rows

from batchrun.engine.messages import Begin, Ended, NoMoreParts, Order, Recall, Returned, Word
from batchrun.engine.shares import whole_share
from batchrun.engine.work import work
from batchrun.events import Unwatched
from batchrun.execution.around import Access
from batchrun.execution.opening import open_run
from batchrun.job.load import load_job
from batchrun.job.options import RunOptions

NOWHERE = "http://127.0.0.1:9/v1"
PATIENCE_S = 60


class Holder:
    """One end of a channel, used without a loop."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.settimeout(PATIENCE_S)

    def tell(self, order: Order) -> None:
        content = msgspec.msgpack.encode(order)
        self._end.sendall(len(content).to_bytes(4, "big") + content)

    def hear(self) -> Word:
        return msgspec.msgpack.decode(self._bytes(int.from_bytes(self._bytes(4), "big")), type=Word)

    def hear_until(self, last: type[Word]) -> list[Word]:
        heard = [self.hear()]
        while not isinstance(heard[-1], last):
            heard.append(self.hear())
        return heard

    def _bytes(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            some = self._end.recv(count - len(content))
            assert some, "the worker has hung up"
            content += some
        return content


def test_a_worker_listens_until_its_holder_hangs_up(tmp_path: Path) -> None:
    """Else what the holder writes to it meanwhile would fail, and with it what it has not read: that all went well."""
    write_rows(tmp_path, prompts(3))
    job = load_job(
        str(
            job_file(
                tmp_path,
                endpoint={"base_url": NOWHERE},
                request={"max_tokens": 1},
                price={"input": 1, "output": 1},
                limits={"max_cost_usd": 1},
            )
        )
    )
    ours, theirs = socket.socketpair()
    with ours, open_run(job, RunOptions(processes=2), Unwatched()) as run:
        working = threading.Thread(target=work, args=(run, [Access()], 1, theirs), daemon=True)
        working.start()
        holder = Holder(ours)
        holder.tell(Begin(urls=(NOWHERE,), share=whole_share(job), slots=(None,), is_first=True))
        holder.tell(NoMoreParts())
        ended = holder.hear_until(Ended)[-1]
        assert isinstance(ended, Ended)
        assert (ended.endings, ended.fault) == ([], None)
        holder.tell(Recall())
        assert isinstance(holder.hear(), Returned)
        ours.close()
        working.join(PATIENCE_S)
        assert not working.is_alive()
