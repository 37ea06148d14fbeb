"""Files of answers in all three forms: every answer is read as it was written, or the file is refused."""

import csv
import io
import json
import re
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import example
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.fuzz.profiles import fuzz, outcome
from tests.fuzz.strategies import damaged, json_values, spoiled, texts, to_bytes
from vlmtool.evaluation.files.predictions import read_predictions
from vlmtool.evaluation.files.xlsx import cell_text, write_xlsx
from vlmtool.utils.errors import VlmtoolError

answers = st.dictionaries(st.integers(0, 10**18 - 1), texts, min_size=1, max_size=4)
# Of a sheet's XML: places beyond any sheet, cells of other types, what another program may have left.
CHANGES = (
    ('r="2"', 'r="1048576"'), ('r="A2"', 'r="XFD2"'), ('r="B2"', 'r="XFD1048576"'), ('r="A2"', 'r="?"'), ('r="A1"', ""),
    ('t="inlineStr"', 't="s"'), ('t="inlineStr"', 't="d"'), ('t="inlineStr"', 't="e"'), ('t="n"', 't="b"'), ('t="n"',
    't="d"'),
    ("<v>", "<v>x"), ("<v>", "<v>1e999"), ("<v>", "<v>-"), ("<t>", "<t>&amp;"), ("<t>", "<t>&x;"), ("<sheetData>", ""),
    ("</row>", ""), ("Sheet1", ""), ('r:id="rId1"', ""), ("worksheet", "chartsheet"), ("UTF-8", "UTF-16"), ("<row",
    "<row><row"),
    ("<sheetData>", '<dimension ref="A1:XFD1048576"/><sheetData>'), ("<sheetData>",
    '<dimension ref="B0:A"/><sheetData>'),
)  # fmt: skip


def write_lines(said: dict[int, str]) -> bytes:
    return "".join(json.dumps({"index": i, "prediction": text}) + "\n" for i, text in said.items()).encode()


def write_table(said: dict[int, str]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter="\t", quoting=csv.QUOTE_ALL)
    writer.writerow(["prediction", "index"])
    writer.writerows((text, index) for index, text in said.items())
    return out.getvalue().encode()


@fuzz(10, said=answers, suffix=st.sampled_from([".jsonl", ".tsv", ".xlsx"]))
def test_answers_are_read_as_they_were_written(folder, said, suffix):
    path = folder / f"whole{suffix}"
    if suffix == ".xlsx":
        said = {index % 10**9: text for index, text in said.items()}
        write_xlsx(path, ["index", "prediction"], ([index, text] for index, text in said.items()))
        # XML has one kind of line end.
        said = {index: re.sub("\r\n?", "\n", cell_text(text)) for index, text in said.items()}
    else:
        path.write_bytes(write_lines(said) if suffix == ".jsonl" else write_table(said))
    assert read_predictions(path) == said


@st.composite
def spoiled_lines(draw: DrawFn) -> bytes:
    entry = st.fixed_dictionaries({"index": st.integers(0, 3) | st.sampled_from(["1", "2.0"]), "prediction": texts})
    values = draw(st.lists(entry | entry | spoiled(entry, json_values), max_size=4))
    return draw(st.sampled_from([b"\n", b"\r\n", b"\n\n"])).join([draw(to_bytes(value)) for value in values])


@example(data=b'{"index": ' + b"1" * 5000 + b', "prediction": "A"}')
@fuzz(25, data=damaged(spoiled_lines()))
def test_every_line_is_read_or_the_file_is_refused(folder, data):
    path = folder / "lines.jsonl"
    path.write_bytes(data)
    said = outcome(lambda: read_predictions(path))
    if not isinstance(said, VlmtoolError):
        entries: list[dict[str, Any]] = [json.loads(line) for line in data.splitlines() if line.strip()]
        assert set(said) == {int(str(entry["index"]).split(".")[0]) for entry in entries}
        assert all(isinstance(text, str) and text.encode() is not None for text in said.values())


@st.composite
def spoiled_tables(draw: DrawFn) -> bytes:
    """Some rows lack a cell, or have one more."""
    cells = st.tuples(texts, st.integers(0, 99).map(str)).map(list)
    rows = draw(st.lists(cells | cells | st.lists(texts, max_size=3), max_size=4))
    out = io.StringIO(newline="")
    csv.writer(out, delimiter="\t").writerows([["prediction", "index"], *rows])
    return out.getvalue().encode()


@fuzz(20, data=damaged(spoiled_tables()))
def test_every_row_is_read_or_the_file_is_refused(folder, data):
    path = folder / "table.tsv"
    path.write_bytes(data)
    said = outcome(lambda: read_predictions(path))
    if not isinstance(said, VlmtoolError):
        rows = [row for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), delimiter="\t") if row]
        assert set(said) == {int(row[1].split(".")[0]) for row in rows[1:]}


@st.composite
def spoiled_books(draw: DrawFn, book: bytes) -> bytes:
    """A workbook damaged as a file, or inside one of the files that it packs."""
    if draw(st.booleans()):
        return draw(damaged(st.just(book)))
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(book)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        chosen = draw(st.sampled_from(old.namelist()))
        for name in old.namelist():
            content = old.read(name)
            for change in draw(st.lists(st.sampled_from(CHANGES), max_size=2)) if name.endswith("xml") else []:
                content = content.replace(*(part.encode() for part in change))
            whole = draw(damaged(st.just(content))) if name == chosen else content
            new.writestr(zipfile.ZipInfo(name), whole, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _book() -> bytes:
    """A small workbook, the same at any time of day."""
    with TemporaryDirectory() as place:
        path = Path(place) / "book.xlsx"
        write_xlsx(path, ["index", "question", "prediction"], [[1, "Which?", "A"], [1_000_001, "Which?", "=B"]])
        out = io.BytesIO()
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                content = re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", b"2026-01-01T00:00:00Z", old.read(name))
                new.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        return out.getvalue()


BOOK = _book()


@example(data=BOOK[:243] + b"\xff" * 8 + BOOK[251:])  # inside what is packed: zlib complains, not zipfile
@fuzz(10, data=spoiled_books(BOOK))
def test_a_spoiled_workbook_is_read_or_refused(folder, data):
    path = folder / "book.xlsx"
    path.write_bytes(data)
    said = outcome(lambda: read_predictions(path))
    assert isinstance(said, VlmtoolError) or len(said) <= 2


@fuzz(10, said=answers, corner=st.sampled_from(["A1", "A1:A1", "A1:B2", "A1:XFD1048576", "B2:C3"]))
def test_a_wrong_dimension_hides_no_answer(folder, said, corner):
    whole, path = folder / "sound.xlsx", folder / "dimension.xlsx"
    said = {index % 10**9: cell_text(text).replace("\r", "") for index, text in said.items()}
    write_xlsx(whole, ["index", "prediction"], ([index, text] for index, text in said.items()))
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content.replace(b"<sheetData>", f'<dimension ref="{corner}"/><sheetData>'.encode()))
    assert read_predictions(path) == said
