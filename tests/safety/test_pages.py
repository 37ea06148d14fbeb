"""What is written for browsers and spreadsheets: text of data and models stays text."""

import json
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
from openpyxl import Workbook, load_workbook

from vlmtool.demo.page import write_demo_page
from vlmtool.demo.proof import Proof, ProofRow
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.evaluation.files import xlsx
from vlmtool.evaluation.files.predictions import read_predictions
from vlmtool.evaluation.files.xlsx import write_xlsx
from vlmtool.evaluation.report import report
from vlmtool.utils.errors import DataError

EVIL = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)>',
    "' onmouseover='alert(4)",
    "</pre></div></option></select><iframe src=javascript:alert(5)>",
    "<a href='javascript:alert(6)'>x</a><!--",
    "{{ 7 * 7 }}{% raw %}",
    "</title></style><svg/onload=alert(8)>",
    "&lt;b&gt; &#60;b&#62; &amp;",
]
TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "table", "tr", "th", "td", "label", "select",
    "option", "span", "div", "img", "b", "pre", "details", "summary", "script", "small",
}  # fmt: skip


class Page(HTMLParser):
    """The tags and attributes of a page, its scripts, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.comments: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.text += data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


def check(page: Page, num_scripts: int) -> None:
    assert {tag for tag, _ in page.tags} <= TAGS
    assert len(page.scripts) == num_scripts and "alert" not in "".join(page.scripts) and not page.comments
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert set(attributes) <= {
            "lang", "charset", "name", "content", "class", "id", "value", "data-category", "data-state", "src", "alt",
            "loading", "decoding",
        }  # fmt: skip
        assert (attributes.get("src") or "data:image/").startswith("data:image/")


@pytest.mark.parametrize("evil", EVIL)
def test_the_report_page_shows_everything_and_runs_nothing(write_table, tmp_path, evil):
    flat = evil.replace("/", "⁄")  # a file name holds no slash
    rows = [
        {"index": "0", "question": evil, "hint": evil, "A": evil, "category": evil, "l2-category": evil, "split": evil},
        {"index": "1000000", "question": evil, "hint": evil, "A": "green", "B": evil, "answer": "B", "image": "0"},
        {"index": "5", "category": evil},
    ]
    path = write_table(*rows, name=f"{flat}.tsv")
    report(MMBench(path), {0: evil, 1_000_000: evil, 5: evil}, tmp_path / "w")
    page = Page((tmp_path / "w" / "report.html").read_text(encoding="utf-8"))
    check(page, num_scripts=1)
    assert page.text.count(evil) >= 10 and flat in page.text
    assert {a["data-category"] for tag, a in page.tags if a.get("class") == "card"} == {evil}
    texts = Page((tmp_path / "w" / "report.html").read_text(encoding="utf-8").partition("<script>")[0]).text
    assert f"said: {evil}" in texts


def test_control_characters_and_half_characters_do_not_break_the_page(write_table, tmp_path):
    report(MMBench(write_table({"question": "a\x00b\x1bc"})), {0: "x\ud800y\u202e"}, tmp_path / "w")
    check(Page((tmp_path / "w" / "report.html").read_text(encoding="utf-8")), num_scripts=1)


@pytest.mark.parametrize("evil", EVIL)
def test_the_demos_page_runs_nothing(write_table, tmp_path, evil):
    table = write_table({"index": "0", "question": evil, "A": evil}, {"index": "5", "hint": evil, "B": evil})
    (tmp_path / "data").mkdir()
    table.rename(tmp_path / "data" / "mmbench.tsv")
    (tmp_path / "mmbench").mkdir()
    entries = [{"index": 0, "extracted": evil, "hit": 1}, {"index": 5, "extracted": evil, "hit": 0}]
    (tmp_path / "mmbench" / "rows.jsonl").write_text("\n".join(map(json.dumps, entries)))
    for stage in ("pretrain", "finetune"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "train_log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    write_demo_page(tmp_path, Proof([ProofRow(evil, 0.5, None, True)], 2, 0.5, 2), {evil: 1.0})
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    check(page, num_scripts=0)
    assert page.text.count(evil) >= 6


FORMULAS = [
    "=1+1", "=HYPERLINK(\"http://evil\",\"x\")", "+1+1", "-2+3", "@SUM(A1)", "\t=1+1", "\r=1+1", "\n=1+1", " =1+1", "=",
    "#N/A", "#REF!", "TRUE", "1e5", "2020-01-01", "00:00", "{=1+1}", "＝1+1", "%0A=1+1", "=cmd|' /C calc'!A0", "0x10",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_a_spreadsheet_holds_no_formula(tmp_path, text):
    write_xlsx(tmp_path / "a.xlsx", ["a", text], [[1, text]])
    for as_values in (True, False):
        header, row = load_workbook(tmp_path / "a.xlsx", data_only=as_values).active.iter_rows()
        for cell in (header[1], row[1]):
            assert cell.data_type in ("s", "inlineStr") and cell.value.replace("\r", "\n") == text.replace("\r", "\n")
    with zipfile.ZipFile(tmp_path / "a.xlsx") as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml")
    assert b"<f>" not in sheet and b't="e"' not in sheet and b't="str"' not in sheet


def test_the_submission_is_written_that_way(write_table, tmp_path):
    evil = "=1+1"
    rows = {"question": evil, "A": evil, "B": evil + "2", "category": evil, "l2-category": evil, "answer": "A"}
    path = MMBench(write_table(rows)).write_submission({0: evil}, tmp_path)
    cells = [cell for row in load_workbook(path).active.iter_rows() for cell in row]
    assert sum(str(cell.value).startswith("=") for cell in cells) == 6
    assert all(cell.data_type != "f" for cell in cells)


def test_a_spreadsheet_of_others_gives_values_of_the_columns_asked_for(tmp_path):
    book = Workbook()
    book.active.append(["index", "prediction", *[f"c{n}" for n in range(50)]])
    book.active.append([3, "A", *range(50)])
    book.active.append([])
    book.active.append([4, "=1+1"])
    book.active["XFC1"] = "a column far away"
    book.save(tmp_path / "p.xlsx")
    assert read_predictions(tmp_path / "p.xlsx") == {3: "A", 4: ""}  # nobody computed the formula


def test_a_spreadsheet_that_unpacks_into_more_than_it_should_is_refused(tmp_path, monkeypatch):
    book = Workbook()
    book.active.append(["index", "prediction"])
    book.save(tmp_path / "p.xlsx")
    assert read_predictions(tmp_path / "p.xlsx") == {}
    with zipfile.ZipFile(tmp_path / "p.xlsx", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/media/zeros.bin", bytes(2**24))
    monkeypatch.setattr(xlsx, "UNPACKED_LIMIT", 2**24)
    assert (tmp_path / "p.xlsx").stat().st_size < 2**16
    with pytest.raises(DataError, match="it unpacks to 16,7.* bytes, 16,777,216 are the limit"):
        read_predictions(tmp_path / "p.xlsx")


def test_entities_of_a_spreadsheet_do_not_multiply(tmp_path):
    """Each entity ten times the one before: a million million letters, if it were followed."""
    book = Workbook()
    book.active.append(["index", "prediction"])
    book.save(tmp_path / "p.xlsx")
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 13))
    sheet = (
        f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e0 "ha">{entities}]>'
        '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
        '<row r="1"><c r="A1" t="inlineStr"><is><t>&e12;</t></is></c></row></sheetData></worksheet>'
    )
    rewritten = tmp_path / "q.xlsx"
    with zipfile.ZipFile(tmp_path / "p.xlsx") as source, zipfile.ZipFile(rewritten, "w") as target:
        for name in source.namelist():
            target.writestr(name, sheet if name.endswith("sheet1.xml") else source.read(name))
    with pytest.raises(DataError):
        read_predictions(Path(rewritten))
