"""The surroundings of a run into what it may use: the key that the job names, and whether a proxy leads there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from batchrun.client.proxy import proxy_for
from batchrun.errors import JobError
from batchrun.execution.around import Access
from batchrun.job.lanes import LanePlan, lanes_of
from batchrun.job.settings import SIMULATOR, Job

_ROUND_A_KEY = " \t\r\n"


def access_of(job: Job, environ: Mapping[str, str]) -> tuple[Access, ...]:
    """Return for each lane the key that the job names, without a newline; raises JobError when it is not there.

    Proxy variables are followed where they name one for the lane's URL, and are refused where that is no HTTP proxy,
    or where the lane asks for the lean transport, which takes none; the simulator needs neither.
    """
    return tuple(_access(lane, environ) for lane in lanes_of(job))


def _access(lane: LanePlan, environ: Mapping[str, str]) -> Access:
    base_url = lane.endpoint.base_url
    if base_url == SIMULATOR:
        return Access()
    by_proxy = proxy_for(base_url, environ) is not None
    if by_proxy and lane.endpoint.transport == "lean":
        raise JobError(
            f'{lane.at}.transport: "lean" takes no proxy, but the environment names one for this URL; '
            'expected "auto" or "session", or the host in NO_PROXY'
        )
    return Access(key=_key(lane, environ), trust_env=by_proxy)


def _key(lane: LanePlan, environ: Mapping[str, str]) -> str | None:
    variable, file = lane.endpoint.api_key_env, lane.endpoint.api_key_file
    if variable is not None:
        where, text = f"the variable {variable} named by {lane.at}.api_key_env", environ.get(variable, "")
    elif file is not None:
        where = f"the file {file} named by {lane.at}.api_key_file"
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise JobError(f"{where} can't be read: {reason}") from None
    else:
        return None
    key = text.strip(_ROUND_A_KEY)
    if not key:
        raise JobError(f"{where} is not set or is empty")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise JobError(f"{where} holds characters that no key has; expected the key alone")
    return key
