"""What stands on a terminal, and in a log."""

import re

from vlmtool.utils.terminal import track


def test_progress_counts_what_an_item_is_worth(capsys, monkeypatch):
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr("vlmtool.utils.terminal.time.monotonic", lambda: next(clock))
    batches = [[1] * 16, [1] * 16, [1] * 8]
    assert list(track(batches, 40, "Encoding", every=1.0, count=len)) == batches
    assert re.findall(r"Encoding: (\d+)/40", capsys.readouterr().err) == ["16", "32", "40"]
