"""Fetch a small file from an address that somebody typed: bounded in time and size, and not from inside the network."""

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, TypeVar, cast
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from vlmtool.utils.errors import DataError, UsageError

MAX_BYTES = 32 * 2**20
SECONDS = 30.0  # for everything: redirects, headers and the last byte
MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_REMEDY = "Download it yourself and give the path of the file."
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")

# Where IPv6 hosts of the Internet live; 6to4 and Teredo in it wrap an IPv4 address, which could be a local one.
_GLOBAL_V6 = IPv6Network("2000::/3")
_WRAPPED_V4 = (IPv6Network("2001::/32"), IPv6Network("2002::/16"))

T = TypeVar("T")
Place = tuple[socket.AddressFamily, Any]  # what `socket.connect` takes, as the resolver gave it


def is_address(name: str) -> bool:
    """`name` begins like http://, or any other scheme."""
    return _SCHEME.match(name) is not None


def fetch(
    url: str,
    allow_local: bool = False,
    max_bytes: int = MAX_BYTES,
    seconds: float = SECONDS,
) -> bytes:
    """The content at an http or https address. No proxy is used, no cookie sent, no compressed answer taken.

    Args:
        allow_local: also from this machine and its network; otherwise only from the Internet.
        max_bytes: a longer answer is refused.
        seconds: for everything, redirects included.

    Raises:
        UsageError: another scheme, a password in the address, or a host inside the network.
        DataError: there is no answer, too late, too large, or one that says it has nothing.
    """
    return ask(url, lambda response: _read(response, max_bytes, url), allow_local, seconds)


def ask(
    url: str,
    take: Callable[[http.client.HTTPResponse], T],
    allow_local: bool,
    seconds: float,
    headers: Mapping[str, str] | None = None,
    statuses: Sequence[int] = (200,),
) -> T:
    """What `take` makes of the answer at an address; redirects are followed, and each is checked like the first.

    Args:
        seconds: for everything; besides, no wait for the next byte is longer than `SECONDS`.
        headers: beyond the usual ones.
        statuses: with which an answer is taken.

    Raises:
        UsageError, DataError: as `fetch` does; what `take` raises as an OSError is a DataError, too.
    """
    deadline = time.monotonic() + seconds
    at = url
    for _ in range(MAX_REDIRECTS + 1):
        taken, location = _get(at, take, allow_local, deadline, {**_HEADERS, **(headers or {})}, statuses)
        if location is None:
            return cast(T, taken)
        try:
            at = urljoin(at, location)
        except ValueError as error:
            raise DataError(f"{url}: redirects to what is no address: {error}.\n{_REMEDY}") from error
    raise DataError(f"{url}: more than {MAX_REDIRECTS} redirects.\n{_REMEDY}")


def _get(
    url: str,
    take: Callable[[http.client.HTTPResponse], T],
    allow_local: bool,
    deadline: float,
    headers: Mapping[str, str],
    statuses: Sequence[int],
) -> tuple[T | None, str | None]:
    """One request: what was taken of the answer, or where it has moved."""
    parts = _checked(url)
    is_expired = threading.Event()
    try:
        places = _resolve(parts, allow_local)
        with _connected(parts, places, deadline, is_expired) as connection:
            connection.request("GET", _target(parts), headers=dict(headers))
            response = connection.getresponse()
            if response.status in _REDIRECTS and (location := response.getheader("Location")):
                return None, location
            if response.status not in statuses:
                raise DataError(f"{url}: the server answers {response.status} {response.reason}.\n{_REMEDY}")
            taken = take(response)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if not is_expired.is_set() and not isinstance(error, TimeoutError):
            raise DataError(f"{url}: cannot be fetched: {error or type(error).__name__}.\n{_REMEDY}") from error
        is_expired.set()
    if is_expired.is_set():  # the connection was cut: an answer without a length would look complete
        raise DataError(f"{url}: the answer did not come in time.\n{_REMEDY}")
    return taken, None


_HEADERS = {
    "User-Agent": "vlmtool",
    "Accept": "image/*, */*;q=0.9",
    "Accept-Encoding": "identity",
    "Connection": "close",
}


def _checked(url: str) -> SplitResult:
    """The parts of an address that may be asked."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{url}: not an address: {error}.\nCheck it for typing errors.") from error
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"{url}: only http and https addresses are fetched.\n{_REMEDY}")
    if not parts.hostname or port == 0:
        raise UsageError(f"{url}: not an address: it names no host.\nCheck it for typing errors.")
    if "@" in parts.netloc:
        raise UsageError(f"{url.replace(parts.netloc, '…')}: addresses with a user or password are refused.\n{_REMEDY}")
    return parts


def _target(parts: SplitResult) -> str:
    """Path and query as a request line can hold them; what is quoted already stays."""
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    return path + ("?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?") if parts.query else "")


def _resolve(parts: SplitResult, allow_local: bool) -> list[Place]:
    """Where the host is; each place was checked, and connections go to these only, whatever the name means later."""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    places: list[Place] = [(family, place) for family, _, _, _, place in found]
    for _, place in places:
        if not allow_local and not is_public(ip_address(place[0])):
            raise UsageError(
                f"{parts.hostname} is at {place[0]}, inside this machine's network: not fetched.\n"
                "Download it yourself, or allow such addresses: --allow-local-urls."
            )
    return places


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """A host of the Internet: not this machine, its network, a group of hosts or a reserved range."""
    if isinstance(address, IPv6Address):
        is_host = address in _GLOBAL_V6 and not any(address in network for network in _WRAPPED_V4)
        return is_host and address.is_global
    return address.is_global and not address.is_multicast and not address.is_reserved


@contextmanager
def _connected(
    parts: SplitResult, places: list[Place], deadline: float, is_expired: threading.Event
) -> Iterator[http.client.HTTPConnection]:
    """A connection to one of `places`, which is cut at the deadline, however slowly bytes still come."""
    plain = _dial(places, deadline)
    stream, connection = plain, http.client.HTTPConnection(parts.hostname or "", parts.port)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        stream = context.wrap_socket(plain, server_hostname=parts.hostname, do_handshake_on_connect=False)
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, context=context)
    connection.sock = stream
    connection.auto_open = 0  # it would look the host up anew

    def cut() -> None:
        is_expired.set()
        with suppress(OSError):  # closed in the meantime
            socket.socket.shutdown(stream, socket.SHUT_RDWR)  # an SSL socket's own would end the encryption first

    alarm = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
    alarm.daemon = True
    alarm.start()
    try:
        if isinstance(stream, ssl.SSLSocket):
            stream.do_handshake()
        yield connection
    finally:
        alarm.cancel()
        connection.close()
        stream.close()


def _dial(places: list[Place], deadline: float) -> socket.socket:
    """A socket to the first of `places` that answers."""
    failure: OSError = TimeoutError()
    for family, place in places:
        if (left := deadline - time.monotonic()) <= 0:
            break
        candidate = socket.socket(family, socket.SOCK_STREAM)
        candidate.settimeout(min(left, SECONDS))
        try:
            candidate.connect(place)
            return candidate
        except OSError as error:
            candidate.close()
            failure = error
    raise failure


def _read(response: http.client.HTTPResponse, max_bytes: int, url: str) -> bytes:
    """The body, of which no more than the limit is ever held."""
    too_large = DataError(f"{url}: larger than {max_bytes / 2**20:.0f} MiB.\n{_REMEDY}")
    if response.length is not None and response.length > max_bytes:
        raise too_large
    length = response.length
    content = response.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise too_large
    if length is not None and len(content) < length:
        raise OSError(f"it ended after {len(content)} of {length} bytes")
    return content
