# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the HTTP proxy in the environment, by the rules of libcurl, which sends the engine's API calls."""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from pitr.errors import UsageError


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy: host and port, the environment variable that names it, and the value of its login header, if any."""

    address: str
    variable: str
    authorization: str | None = None

    @property
    def words(self) -> str:
        """The proxy for messages, without its password."""
        return f"proxy {self.address} (environment variable {self.variable})"

    @property
    def advice(self) -> str:
        """What to do if the engine is unreachable through the proxy."""
        return (
            f"If the engine needs no proxy, add its host to the variable no_proxy, or unset {self.variable}. Otherwise "
            "check the proxy."
        )


def proxy_for(url: str, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """Return the proxy for requests to `url`, None if it has none. Raises UsageError for a proxy that is not HTTP."""
    values = os.environ if environment is None else environment
    parts = urlsplit(url)
    # libcurl ignores HTTP_PROXY, which a client can set in a CGI program.
    names = ["http_proxy"] if parts.scheme == "http" else ["https_proxy", "HTTPS_PROXY"]
    variable = next((name for name in (*names, "all_proxy", "ALL_PROXY") if values.get(name)), None)
    if variable is None or _is_excepted(
        parts.hostname or "", values.get("no_proxy") or values.get("NO_PROXY") or ""
    ):
        return None
    text = values[variable]
    proxy = urlsplit(text if "://" in text else f"http://{text}")
    address = proxy.netloc.rpartition("@")[2]
    if proxy.scheme != "http" or not proxy.hostname:
        raise UsageError(
            f"the environment variable {variable} names a proxy of a type that pitr does not support: "
            f"{proxy.scheme}://{address}",
            f"Use an HTTP proxy (http://…), add the engine's host to no_proxy, or unset {variable}.",
        )
    login = None
    if proxy.username is not None:
        words = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        login = f"Basic {base64.b64encode(words.encode()).decode()}"
    return Proxy(address, variable, login)


def _is_excepted(host: str, exceptions: str) -> bool:
    """Return whether no_proxy names the host: *, the host itself, a domain that it is in, or a network."""
    for entry in exceptions.replace(",", " ").lower().split():
        name = entry.lstrip(".")
        if entry == "*" or host.lower() == name or host.lower().endswith(f".{name}"):
            return True
        if "/" in entry and _is_in_network(host, entry):
            return True
    return False


def _is_in_network(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
