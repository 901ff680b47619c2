"""The environment's proxy variables and a URL into the proxy that leads there. Pure.

As curl reads them: HTTP_PROXY, HTTPS_PROXY by the URL's scheme, else ALL_PROXY; NO_PROXY names hosts and domains that
are reached directly; lower-case names win, and an empty one is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from batchrun.errors import JobError


def proxy_for(base_url: str, environ: Mapping[str, str]) -> str | None:
    """Return the URL of the proxy to use for `base_url`, None where it is reached directly.

    The result may hold a password. Raises JobError, which never quotes it, where it is no HTTP proxy.
    """
    url = urlsplit(base_url)
    host = url.hostname or ""
    given = {name.lower(): (name, value) for name, value in environ.items() if name.lower().endswith("_proxy")}
    given |= {name: (name, value) for name, value in environ.items() if name.endswith("_proxy")}
    name, proxy = given.get(f"{url.scheme}_proxy", ("", ""))
    if not proxy:
        name, proxy = given.get("all_proxy", ("", ""))
    if not proxy or _is_direct(host, url.port, given.get("no_proxy", ("", ""))[1]):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(proxy)
        is_right = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_right = False
    if not is_right or not proxy.isprintable():
        raise JobError(f"the variable {name}: expected an http:// or https:// URL of a proxy")
    return proxy


def _is_direct(host: str, port: int | None, no_proxy: str) -> bool:
    """Say whether NO_PROXY names the host, with or without its port, or a domain that it lies in."""
    names = {name.strip().lower().lstrip(".").strip("[]") for name in no_proxy.split(",")} - {""}
    return any(name == "*" or f".{one}".endswith(f".{name}") for name in names for one in (host, f"{host}:{port}"))
