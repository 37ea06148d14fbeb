"""The demo's page: scores, loss curves, and pictures with right and wrong answers, in one file without a network."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment

from vlmtool.demo.data import data_paths
from vlmtool.demo.proof import Proof
from vlmtool.evaluation.benchmarks.mmbench import MMBench, question_text
from vlmtool.evaluation.files.pictures import picture_bytes
from vlmtool.utils.files import write_text

SHOWN = 12  # pictures with a right answer, and as many with a wrong one

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>vlmtool demo</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem 1rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}.curves{display:flex;flex-wrap:wrap;gap:1rem}
.curves img{width:48%;min-width:20rem}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1rem}
.card{border:1px solid #ddd;border-radius:.4rem;padding:.8rem}.card img{width:8rem;height:8rem;object-fit:contain;
image-rendering:pixelated;background:#f4f4f4}
.card pre{font:13px/1.4 system-ui,sans-serif;white-space:pre-wrap;margin:.4rem 0}
.right{color:#0a6b2d}.wrong{color:#b3261e}small{color:#555}
</style></head><body>
<h1>vlmtool demo</h1>
<p>{{ proof.num_questions }} questions on pictures whose object, colour and place never occur together in any training.
Minimal pairs (one thing changed in the picture, the answer must flip): <b>{{ "%.1f"|format(100 * proof.pairs) }} %</b>
of {{ proof.num_pairs }}.</p>
<table><tr><th>right answers, percent</th><th>CircularEval</th><th>vanilla</th></tr>
{% for row in proof.rows %}<tr><td>{{ row.name }}
{% if row.must_be_blind %} <small>at most 5 points above a blind guess</small>
{% endif %}</td><td>{{ "–" if row.circular is none else "%.1f"|format(100 * row.circular) }}</td>
<td>{{ "%.1f"|format(100 * row.vanilla) }}</td></tr>{% endfor %}</table>
<h2>Loss</h2><div class="curves">{% for image in curves %}<img src="{{ image }}" alt="loss curve">{% endfor %}</div>
<h2>Wrong</h2><div class="grid">{% for card in wrong %}{{ show(card) }}{% else %}<p>None.</p>{% endfor %}</div>
<h2>Right</h2><div class="grid">{% for card in right %}{{ show(card) }}{% endfor %}</div>
<h2>Seconds</h2><table>{% for title, time in seconds.items() %}
<tr><td>{{ title }}</td><td>{{ "%.0f"|format(time) }}</td></tr>{% endfor %}</table>
</body></html>"""

_CARD = """<div class="card"><img src="{{ picture }}" alt=""><pre>{{ text }}</pre>
<b class="{{ 'right' if hit else 'wrong' }}">{{ said }}</b>
<small>{{ 'right' if hit else 'right would be ' ~ answer }}</small>
</div>"""


def write_demo_page(work_dir: Path, proof: Proof, seconds: Mapping[str, float]) -> Path:
    """Write `work_dir/report.html`."""
    from markupsafe import Markup

    environment = Environment(autoescape=True)
    card = environment.from_string(_CARD)
    environment.globals["show"] = lambda values: Markup(card.render(**values))
    right, wrong = _cards(work_dir)
    curves = [loss_curve(work_dir / stage, stage) for stage in ("pretrain", "finetune")]
    path = work_dir / "report.html"
    write_text(
        path,
        environment.from_string(_PAGE).render(proof=proof, curves=curves, right=right, wrong=wrong, seconds=seconds),
    )
    return path


def _cards(work_dir: Path) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Questions answered rightly and wrongly, spread over the test."""
    rows = [json.loads(line) for line in (work_dir / "mmbench" / "rows.jsonl").read_text().splitlines()]
    found = {row["index"]: row for row in rows}
    cards = []
    for row in MMBench(data_paths(work_dir / "data").mmbench).rows:
        if row.is_base:
            picture = "data:image/jpeg;base64," + base64.b64encode(picture_bytes(row.picture)).decode()
            entry = found[row.index]
            text = question_text(row, with_suffix=False)
            hit = bool(entry["hit"])
            cards.append(
                {"picture": picture, "text": text, "answer": row.answer, "said": entry["extracted"], "hit": hit}
            )
    right, wrong = ([card for card in cards if card["hit"] is hit] for hit in (True, False))
    return right[:: max(1, len(right) // SHOWN)][:SHOWN], wrong[:SHOWN]


def loss_curve(run_folder: Path, title: str) -> str:
    """The training's raw loss, its running mean and the validation loss, as a data URI."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in (run_folder / "train_log.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["loss"] is not None]  # skipped: its loss was no number
    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    window = max(1, len(losses) // 30)
    smooth = [
        sum(losses[max(0, i - window) : i + 1]) / len(losses[max(0, i - window) : i + 1]) for i in range(len(losses))
    ]
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="#b8cbe0", linewidth=0.8, label="each step")
    axes.plot(steps, smooth, color="#1f4e79", label="running mean")
    val_file = run_folder / "val_log.jsonl"
    if val_file.is_file():
        val = [json.loads(line) for line in val_file.read_text().splitlines()]
        axes.plot(
            [row["step"] for row in val], [row["val_loss"] for row in val], "o-", color="#c55a11", label="validation"
        )
    axes.set(xlabel="optimiser step", ylabel="loss per supervised token", title=title, ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
