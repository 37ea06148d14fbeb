"""The results page in a real browser, opened from its file; without Chromium on the machine this is skipped."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.conftest import picture
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.evaluation.report import report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1000,800",
]  # fmt: skip
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")


def browse(folder, page, *options: str) -> str:
    words = [BROWSER, *QUIET, f"--user-data-dir={folder}", *options, page.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture
def page(write_table, tmp_path):
    evil = "<script>document.title='x'</script>"
    red = {"image": picture(size=(64, 64)), "question": f"Which {evil}?", "category": "one"}
    rows = [{**red, "index": str(number), "category": "one" if number % 3 else "two"} for number in range(6)]
    report(MMBench(write_table(*rows)), {number: "A" if number < 4 else "B" for number in range(6)}, tmp_path / "w")
    return tmp_path / "w" / "report.html"


def test_the_filters_work_and_nothing_of_the_data_runs(page, tmp_path):
    clicks = page.with_name("clicked.html")
    choose = "state.value='wrong';state.onchange();category.value='one';category.onchange();"
    clicks.write_text(page.read_text().replace("</body>", f"<script>{choose}</script></body>"))
    whole, chosen = browse(tmp_path / "a", page, "--dump-dom"), browse(tmp_path / "b", clicks, "--dump-dom")
    assert '<span id="shown">6 shown</span>' in whole and "<title>mmbench" in whole
    assert '<span id="shown">2 shown</span>' in chosen
    assert chosen.count('<div class="card"') == 6 and chosen.count('hidden=""') == 4


def test_pictures_and_verdicts_are_seen(page, tmp_path):
    shot = tmp_path / "shot.png"
    browse(tmp_path / "a", page, f"--screenshot={shot}")
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert pixels.shape[1] == 1000
    black = (pixels.sum(-1) < 30).sum()
    green = ((pixels[..., 1] > pixels[..., 0] + 60) & (pixels[..., 1] > pixels[..., 2] + 30)).sum()
    assert black > 10_000 and green > 30  # the black pictures, drawn 224 pixels wide, and "right"
