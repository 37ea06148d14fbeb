"""The data check finds every defect, each at its place."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from vlmtool.data import check as check_module
from vlmtool.data.check import check_data
from vlmtool.data.check_record import Prompting, Source
from vlmtool.data.check_report import DEFECTS, CheckReport
from vlmtool.data.conversation import Image
from vlmtool.data.formats import json_stream
from vlmtool.data.templates.library import find_template, parse_template
from vlmtool.utils.errors import UsageError

MAX_LENGTH = 60
LONG = "A red circle above a blue square. " * 10


def record(name, question="<image>\nWhat?", answer="Yes", image="good.png") -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": image, "conversations": turns}


def four_tokens(image: Image) -> int:
    return 4


@pytest.fixture
def check(tokenizer, tmp_path, picture):
    picture("good.png")

    def run(*paths, template=None, **options) -> CheckReport:
        prompting = Prompting(tokenizer, template or find_template("vicuna", None), four_tokens, MAX_LENGTH)
        return check_data([Source(Path(p), tmp_path / "images", prompting=prompting) for p in paths], **options)

    return run


def found(report: CheckReport) -> set[tuple[str, int, str]]:
    """(kind, line, id) of every finding."""
    return {(f.kind, int(f.origin.rpartition(":")[2]), f.sample_id) for f in report.findings}


def test_good_data_has_no_findings_and_is_counted(check, write_records, tokenizer):
    report = check(write_records([record("a"), record("b", question="What is it?", image=None)]))
    assert report.findings == []
    assert not report.has_errors
    assert (report.num_records, report.num_samples, report.num_images) == (2, 2, 1)
    texts = ["<s>USER: <image>\nWhat? ASSISTANT: Yes</s>", "<s>USER: What is it? ASSISTANT: Yes</s>"]
    lengths = [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    assert report.lengths == [lengths[0] + 3, lengths[1]]  # one image token is in the text, three more are counted
    answer = len(tokenizer.encode(" Yes</s>", add_special_tokens=False))
    assert report.num_supervised == 2 * answer
    assert report.supervised_share == pytest.approx(2 * answer / sum(report.lengths))


def test_every_defect_is_found_at_its_place(check, write_records, picture):
    picture("broken.png").write_bytes(b"no picture")
    cut_image = {
        "id": "cut image", "image": "good.png",
        "conversations": [{"from": "human", "value": LONG}, {"from": "gpt", "value": "Yes"},
                          {"from": "human", "value": "<image>"}, {"from": "gpt", "value": "No"}],
    }  # fmt: skip
    path = write_records(
        [
            record("fine"),
            '{"id": "cut off", "conversations": [',
            {"id": "no turns"},
            ["a list"],
            record("tags", question="<image><image>"),
            record("outside", image="../secret.png"),
            record("missing", image="absent.png"),
            record("broken", image="broken.png"),
            cut_image,
            record("mute", answer="Yes", question="<image>" + LONG),
            record("long", answer=LONG),
            record("fine", question="<image>\nAnother question?"),
            record("copy"),
        ]
    )
    report = check(path)
    assert found(report) == {
        ("json", 2, ""), ("form", 3, "no turns"), ("form", 4, "4"), ("tags", 5, "tags"), ("outside", 6, "outside"),
        ("missing_image", 7, "missing"), ("broken_image", 8, "broken"), ("cut_image", 9, "cut image"),
        ("unsupervised", 10, "mute"), ("cut_answer", 11, "long"), ("duplicate_id", 12, "fine"),
        ("duplicate_record", 13, "copy"),
    }  # fmt: skip
    assert report.has_errors
    assert report.num_samples == 4  # fine, long, the other fine, copy


def test_the_worst_kind_stands_first(check, write_records):
    report = check(write_records([record("a"), record("a"), record("b", image="absent.png"), "{"]))
    assert list(report.by_kind()) == ["json", "missing_image", "duplicate_id", "duplicate_record"]


def test_every_record_of_a_kind_is_listed(check, write_records):
    report = check(write_records([{"id": n} for n in range(50)]))
    assert found(report) == {("form", n + 1, str(n)) for n in range(50)}


def test_warnings_alone_are_no_errors(check, write_records):
    report = check(write_records([record("a"), record("b", answer=LONG), record("a", answer="No")]))
    assert {f.kind for f in report.findings} == {"cut_answer", "duplicate_id"}
    assert not report.has_errors


def test_nothing_to_learn_from_is_an_error(check, write_records):
    silent = {"id": "a", "conversations": [{"from": "human", "value": "What?"}]}
    report = check(write_records([silent]))
    assert found(report) == {("unsupervised", 1, "a")}
    assert report.has_errors


def test_only_a_deep_check_finds_a_cut_picture(check, write_records, picture):
    path = picture("cut.png", 60, 40)
    path.write_bytes(path.read_bytes()[:300])
    records = write_records([record("a", image="cut.png")])
    assert check(records).findings == []
    assert found(check(records, deep=True)) == {("broken_image", 1, "a")}


def test_each_use_of_a_missing_image_is_listed(check, write_records):
    turns = [{"from": "human", "value": "<image><image><image>"}, {"from": "gpt", "value": "x"}]
    several = {"id": "b", "image": ["no.png", "no.png", "neither.png"], "conversations": turns}
    report = check(write_records([record("a", image="no.png"), several]))
    assert [(f.sample_id, f.detail) for f in report.findings] == [
        ("a", "no.png"),
        ("b", "no.png"),
        ("b", "neither.png"),
    ]


def test_a_held_out_record_that_is_in_training_is_found(check, write_records):
    training = write_records([record("a")])
    held_out = write_records([record("a")], "val.jsonl")
    [finding] = check(training, held_out).findings  # the same id in another file is no defect
    assert (finding.kind, finding.origin) == ("duplicate_record", f"{held_out}:1")
    assert finding.detail == f"same images and turns as {training}:1"


def test_an_array_that_is_cut_is_one_finding_and_what_stands_before_it_is_checked(check, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([record("a"), record("b")])[:-20])
    report = check(path)
    [finding] = report.findings
    assert report.num_samples == 1
    assert (finding.kind, finding.origin) == ("file", str(path))
    assert "Expecting" in finding.detail and "after record 1" in finding.detail


def test_a_file_that_is_not_there_is_known_before_work_starts(check, tmp_path):
    with pytest.raises(UsageError, match="no data file"):
        check(tmp_path / "absent.json")


def test_a_limit_looks_at_the_first_records_of_each_file(check, write_records):
    files = [write_records([record(n) for n in range(5)], name) for name in ("a.jsonl", "b.jsonl")]
    assert check(*files, limit=2).num_records == 4


def test_what_the_template_refuses_is_listed(check, write_records):
    text = "{{ raise_exception('no system turn') }}{% generation %}{% endgeneration %}"
    report = check(write_records([record("a"), record("b", answer="x")]), template=parse_template("strict", text))
    assert found(report) == {("template", 1, "a"), ("template", 2, "b")}
    assert "no system turn" in report.findings[0].detail


def test_marked_image_tokens_are_found(check, write_records):
    text = "{% for m in messages %}|{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert found(check(write_records([record("a")]), template=parse_template("all", text))) == {
        ("supervised_image", 1, "a")
    }


def test_details_do_not_repeat_place_and_id(check, write_records):
    report = check(write_records([record("a", question="<image><image>"), "{"]))
    assert sorted(f.detail for f in report.findings) == [
        "has 2 <image> tags but 1 image.",
        "not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    ]


def test_percentiles_are_lengths_that_occur():
    report = CheckReport(lengths=list(range(100, 0, -1)))
    assert [report.length_at(share) for share in (0.0, 0.01, 0.5, 0.9, 0.99, 1)] == [1, 1, 50, 90, 99, 100]
    assert CheckReport().length_at(0.5) == 0


@pytest.fixture
def many(write_records, picture):
    """Records of every kind, defects among them, in a file of several blocks."""
    picture("broken.png").write_bytes(b"no picture")
    kinds = [
        lambda n: record(f"s{n}", answer=f"Yes, {n}."),
        lambda n: record(f"s{n}", question=f"{n}?", image=None),
        lambda n: record(f"s{n - 2}", answer=f"No, {n}."),
        lambda n: {"id": f"s{n}"},
        lambda n: "{",
        lambda n: record(f"s{n}", image=f"absent{n % 7}.png"),
        lambda n: record(f"s{n}", answer=f"{n} {LONG}"),
        lambda n: record(f"s{n}", image="broken.png"),
        lambda n: record("twin"),
    ]
    return write_records([kinds[n % len(kinds)](n) for n in range(900)])


@pytest.mark.slow
def test_many_processes_report_what_one_does(check, many, write_records, monkeypatch):
    held_out = write_records([record("a"), record("twin"), "["], "val.jsonl")
    monkeypatch.setattr(check_module, "read_blocks", lambda path: json_stream.read_blocks(path, 4096))
    one, three = (check(many, held_out, num_workers=n) for n in (1, 3))
    assert one == three
    assert {f.kind for f in one.findings} > {"json", "form", "missing_image", "broken_image", "cut_answer"}
    assert one.counts["duplicate_id"] > 100 and one.counts["duplicate_record"] > 100


def test_only_so_many_places_are_kept_but_all_are_counted(check, many):
    every, some = check(many), check(many, places=3)
    assert some.counts == every.counts and every.counts["missing_image"] == 100
    assert all(len(group) == 3 for group in some.by_kind().values())
    assert [f for f in some.findings if f.kind == "form"] == [f for f in every.findings if f.kind == "form"][:3]


def test_each_image_is_opened_once(check, many, monkeypatch):
    opened = []
    monkeypatch.setattr("vlmtool.data.check_record.check_picture", lambda path, deep: opened.append(path.name))
    monkeypatch.setattr(check_module, "read_blocks", lambda path: json_stream.read_blocks(path, 4096))
    check(many)
    assert len(opened) == len(set(opened)) and {"broken.png", "good.png"} < set(opened)


def test_an_image_first_used_by_a_record_of_the_wrong_form_is_still_looked_at(check, write_records):
    lines = [{"id": "a", "image": "absent.png"}, record("b", image="absent.png")]
    assert found(check(write_records(lines))) == {("form", 1, "a"), ("missing_image", 2, "b")}


def test_a_name_that_no_system_takes_is_a_defect(check, write_records):
    report = check(write_records([record("a", image="x" * 300 + ".png"), record("b", image="a\0b.png")]))
    assert found(report) == {("broken_image", 1, "a"), ("broken_image", 2, "b")}


def test_without_a_tokenizer_records_and_images_are_checked(tmp_path, picture, write_records):
    picture("good.png")
    report = check_data([Source(write_records([record("a"), record("b", image="absent.png")]), tmp_path / "images")])
    assert found(report) == {("missing_image", 2, "b")}
    assert (report.num_samples, report.lengths) == (1, [])


def test_samples_are_counted_by_file(check, write_records):
    files = [write_records([record(n) for n in range(count)], f"{count}.jsonl") for count in (3, 2)]
    assert check(*files).samples_of == {str(files[0]): 3, str(files[1]): 2}


def test_a_training_that_skips_bad_samples_is_only_warned_of_few(check, write_records):
    lines = [record(n, answer=f"{n}") for n in range(9)] + [record("bad", image="absent.png")]
    assert check(write_records(lines)).has_errors
    assert check(write_records(lines), max_bad_share=0.05).has_errors
    report = check(write_records(lines), max_bad_share=0.1)
    assert not report.has_errors and report.level_of("missing_image") == "warning"


def test_what_ends_a_file_is_never_skipped(check, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([record("a"), record("b")])[:-1])
    assert check(path, max_bad_share=1.0).has_errors


def test_a_picture_under_another_key_is_told(check, write_records):
    """The record is usable, but without its picture."""
    lost = {**record("a", question="What?", image=None), "Image": "good.png"}
    listed = {**record("b", question="How?", image=None), "images": ["good.png"]}
    film = {**record("c", question="Who?", image=None), "video": "a.mp4"}
    report = check(write_records([lost, listed, film, {**record("d"), "model": "x", "category": "y", "width": 640}]))
    assert [(f.kind, f.sample_id, f.detail) for f in report.findings] == [
        ("unread_key", "a", "'Image' is not read; did you mean 'image'?"),
        ("unread_key", "b", "'images' is not read; did you mean 'image'?"),
        ("unread_key", "c", "'video' is not read: vlmtool learns from pictures, not from videos"),
    ]
    assert not report.has_errors and report.num_samples == 4


@pytest.mark.parametrize("answer", ["", "  \n"])
def test_an_empty_answer_is_told(check, write_records, answer):
    report = check(
        write_records([record("a", answer=answer), record("b"), record("c", question="<image>", answer="No")])
    )
    assert [(f.kind, f.sample_id, f.detail) for f in report.findings] == [
        ("empty_answer", "a", "turn 2 of 2 has no text")
    ]
    assert report.counts["empty_answer"] == 1 and not report.has_errors


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it is empty."), (" \n\t", "there is no text in it."), ("\ufeff", "there is no text in it."),
        ("[ ]", "the array is empty."), (json.dumps(record("a"), indent=2), "this file is one object over many lines."),
    ],
)  # fmt: skip
def test_a_file_without_records_is_one_finding_that_says_why(check, tmp_path, content, said):
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    report = check(path)
    [finding] = report.findings
    assert (finding.kind, finding.origin) == ("wrong_file", str(path)) and said in finding.detail
    assert report.has_errors and report.num_records == 0


def test_an_empty_held_out_file_is_an_error_beside_good_training_data(check, write_records, tmp_path):
    (tmp_path / "val.json").write_text("[]")
    report = check(write_records([record("a")]), tmp_path / "val.json")
    assert [(f.kind, f.origin) for f in report.findings] == [("wrong_file", str(tmp_path / "val.json"))]


def test_long_texts_are_cut_in_findings(check, write_records):
    names = ["x" * 5000, "y/" * 2000 + "z.png", "../" + "x" * 5000]
    report = check(write_records([record("n" * 5000 + str(n), image=name) for n, name in enumerate(names)]))
    assert len(report.findings) == 3
    for finding in report.findings:
        assert len(finding.sample_id) <= 100 and "sample" not in finding.detail
        assert len(finding.detail) <= 160


def test_a_missing_image_names_the_file_of_other_letters(check, write_records):
    report = check(write_records([record("a", image="GOOD.PNG"), record("b", image="other.png")]))
    assert [f.detail for f in report.findings] == ["GOOD.PNG; 'good.png' is there", "other.png"]


def test_a_folder_is_not_called_missing(check, write_records, tmp_path):
    (tmp_path / "images" / "dir.jpg").mkdir()
    [finding] = check(write_records([record("a", image="dir.jpg")])).findings
    assert (finding.kind, finding.detail) == ("broken_image", "dir.jpg: it is a folder")


@pytest.mark.parametrize("kind", ["float32", "int32"])
def test_32_bit_pictures_are_found_by_their_header(check, write_records, tmp_path, kind):
    PILImage.fromarray(np.zeros((8, 8), kind)).save(tmp_path / "images" / "deep.tif")
    [finding] = check(write_records([record("a", image="deep.tif")])).findings
    assert finding.kind == "broken_image" and "32-bit pixels" in finding.detail


def test_every_kind_has_a_level_a_title_and_a_remedy():
    assert all(d.level in ("error", "warning") and d.title and d.remedy for d in DEFECTS.values())
    levels = [defect.level for defect in DEFECTS.values()]
    assert levels == sorted(levels)  # errors stand first
