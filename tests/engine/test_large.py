"""A data file of more than 64 MiB: the same training, from a table that is written once."""

import json
import os
import re
import subprocess

import pytest

from tests.engine.command import command, environment, start
from tests.engine.conftest import losses
from vlmtool.engine.tables import LARGE
from vlmtool.utils.errors import DataError, UsageError


@pytest.fixture(scope="module")
def large(standins, tmp_path_factory):
    """The stand-ins' records, with a field that nothing reads."""
    records = json.loads(standins.data.read_text())
    filling = "x" * (LARGE // len(records) + 1)
    path = tmp_path_factory.mktemp("large") / "data.json"
    path.write_text(json.dumps([{**record, "note": filling} for record in records]))
    assert path.stat().st_size > LARGE
    return path


def names(folder):
    return sorted(re.sub("^[0-9a-f]{16}", "", entry.name) for entry in folder.iterdir() if entry.name[0] != ".")


@pytest.mark.parametrize("more", [(), ("data.sampler='length'", "data.num_workers=1"), ("schedule.pack_to=600",)])
def test_the_steps_are_those_of_a_small_file(run, large, tmp_path, more):
    tables = tmp_path / "tables"
    more = (*more, "data.max_length=512")
    for name in ("once", "again"):
        run(name, f"data.path={str(large)!r}", f"data.tables={str(tables)!r}", *more)
        assert names(tables) == [".counts", ".records"]
    assert losses(tmp_path / "once") == losses(tmp_path / "again") == losses(run("small", *more))


def test_another_way_of_making_samples_has_counts_of_its_own(run, large, tmp_path):
    tables = f"data.tables={str(tmp_path / 'tables')!r}"
    for number, override in enumerate(["data.max_length=512", "data.max_length=500", "llm.template='plain'"]):
        run(f"{number}", f"data.path={str(large)!r}", tables, override, "schedule.max_steps=1")
    assert names(tmp_path / "tables") == [".counts"] * 3 + [".records"]


def test_two_processes_share_it(small, large, tmp_path):
    words = [f"data.path={str(large)!r}", f"data.tables={str(tmp_path / 'tables')!r}"]
    done = start(command(small, tmp_path / "two", *words), 2, 29683)
    assert done.returncode == 0, done.stderr
    assert names(tmp_path / "tables") == [".counts", ".records"]
    assert done.stderr.count("Counting data.json") <= 1


def test_a_kill_leaves_nothing_in_the_way(small, large, tmp_path):
    tables = tmp_path / "tables"
    words = command(small, tmp_path / "run", f"data.path={str(large)!r}", f"data.tables={str(tables)!r}")
    with subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        while not list(tables.glob(".*.tmp*")):
            assert killed.poll() is None, "it ended before it could be killed"
        killed.kill()
    assert list(tables.glob(".*.tmp*")) and not list(tables.glob("[!.]*"))
    done = start(words)
    assert done.returncode == 0, done.stderr
    assert names(tables) == [".counts", ".records"] and not list(tables.glob(".*.tmp*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_written_to(run, large, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match=r"data\.tables"):
        run("x", f"data.path={str(large)!r}", f"data.tables={str(tmp_path / 'tables')!r}")


def test_a_folder_that_is_a_file(run, large, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"data\.tables: '.*file'"):
        run("x", f"data.path={str(large)!r}", f"data.tables={str(tmp_path / 'file')!r}")


@pytest.mark.parametrize("which", [".records", ".counts"])
def test_a_damaged_table_is_told_and_made_anew_once_it_is_gone(run, large, tmp_path, which):
    words = [f"data.path={str(large)!r}", f"data.tables={str(tmp_path / 'tables')!r}", "schedule.max_steps=1"]
    run("x", *words)
    (file,) = (tmp_path / "tables").glob(f"*{which}")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="the table is damaged"):
        run("y", *words)
    file.unlink()
    run("z", *words)
    assert file.read_bytes() == whole
