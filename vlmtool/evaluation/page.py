"""One HTML page, complete in itself: pictures, questions, answers, right and wrong, filtered by category."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from vlmtool.evaluation.benchmark import Benchmark, Card, as_columns
from vlmtool.evaluation.files.pictures import PictureError, decode_picture, open_picture
from vlmtool.utils.files import write_text

MOST_CARDS = 5000  # a browser opens them in two seconds
_THUMBNAIL = 320  # pixels, the longer side
_SMALL = 24_000  # bytes: a picture file up to this size goes in as it is
_WEB_FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ name }} · {{ file }}</title>
<style>
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse}td,th{padding:.15rem .8rem;text-align:right}
td:first-child,th:first-child{text-align:left}
.card{display:flex;gap:1rem;border-top:1px solid #ccc;padding:1rem 0;
content-visibility:auto;contain-intrinsic-size:auto 14rem}
.card img{width:14rem;height:14rem;object-fit:contain;background:#f4f4f4;flex:none}
.card pre{white-space:pre-wrap;overflow-wrap:anywhere;font:inherit;margin:.2rem 0}
.right{color:#0a6b2d}.wrong{color:#b3261e}.open{color:#555}[hidden]{display:none}
.filter{position:sticky;top:0;background:#fff;padding:.6rem 0}
</style></head><body>
<h1>{{ name }}</h1><p>{{ file }} · extractor {{ extractor }} · {{ total }} question{{ "" if total == 1 else "s" }}\
{% if cards|length < total %}, of which {{ cards|length }}, evenly chosen, are shown{% endif %}</p>
{% if scores %}<table><tr><th></th>{% for way in scores %}<th>{{ way }}</th>{% endfor %}</tr>
{% for row in names %}<tr><td>{{ row }}</td>
{% for way in scores.values() %}<td>{{ "%.1f"|format(scale * way[row]) if row in way else "–" }}</td>{% endfor %}</tr>
{% endfor %}</table>{% endif %}
<p class="filter"><label>Category <select id="category"><option value="">all</option>
{% for category in categories %}<option>{{ category }}</option>{% endfor %}</select></label>
<label>Answer <select id="state"><option value="">all</option>
<option>right</option><option>wrong</option></select></label>
<span id="shown"></span></p>
{% for card, picture, state in cards %}<div class="card" data-category="{{ card.category }}" data-state="{{ state }}">
{% if picture %}<img src="{{ picture }}" alt="" loading="lazy" decoding="async">{% endif %}
<div><b>{{ card.title }}</b> {{ card.category }} <b class="{{ state }}">{{ state }}</b>
{% for line in card.lines %}{% set mark = {none: "open", true: "right", false: "wrong"}[line.hit] %}
{% if loop.first %}<pre>{{ line.text }}</pre>{% else %}<details><summary class="{{ mark }}">{{ line.index }}</summary>\
<pre>{{ line.text }}</pre></details>{% endif %}
<div class="{{ mark }}">{{ mark }} · answer {{ line.answer or "unknown" }} · read {{ line.extracted or "nothing" }} · \
said: {{ line.prediction }}</div>{% endfor %}
</div></div>
{% endfor %}
<script>
const category = document.getElementById("category"), state = document.getElementById("state");
function filter() {
  let shown = 0;
  for (const card of document.querySelectorAll(".card")) {
    card.hidden = (category.value && card.dataset.category !== category.value) ||
      (state.value && card.dataset.state !== state.value);
    shown += !card.hidden;
  }
  document.getElementById("shown").textContent = shown + " shown";
}
category.onchange = state.onchange = filter;
filter();
</script></body></html>
"""


def write_page(path: Path, benchmark: Benchmark, cards: Sequence[Card], scores: Mapping[str, Any]) -> None:
    """Write the page. Everything from the data and the model is escaped; pictures are data URIs."""
    columns = as_columns(scores)
    states = {None: "open", True: "right", False: "wrong"}
    shown = cards[:: math.ceil(len(cards) / MOST_CARDS)] if len(cards) > MOST_CARDS else cards
    picture_of = lru_cache(maxsize=64)(_data_uri)  # questions about one picture stand side by side
    html = Environment(autoescape=True).from_string(_PAGE).render(
        name=benchmark.name,
        file=benchmark.data_path.name,
        extractor=benchmark.extractor,
        scores=columns,
        scale=benchmark.scale,
        names=dict.fromkeys(name for values in columns.values() for name in values),
        categories=sorted({card.category for card in shown}),
        total=len(cards),
        cards=[(card, picture_of(card.picture), states[card.right]) for card in shown],
    )  # fmt: skip
    write_text(path, html.encode("utf-8", "replace").decode())


def _data_uri(file: Path | bytes | None) -> str:
    """The picture for an `img` tag, made smaller where it is large; empty where there is none or it is broken."""
    if file is None:
        return ""
    try:
        data = file if isinstance(file, bytes) else file.read_bytes()
        picture = open_picture(data)
        kind = _WEB_FORMATS.get(picture.format or "", "")
        if not kind or len(data) > _SMALL:
            picture.draft("RGB", (_THUMBNAIL, _THUMBNAIL))  # JPEG: decodes at a fraction of the size
            picture = decode_picture(picture)
            picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=80)
            data, kind = buffer.getvalue(), "image/jpeg"
    except (PictureError, OSError):  # scoring given predictions does without pictures
        return ""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
