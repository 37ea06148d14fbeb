"""The whole demo through its real command, held to what it promises. Five minutes: part of `make soak`."""

import json
import subprocess
import sys

import pytest


@pytest.mark.soak
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_keeps_its_promises(tmp_path, seed):
    command = [sys.executable, "-m", "vlmtool", "demo", "--work-dir", str(tmp_path / "demo"), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    proof = json.loads((tmp_path / "demo" / "proof.json").read_text())
    rows = {row["name"]: row for row in proof["rows"]}
    blind = rows["blind guess"]["vanilla"]
    assert proof["num_questions"] >= 600
    assert rows["after finetune"]["circular"] > 0.9 and proof["pairs"] > 0.85
    for name in ("random projector", "blank picture", "another question's picture"):
        assert max(rows[name]["circular"], rows[name]["vanilla"]) <= blind + 0.05, name
    stages = [rows[name] for name in ("random projector", "after pretrain", "after finetune")]
    for way in ("circular", "vanilla"):
        assert stages[0][way] < stages[1][way] < stages[2][way]
    scores = json.loads((tmp_path / "demo" / "mmbench" / "metrics.json").read_text())["scores"]
    assert scores["circular"]["Overall"] == rows["after finetune"]["circular"]
    assert (tmp_path / "demo" / "mmbench_blank" / "metrics.json").is_file()
