"""`vlmtool data fetch` from a server on this machine: what comes, what goes on, what is refused."""

import hashlib
import io
import json
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mmengine.config import Config

from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.data.data_sets import read_sources
from vlmtool.evaluation.catalog import benchmark_classes, find_data
from vlmtool.utils import download as downloading
from vlmtool.utils.download import download
from vlmtool.utils.errors import DataError
from vlmtool.utils.unpack import unpack

BODY = bytes(range(256)) * 400  # 102,400 bytes
ROOT = Path(__file__).parents[2]


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`; `server.cuts` are the bytes after which the next answers end."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range", "")
        server.asked.append((self.path, asked))  # type: ignore[attr-defined]
        body = server.files.get(self.path)  # type: ignore[attr-defined]
        self.close_connection = True
        if body is None:
            self.send_response(404)
            self.end_headers()
            return
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        start = int(asked[6:-1]) if asked and self.headers.get("If-Range") == tag else 0
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        if self.path.endswith(".html"):
            self.send_header("Content-Type", "text/html; charset=utf-8")
        if server.tags:  # type: ignore[attr-defined]
            self.send_header("ETag", tag)
        self.end_headers()
        length = server.cuts.pop(0) if server.cuts else len(body)  # type: ignore[attr-defined]
        self.wfile.write(body[start : start + length])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.files, server.asked, server.cuts, server.tags = {}, [], [], True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def at(server) -> Callable[[str], str]:
    return lambda path: f"http://127.0.0.1:{server.server_port}/{path}"


@pytest.fixture
def fetch(tmp_path, at, capsys):
    """`fetch(files, "name", "--option")` runs the command on a list of its own; urls are paths of the server."""

    def run(files: dict[str, dict], *options: str, code: int = 0, local: bool = True) -> tuple[str, str]:
        entries = {
            name: {**entry, "url": at(entry["url"])} if "url" in entry else entry for name, entry in files.items()
        }
        sets = {"all": {"what": "Everything", "page": "https://x.org", "licence": "none", "files": list(files)}}
        (tmp_path / "list.json").write_text(json.dumps({"files": entries, "sets": sets}))
        arguments = ["data", "fetch", "all", "--sources", str(tmp_path / "list.json"), "--into", str(tmp_path / "data")]
        extra = ["--allow-local-urls"] if local else []
        assert invoke(app, [*arguments, *extra, *options], debug=False) == code
        out, err = capsys.readouterr()
        assert len(err.splitlines()) <= 3
        return out, err

    return run


def zipped(files: dict[str, bytes], link: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# Downloading


def test_a_download_that_breaks_goes_on_where_it_stopped(server, at, tmp_path):
    server.files["/a"], server.cuts = BODY, [1000, 50_000]
    seen: list[tuple[int, int | None]] = []
    download(at("a"), tmp_path / "a", allow_local=True, progress=lambda *now: seen.append(now))
    assert (tmp_path / "a").read_bytes() == BODY and names(tmp_path) == ["a"]
    assert server.asked == [("/a", ""), ("/a", "bytes=1000-"), ("/a", "bytes=51000-")]
    assert seen[-1] == (len(BODY), len(BODY))


def test_a_later_call_goes_on_and_a_changed_file_begins_anew(server, at, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "TRIES", 1)
    server.files["/a"], server.cuts = BODY, [1000, 0]
    with pytest.raises(DataError, match="ended after 1,000 of 102,400 bytes.\nRun the command again"):
        download(at("a"), tmp_path / "a", allow_local=True)
    assert not (tmp_path / "a").exists() and (tmp_path / "a.part").read_bytes() == BODY[:1000]
    download(at("a"), tmp_path / "a", allow_local=True)
    assert (tmp_path / "a").read_bytes() == BODY and server.asked[-1] == ("/a", "bytes=1000-")

    server.files["/b"], server.cuts = BODY, [1000, 0]
    with pytest.raises(DataError):
        download(at("b"), tmp_path / "b", allow_local=True)
    server.files["/b"] = other = BODY[::-1]
    download(at("b"), tmp_path / "b", allow_local=True)
    assert (tmp_path / "b").read_bytes() == other and server.asked[-1] == ("/b", "bytes=1000-")


def test_without_a_tag_every_try_begins_anew(server, at, tmp_path):
    server.files["/a"], server.cuts, server.tags = BODY, [1000], False
    download(at("a"), tmp_path / "a", allow_local=True)
    assert (tmp_path / "a").read_bytes() == BODY and server.asked == [("/a", ""), ("/a", "")]


def test_a_part_that_is_whole_already_is_taken(server, at, tmp_path):
    server.files["/a"] = BODY
    (tmp_path / "a.part").write_bytes(BODY)
    (tmp_path / "a.part.etag").write_text(f'"{hashlib.md5(BODY).hexdigest()}"')
    download(at("a"), tmp_path / "a", allow_local=True, hashes={"sha256": hashlib.sha256(BODY).hexdigest()})
    assert names(tmp_path) == ["a"] and server.asked == [("/a", f"bytes={len(BODY)}-")]


@pytest.mark.parametrize(
    ("known", "said"),
    [({"size": 3}, "has 102,400 bytes, not 3"), ({"hashes": {"sha256": "0" * 64}}, "has the sha256"),
     ({"hashes": {"md5": "0" * 32}}, "has the md5")],
)  # fmt: skip
def test_what_is_not_as_published_is_deleted(server, at, tmp_path, known, said):
    server.files["/a"] = BODY
    with pytest.raises(DataError, match=said):
        download(at("a"), tmp_path / "a", allow_local=True, **known)
    assert not (tmp_path / "a").exists() and not (tmp_path / "a.part").exists()


def test_a_web_page_is_no_file(server, at, tmp_path):
    server.files["/login.html"] = b"<html>Log in"
    with pytest.raises(DataError, match="a web page came"):
        download(at("login.html"), tmp_path / "a", allow_local=True)
    assert names(tmp_path) == []


def test_a_disk_that_is_too_small_is_known_before_the_first_byte(server, at, tmp_path, monkeypatch):
    server.files["/a"] = BODY
    monkeypatch.setattr(downloading, "SPARE", 10**18)
    with pytest.raises(DataError, match="are free"):
        download(at("a"), tmp_path / "a", allow_local=True)
    assert not (tmp_path / "a.part").exists()


# Unpacking


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "C:/x", "a\\..\\x"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_with_names_that_lead_elsewhere_are_refused(tmp_path, name, kind):
    path = tmp_path / f"evil.{kind}"
    if kind == "zip":
        path.write_bytes(zipped({"good": b"1", name: b"2"}))
    else:
        with tarfile.open(path, "w") as tar:
            for member in ("good", name):
                tar.addfile(tarfile.TarInfo(member), io.BytesIO())
    with pytest.raises(DataError, match="refused, nothing was unpacked"):
        unpack(path, tmp_path / "out")
    assert names(tmp_path) == [path.name]


def test_links_are_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"good": b"1"}, link="l"))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("l")
        info.type, info.linkname = tarfile.LNKTYPE, "/etc/passwd"
        tar.addfile(info)
    for name in ("a.zip", "a.tar"):
        with pytest.raises(DataError, match="is a link"):
            unpack(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_limits_are_those_of_the_index(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"a": bytes(10**6), "b": b""}))
    for limits in ({"max_files": 1}, {"max_bytes": 999_999}):
        with pytest.raises(DataError, match="the limit is"):
            unpack(tmp_path / "a.zip", tmp_path / "out", **limits)
    assert unpack(tmp_path / "a.zip", tmp_path / "out", max_files=2, max_bytes=10**6) == 2


def test_a_damaged_archive_is_told(tmp_path):
    good = zipped({"a": BODY})
    for content in (good[:-40], good.replace(BODY[:1], b"x"), b"<html>Log in</html>"):
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(DataError, match="cannot be unpacked"):
            unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_top_folder_of_the_same_name_is_left_out_and_others_are_kept(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"images/1.jpg": b"1", "images/sub/2.jpg": b"2", "__MACOSX/x": b""}))
    assert unpack(tmp_path / "a.zip", tmp_path / "images") == 2
    assert names(tmp_path / "images") == ["1.jpg", "sub/2.jpg"]
    unpack(tmp_path / "a.zip", tmp_path / "other", only="*/2.jpg")
    assert names(tmp_path / "other") == ["images/sub/2.jpg"]


# The command


def test_a_data_set_is_fetched_laid_out_and_not_fetched_again(server, fetch, tmp_path):
    server.files |= {"/q.json": b"[]", "/i.zip": zipped({"images/a.jpg": b"a", "images/b.jpg": b"b"})}
    files = {"q": {"url": "q.json", "to": "set/q.json", "md5": hashlib.md5(b"[]").hexdigest()},
             "i": {"url": "i.zip", "unpack": "set/images"}}  # fmt: skip
    out, _ = fetch(files, "--dry-run")
    assert f"fetch: {tmp_path}/data/set/q.json" in out and server.asked == [] and not (tmp_path / "data").exists()
    out, _ = fetch(files)
    assert names(tmp_path / "data") == ["set/images/a.jpg", "set/images/b.jpg", "set/q.json"]
    assert out.endswith("all: complete.\n")
    number = len(server.asked)
    out, _ = fetch(files)
    assert len(server.asked) == number == 2 and out.count("there: ") == 2


def test_an_archive_that_somebody_put_there_is_unpacked(server, fetch, tmp_path):
    (tmp_path / "data" / "set").mkdir(parents=True)
    (tmp_path / "data" / "set" / "images.zip").write_bytes(zipped({"a.jpg": b"a"}))
    fetch({"i": {"url": "gone.zip", "unpack": "set/images"}})
    assert names(tmp_path / "data") == ["set/images/a.jpg"] and server.asked == []


def test_an_unpacking_that_was_broken_off_is_done_again(server, fetch, tmp_path):
    """The archive is still there, so the folder is not complete, though it is filled."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "a.jpg").write_bytes(b"a")
    (tmp_path / "data" / "images.zip").write_bytes(zipped({"a.jpg": b"a", "b.jpg": b"bb"}))
    fetch({"i": {"url": "gone.zip", "unpack": "images"}})
    assert names(tmp_path / "data") == ["images/a.jpg", "images/b.jpg"]


def test_offline_says_what_to_download_and_where_to_put_it(server, fetch, tmp_path):
    server.files["/b"] = b"b"
    files = {"a": {"url": "gone.zip", "unpack": "set/a"}, "b": {"url": "b", "to": "b"}}
    out, err = fetch(files, code=1)
    assert "/gone.zip: the server answers 404" in err
    assert f"download that address by hand to {tmp_path / 'data' / 'set' / 'a.zip'}" in err
    assert f"done: {tmp_path / 'data' / 'b'}" in out  # one that fails does not hinder the others


def test_a_wrong_hash_or_an_evil_archive_is_an_error(server, fetch, tmp_path):
    server.files |= {"/a": b"a", "/e.zip": zipped({"../../evil": b"x"})}
    _, err = fetch({"a": {"url": "a", "to": "a", "sha256": "0" * 64}}, code=1)
    assert "has the sha256" in err
    _, err = fetch({"e": {"url": "e.zip", "unpack": "e"}}, code=1)
    assert "leaves the folder" in err
    assert not any(name.endswith("evil") for name in names(tmp_path))


def test_what_is_done_by_hand_is_told_and_keeps_the_exit_code_at_1(fetch, tmp_path):
    files = {"h": {"to": "hand", "by_hand": "Ask the authors."}}
    out, err = fetch(files, code=1)
    assert "Ask the authors." in out and "1 of 1 are left to be done by hand" in err
    (tmp_path / "data" / "hand").mkdir(parents=True)
    (tmp_path / "data" / "hand" / "x").write_text("x")
    fetch(files)


def test_local_addresses_need_leave(server, fetch):
    server.files["/a"] = b"a"
    _, err = fetch({"a": {"url": "a", "to": "a"}}, code=2, local=False)
    assert "--allow-local-urls" in err and server.asked == []


@pytest.mark.parametrize(
    ("entry", "said"),
    [({"url": "a", "to": "../a"}, "leaves the folder"), ({"url": "a"}, "give either to or unpack"),
     ({"to": "a"}, "give either url or by_hand"), ({"url": "a", "to": "a", "sha": "1"}, "Extra inputs")],
)  # fmt: skip
def test_a_wrong_list_is_told(fetch, entry, said):
    _, err = fetch({"a": entry}, code=2)
    assert said in err


def test_wrong_names_are_told(capsys):
    assert invoke(app, ["data", "fetch", "llava_mix"], debug=False) == 2
    assert "Did you mean 'llava_mix665k'?" in capsys.readouterr().err
    assert invoke(app, ["data", "fetch"], debug=False) == 2
    assert "llava_mix665k" in capsys.readouterr().err


# The shipped list


def test_the_list_tells_everything_of_every_set(capsys):
    assert invoke(app, ["data", "fetch", "--list"], debug=False) == 0
    out = capsys.readouterr().out
    for name, data_set in read_sources().sets.items():
        assert f"{name}: {data_set.what}\n  {data_set.page}\n  licence: {data_set.licence}\n" in out


def test_places_and_hashes_of_the_shipped_list_are_well_formed():
    sources = read_sources()
    places = [source.file for source in sources.files.values()]
    assert len(set(places)) == len(places)
    for name, source in sources.files.items():
        assert source.url is None or source.url.startswith(("https://", "http://images.cocodataset.org/")), name
        assert all(len(digest) == {"md5": 32, "sha256": 64}[kind] for kind, digest in source.hashes.items()), name
    assert {name for data_set in sources.sets.values() for name in data_set.files} == set(sources.files)


@pytest.mark.parametrize("name", ["llava_lcs_558k", "llava_mix665k"])
def test_recipes_find_what_is_fetched(name):
    data = Config.fromfile(str(ROOT / "vlmtool" / "configs" / "_base_" / "data" / f"{name}.py"))["data"]
    _, files = read_sources().of(name)
    places = [Path("data") / source.place for source in files]
    assert Path(data["path"]) in places
    assert all(place.is_relative_to(data["image_folder"]) for place in places if place != Path(data["path"]))


@pytest.mark.parametrize(
    "name", ["mmbench", "pope", "mme", "gqa", "scienceqa", "textvqa", "vizwiz", "mmvet", "refcoco"]
)
def test_benchmarks_find_what_is_fetched(name, tmp_path):
    """Files as the list lays them out, found by `vlmtool eval all --data-root`."""
    inside = {
        "gqa_questions": "testdev_balanced_questions.json",
        "mmvet": "mm-vet.json",
        "vizwiz.annotations": "val.json",
    }
    sources = read_sources()
    for file in sources.sets[name].files:
        source = sources.files[file]
        place = tmp_path / source.place
        path = place / inside.get(file, "x") if source.unpack or source.by_hand else place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_data(benchmark_classes()[name], tmp_path)
