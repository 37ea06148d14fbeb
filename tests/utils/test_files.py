"""Files and folders that are written whole or not at all, whenever the process is killed; JSON that others wrote."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlmtool.utils import files
from vlmtool.utils.errors import CheckpointError
from vlmtool.utils.files import (
    aside,
    atomic_path,
    leftovers,
    read_json,
    read_json_object,
    remove,
    sync,
    write_json,
    write_text,
)

# Replaces a folder, and dies at the line whose number it is given, of those that run in files.py and in shutil, which
# deletes: before that line, as a kill between two calls of the system would.
REPLACE = """
import os, signal, sys
from pathlib import Path
from vlmtool.utils.files import atomic_path

def write(folder, content):
    (folder / "sub").mkdir(parents=True)
    for name in ("a", "sub/b"):
        (folder / name).write_text(content)

def killed_at(number, target):
    lines = 0
    def trace(frame, event, argument):
        nonlocal lines
        if frame.f_code.co_filename.endswith(("utils/files.py", "shutil.py")):
            lines += event == "line"
            if lines == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace
        return None
    sys.settrace(trace)
    with atomic_path(target) as temporary:
        write(temporary, "new")

root, number = Path(sys.argv[1]), 1
while True:
    target = root / str(number) / "hf"
    write(target, "old")
    child = os.fork()
    if child == 0:
        killed_at(number, target)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    number += 1
print(number)
"""


def content_of(folder: Path) -> dict[str, str]:
    return {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()}


def filled(folder: Path, content: str) -> Path:
    (folder / "sub").mkdir(parents=True)
    for name in ("a", "sub/b"):
        (folder / name).write_text(content)
    return folder


OLD, NEW = ({"a": content, "sub/b": content} for content in ("old", "new"))


def test_a_kill_at_any_line_leaves_the_old_folder_or_the_new_one(tmp_path):
    done = subprocess.run([sys.executable, "-c", REPLACE, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    num_lines = int(done.stdout)
    found = []
    for number in range(1, num_lines):
        target = tmp_path / str(number) / "hf"
        stands = target if target.exists() else aside(target)
        assert content_of(stands) in (OLD, NEW), number
        if aside(target).exists():  # never half-deleted: it could be put back
            assert content_of(aside(target)) == OLD, number
        found.append((stands == target, content_of(stands) == NEW))
        # The next start, which fails before it has written anything: what stood comes back under its name.
        with pytest.raises(KeyError), atomic_path(target):
            raise KeyError
        assert content_of(target) == (NEW if found[-1][1] else OLD) and not aside(target).exists()
    assert content_of(tmp_path / str(num_lines) / "hf") == NEW
    assert [path.name for path in (tmp_path / str(num_lines)).iterdir()] == ["hf"]
    assert set(found) == {(True, False), (False, False), (True, True)}  # before, between and after the renames


@pytest.mark.parametrize("broken", [1, 2])
def test_a_rename_that_fails_leaves_the_old_folder(tmp_path, monkeypatch, broken):
    target, replace, calls = filled(tmp_path / "hf", "old"), os.replace, []

    def fails(source: Path, to: Path) -> None:
        calls.append(source)
        if len(calls) == broken:
            raise OSError(28, "No space left on device")
        replace(source, to)

    monkeypatch.setattr(files.os, "replace", fails)
    with pytest.raises(OSError, match="No space"), atomic_path(target) as temporary:
        filled(temporary, "new")
    assert content_of(target) == OLD and [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_file_does_not_replace_a_folder(tmp_path):
    target = filled(tmp_path / "hf", "old")
    with pytest.raises(IsADirectoryError):
        write_text(target, "new")
    assert content_of(target) == OLD and [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_link_to_a_folder_is_replaced_not_followed(tmp_path):
    elsewhere = filled(tmp_path / "elsewhere", "old")
    (tmp_path / "hf").symlink_to(elsewhere)
    with atomic_path(tmp_path / "hf") as temporary:
        filled(temporary, "new")
    assert content_of(tmp_path / "hf") == NEW and content_of(elsewhere) == OLD


def test_all_of_a_folder_is_flushed_though_it_is_read_only(tmp_path, monkeypatch):
    folder = filled(tmp_path / "hf", "old")
    (folder / "a").chmod(0o444)
    opened, flushed = {}, []
    real_open, real_fsync = os.open, os.fsync

    def watched(path, flags, *rest):
        assert flags & (os.O_WRONLY | os.O_RDWR) == 0  # which the system would refuse, though not to root
        descriptor = real_open(path, flags, *rest)
        opened[descriptor] = Path(path)
        return descriptor

    monkeypatch.setattr(files.os, "open", watched)
    monkeypatch.setattr(files.os, "fsync", lambda number: (flushed.append(opened[number]), real_fsync(number)))
    sync(folder)
    assert set(flushed) == {folder, folder / "a", folder / "sub", folder / "sub" / "b"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "Expecting"), ("", "Expecting"), (b"\xff\xfe\xfa", "codec"), ("[" * 100_000, "nested too deep"),
        ("[1]", "no JSON object"),
    ],
)  # fmt: skip
def test_what_is_no_object_is_told(tmp_path, content, said):
    file = tmp_path / "config.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=said) as caught:
        read_json_object(file)
    assert str(caught.value).startswith(f"{file}: ") and len(str(caught.value).splitlines()) == 2
    remove(file)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json_object(file)


def test_json_is_read_as_it_was_written(tmp_path):
    value = {"ä": [1, 2.5, None, {"b": "\u2028"}]}
    for mark in (b"", b"\xef\xbb\xbf"):  # editors of Windows put a mark before it
        (tmp_path / "a.json").write_bytes(mark + json.dumps(value, ensure_ascii=False).encode())
        assert read_json(tmp_path / "a.json") == read_json_object(tmp_path / "a.json") == value


def test_a_number_that_is_none_is_null(tmp_path):
    numbers = [math.nan, math.inf, -math.inf, 1e308, True, "nan"]
    write_json(tmp_path / "a.json", {"a": numbers, "b": {"c": (math.nan,)}})
    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert found == {"a": [None, None, None, 1e308, True, "nan"], "b": {"c": [None]}}
    assert math.isnan(numbers[0])  # the values themselves stay


def test_only_leftovers_of_dead_processes_are_found(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    number = int(dead.stdout)
    names = (
        f".hf.tmp{number}", f".hf.tmp{os.getpid()}", f".hf2.tmp{number}", f"hf.tmp{number}", f".hf.tmp{number}x",
        ".hf.tmp", ".hf.vlmtool-old", "hf", f".xhf.tmp{number}",
    )  # fmt: skip
    for name in names:
        (tmp_path / name).mkdir()
    assert leftovers(tmp_path / "hf") == [tmp_path / names[0]]
    assert leftovers(tmp_path / "none" / "hf") == []
