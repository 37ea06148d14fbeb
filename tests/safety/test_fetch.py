"""Fetching a picture from an address, against real servers on this machine."""

import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from urllib.parse import unquote

import pytest
from PIL import Image as PILImage

from tests.safety import evil
from vlmtool.chat.terminal import obey
from vlmtool.data.remote_image import fetch_picture
from vlmtool.utils import fetch as fetching
from vlmtool.utils.errors import DataError, UsageError
from vlmtool.utils.fetch import fetch, is_address, is_public


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers by the path that was asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        name, _, argument = self.path.lstrip("/").partition("/")
        getattr(self, name.partition("?")[0])(argument)

    def picture(self, _: str) -> None:
        self.answer(200, png())

    def bomb(self, _: str) -> None:
        self.answer(200, evil.png(50_000, 50_000))

    def page(self, _: str) -> None:
        self.answer(200, b"<!doctype html><p>Please log in", **{"Content-Type": "text/html"})

    def missing(self, _: str) -> None:
        self.answer(404, b"")

    def moved(self, to: str) -> None:
        self.answer(302, b"", Location=unquote(to))

    def loop(self, number: str) -> None:
        self.answer(307, b"", Location=f"/loop/{int(number) + 1}")

    def hops(self, left: str) -> None:
        self.answer(301, b"", Location=f"../hops/{int(left) - 1}" if int(left) else "/picture")

    def announces(self, size: str) -> None:
        self.start(200, **{"Content-Length": size})
        self.drip(b"x", 5)

    def short(self, _: str) -> None:
        self.start(200, **{"Content-Length": str(len(png()))})
        self.wfile.write(png()[:50])

    def endless(self, _: str) -> None:
        self.start(200)
        self.drip(b"x" * 2**16)

    def chunks(self, _: str) -> None:
        self.start(200, **{"Transfer-Encoding": "chunked"})
        self.drip(b"10000\r\n" + b"x" * 2**16 + b"\r\n")

    def slow(self, _: str) -> None:
        self.start(200)
        self.drip(b"x", every=0.05)

    def slowchunks(self, _: str) -> None:
        self.start(200, **{"Transfer-Encoding": "chunked"})
        self.drip(b"1\r\nx\r\n", every=0.05)

    def slowheaders(self, _: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self.drip(b"X: y\r\n", every=0.05)

    def silent(self, _: str) -> None:
        time.sleep(5)

    def garbage(self, _: str) -> None:
        self.wfile.write(b"\x00\xff no http\r\n\r\n")

    def unzip(self, _: str) -> None:
        assert self.headers["Accept-Encoding"] == "identity" and "Cookie" not in self.headers
        self.answer(200, png(), **{"Content-Encoding": "gzip"})

    def start(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        self.start(status, **headers, **{"Content-Length": str(len(content))})
        self.wfile.write(content)

    def drip(self, piece: bytes, times: int = 10**6, every: float = 0.0) -> None:
        try:
            for _ in range(times):
                self.wfile.write(piece)
                time.sleep(every)
        except OSError:
            self.server.left.set()  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.asked, server.left = [], threading.Event()  # type: ignore[attr-defined]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with serving() as server:
        yield server


@pytest.fixture
def at(server) -> Callable[[str], str]:
    return lambda path: f"http://127.0.0.1:{server.server_port}/{path}"


def test_a_picture_is_fetched_where_that_is_allowed(server, at):
    picture = fetch_picture(at("picture?size=1&q=a b#part"), allow_local=True)
    assert (picture.size, picture.mode, picture.getpixel((0, 0))) == ((40, 30), "RGB", (255, 0, 0))
    assert server.asked == ["/picture?size=1&q=a%20b"]
    assert fetch(at("hops/2"), allow_local=True) == png()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
        "240.0.0.1", "255.255.255.255", "[fe80::1]", "[fc00::1]", "[ff02::1]", "[2002:7f00:1::]", "[64:ff9b::7f00:1]",
        "[2001:0:7f00:1::]", "[::]", "[::127.0.0.1]",
    ],
)  # fmt: skip
def test_nothing_inside_the_network_is_asked(monkeypatch, host):
    monkeypatch.setattr(fetching, "_dial", lambda *_: pytest.fail("connected"))
    with pytest.raises(
        (UsageError, DataError)
    ) as caught:  # a host that this machine cannot resolve is not asked either
        fetch(f"http://{host}/picture")
    if isinstance(caught.value, UsageError):
        assert "--allow-local-urls" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("address", "is_ok"),
    [
        ("8.8.8.8", True), ("1.1.1.1", True), ("2606:4700:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("172.31.0.1", False), ("192.168.0.1", False), ("169.254.169.254", False), ("100.64.0.1", False),
        ("0.0.0.0", False), ("224.0.0.251", False), ("239.1.1.1", False), ("240.0.0.1", False), ("192.0.2.1", False),
        ("198.18.0.1", False), ("::1", False), ("::", False), ("fe80::1%eth0", False), ("fd00::1", False),
        ("ff02::1", False), ("::ffff:8.8.8.8", False), ("::ffff:127.0.0.1", False), ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::1", False), ("2001::1", False), ("2001:db8::1", False), ("fec0::1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_of_the_internet(address, is_ok):
    assert is_public(ip_address(address)) is is_ok


def test_one_local_place_among_public_ones_is_enough_to_refuse(monkeypatch):
    places = [(socket.AF_INET, 1, 6, "", (address, 80)) for address in ("8.8.8.8", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
    monkeypatch.setattr(fetching, "_dial", lambda *_: pytest.fail("connected"))
    with pytest.raises(UsageError, match="is at 127.0.0.1"):
        fetch("http://mixed.example/a.png")


def test_the_name_is_looked_up_once_and_that_place_is_asked(monkeypatch, server):
    """A name that is public when checked and local when connected to gains nothing."""
    looked_up = []

    def lookup(host: str, port: int, **_: object) -> list:
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8" if len(looked_up) == 1 else "127.0.0.1", port))]

    dialled = []

    def dial(places: list, deadline: float) -> socket.socket:
        dialled.extend(place for _, place in places)
        here = socket.socket()
        here.connect(("127.0.0.1", server.server_port))
        return here

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(fetching, "_dial", dial)
    assert fetch("http://rebinding.example/picture") == png()
    assert dialled == [("8.8.8.8", 80)] and looked_up == ["rebinding.example"]


def test_each_redirect_is_checked_anew(monkeypatch, at, server):
    """The first host passes for public; where it leads to does not."""
    real = fetching._resolve
    hosts = []

    def resolve(parts, allow_local):
        hosts.append(parts.hostname)
        return real(parts, allow_local or len(hosts) == 1)

    monkeypatch.setattr(fetching, "_resolve", resolve)
    for target in (at("picture"), "http://[::1]/", "http://169.254.169.254/latest", "//127.0.0.1/x", "/picture"):
        hosts.clear()
        with pytest.raises((UsageError, DataError), match="inside this machine's network|cannot be fetched"):
            fetch(at(f"moved/{target}"))
        assert len(hosts) == 2
    assert all(path.startswith("/moved/") for path in server.asked)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("file:///etc/passwd", "only http and https"), ("ftp://x/a", "only http and https"),
        ("gopher://127.0.0.1/x", "only http and https"), ("http://user:secret@127.0.0.1/", "user or password"),
    ],
)  # fmt: skip
def test_other_schemes_and_passwords_are_refused_wherever_they_stand(at, target, said):
    for url in (target, at(f"moved/{target}")):
        with pytest.raises(UsageError, match=said) as caught:
            fetch(url, allow_local=True)
        assert "secret" not in str(caught.value).replace(at("moved/"), "")


@pytest.mark.parametrize(
    "url", ["http://", "http:///a", "http://[::1/a", "http://a:99999/", "http://a:0/", "http://a:b/"]
)
def test_what_is_no_address_is_a_usage_error(url):
    with pytest.raises(UsageError, match="not an address"):
        fetch(url)


def test_a_redirect_to_no_address_is_the_servers_fault(at):
    with pytest.raises(DataError, match="redirects to what is no address"):
        fetch(at("moved/http://["), allow_local=True)


@pytest.mark.parametrize(
    "url", ["http://" + "a" * 300 + "/", "http://no-such-host.invalid/", "http://a b/", "http://\x00/"]
)
def test_a_host_that_is_not_there_is_told(url):
    with pytest.raises((DataError, UsageError)) as caught:
        fetch(url)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_request_line_cannot_be_broken(server, at):
    assert fetch(at("picture/\u00e4?x=1 HTTP/1.1\\r"), allow_local=True) == png()
    assert server.asked == ["/picture/%C3%A4?x=1%20HTTP/1.1%5Cr"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("announces/10000000000", "larger than 1 MiB"), ("endless", "larger than 1 MiB"),
        ("chunks", "larger than 1 MiB"), ("missing", "404"), ("loop/1", "more than 3 redirects"),
        ("hops/4", "more than 3 redirects"),
        ("short", "ended after 50 of"), ("garbage", "cannot be fetched"),
    ],
)  # fmt: skip
def test_too_large_or_odd_answers_are_errors(at, path, said):
    with pytest.raises(DataError, match=said) as caught:
        fetch(at(path), allow_local=True, max_bytes=2**20, seconds=10)
    assert len(str(caught.value).splitlines()) <= 3 and "give the path" in str(caught.value)


@pytest.mark.parametrize("path", ["slow", "slowchunks", "slowheaders", "silent", "announces/1000"])
def test_a_slow_answer_is_cut_at_the_deadline(at, path):
    start = time.monotonic()
    with pytest.raises(DataError, match="did not come in time" if path != "announces/1000" else "ended after|in time"):
        fetch(at(path), allow_local=True, seconds=0.5)
    assert time.monotonic() - start < 2


def test_redirects_share_one_deadline(at, monkeypatch):
    monkeypatch.setattr(Handler, "loop", lambda self, number: (time.sleep(0.3), Handler.hops(self, "3")))
    with pytest.raises(DataError, match="in time|redirects"):
        fetch(at("loop/1"), allow_local=True, seconds=0.2)


def test_a_host_that_never_answers_is_left(monkeypatch):
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    port = listener.getsockname()[1]
    start = time.monotonic()
    for scheme in ("http", "https"):
        with pytest.raises(DataError, match="did not come in time"):
            fetch(f"{scheme}://127.0.0.1:{port}/", allow_local=True, seconds=0.4)
    assert time.monotonic() - start < 3
    listener.close()
    with pytest.raises(DataError, match="cannot be fetched: .*refused"):
        fetch(f"http://127.0.0.1:{port}/", allow_local=True)


def test_a_host_that_does_not_even_accept_is_left():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    waiting = [socket.socket() for _ in range(4)]
    for other in waiting:  # they fill its queue
        other.setblocking(False)
        other.connect_ex(listener.getsockname())
    start = time.monotonic()
    with pytest.raises(DataError, match="did not come in time"):
        fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/", allow_local=True, seconds=0.4)
    assert time.monotonic() - start < 2
    for each in (listener, *waiting):
        each.close()


def test_proxies_are_not_used(monkeypatch, at):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch(at("picture"), allow_local=True) == png()


def test_nothing_is_unpacked(at):
    assert fetch(at("unzip"), allow_local=True) == png()


def test_what_is_fetched_must_be_a_picture(at):
    with pytest.raises(DataError, match="it is an HTML page"):
        fetch_picture(at("page"), allow_local=True)
    with pytest.raises(DataError, match="2,500,000,000 pixels"):
        fetch_picture(at("bomb"), allow_local=True)


def test_a_certificate_must_be_the_hosts(tmp_path):
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(context) as server, pytest.raises(DataError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(f"https://127.0.0.1:{server.server_port}/picture", allow_local=True, seconds=5)


def test_https_is_read_where_the_certificate_is_known(tmp_path, monkeypatch):
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    with serving(context) as server:
        assert fetch(f"https://localhost:{server.server_port}/picture", allow_local=True, seconds=5) == png()
        with pytest.raises(DataError, match="did not come in time"):
            fetch(f"https://localhost:{server.server_port}/slow", allow_local=True, seconds=0.5)


def make_certificate(folder) -> tuple[str, str]:
    import subprocess

    certificate, key = str(folder / "c.pem"), str(folder / "k.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    try:
        done = subprocess.run(
            [*command, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"], capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("needs the openssl program")
    assert done.returncode == 0, done.stderr
    return certificate, key


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("http://a", True),
        ("HTTPS://a", True),
        ("file:///a", True),
        ("a.jpg", False),
        ("C:\\a.jpg", False),
        ("a/b:c", False),
    ],
)
def test_what_looks_like_an_address(name, answer):
    assert is_address(name) is answer


def test_the_chats_command_fetches(at):
    class Session:
        def __init__(self):
            self.images = []

        def add_image(self, image):
            self.images.append(image)

    session = Session()
    note = obey(session, "/image", at("picture"), allow_local_urls=True)  # type: ignore[arg-type]
    assert session.images[0].size == (40, 30) and "goes with the next question" in note
    with pytest.raises(UsageError, match="--allow-local-urls"):
        obey(session, "/image", at("picture"))  # type: ignore[arg-type]
    assert len(session.images) == 1
