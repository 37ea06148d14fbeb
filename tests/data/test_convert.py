"""`vlmtool data convert`: each source format against records written by hand, through the real command."""

import base64
import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow
import pytest
from PIL import Image as PILImage
from pyarrow import parquet

from vlmtool.cli.invoke import invoke
from vlmtool.cli.main import app
from vlmtool.data.formats.llava import read_conversations


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


def turns(*values: str) -> list[dict]:
    return [{"from": ("human", "gpt")[place % 2], "value": value} for place, value in enumerate(values)]


@pytest.fixture
def convert(tmp_path, capsys, monkeypatch):
    """`convert("llava", entries, "--option")` → the records that were written, which training can read."""
    monkeypatch.chdir(tmp_path)

    def run(source_format, source, *options: str, to: str = "out.json", code: int = 0):
        if not isinstance(source, str):
            (tmp_path / "in.json").write_text(json.dumps(source))
            source = "in.json"
        assert invoke(app, ["data", "convert", source_format, source, to, *options], debug=False) == code
        run.out, run.err = capsys.readouterr()
        assert len(run.err.splitlines()) <= 3
        path = tmp_path / to
        assert path.exists() is (code == 0)
        if code:
            return None
        list(read_conversations(path))
        text = path.read_text()
        return [json.loads(line) for line in text.splitlines()] if to.endswith(".jsonl") else json.loads(text)

    run.skipped = lambda to="out.json": [
        json.loads(line) for line in (tmp_path / f"{to}.skipped.jsonl").read_text().splitlines()
    ]
    return run


# AI Challenger

CAPTIONS = [
    {"image_id": "a1.jpg", "url": "http://x/a1.jpg", "caption": ["一个人", "两个人", "三个人", "四个人", "五个人"]},
    {"image_id": "b2.jpg", "url": "http://x/b2.jpg", "caption": ["红", "橙", "黄", "绿", "蓝"]},
]


def test_ai_challenger_first_and_all_captions_with_each_prompt(convert):
    after = "这幅图像描述了什么？<image>"
    first = convert("ai-challenger", CAPTIONS, "--captions", "first", "--prompt", "after")
    assert first == [
        {"id": "a1-0", "image": "a1.jpg", "conversations": turns(after, "一个人")},
        {"id": "b2-0", "image": "b2.jpg", "conversations": turns(after, "红")},
    ]
    every = convert("ai-challenger", CAPTIONS, "--captions", "all", "--prompt", "before", to="all.jsonl")
    assert [record["conversations"][1]["value"] for record in every] == sum((c["caption"] for c in CAPTIONS), [])
    assert {record["conversations"][0]["value"] for record in every} == {"<image>这幅图像中有什么？"}
    assert "2 records read, 10 written to all.jsonl, 0 left out." in convert.out


def test_ai_challenger_chooses_one_caption_and_one_prompt_by_the_seed(convert):
    source = [{**CAPTIONS[0], "image_id": f"{number}.jpg"} for number in range(300)]
    chosen = {seed: convert("ai-challenger", source, "--seed", seed, to=f"{seed}.json") for seed in ("0", "1")}
    assert convert("ai-challenger", source, to="default.json") == chosen["0"] != chosen["1"]
    for records in chosen.values():
        said = [record["conversations"][1]["value"] for record in records]
        asked = [record["conversations"][0]["value"] for record in records]
        # Of 300 draws 60 each and 150 each are expected; six standard deviations are 42 and 52.
        assert all(18 < said.count(text) < 102 for text in CAPTIONS[0]["caption"]) and len(said) == 300
        assert all(98 < asked.count(text) < 202 for text in set(asked)) and len(set(asked)) == 2


def test_two_records_of_one_picture_keep_their_own_captions(convert):
    """The original looks captions up by file name, and gives both records those of the last."""
    twice = [{"image_id": "a.jpg", "caption": [text]} for text in ("red", "blue")]
    records = convert("ai-challenger", twice, "--prompt", "<image>What?")
    assert [(r["id"], r["image"], r["conversations"][1]["value"]) for r in records] == [
        ("a-0", "a.jpg", "red"), ("a-0.2", "a.jpg", "blue"),
    ]  # fmt: skip
    assert "1 id had been used before" in convert.out


# COCO, LLaVA


def coco(*captions: tuple[int, int, str]) -> dict:
    images = [{"id": 7, "file_name": "000000000007.jpg"}, {"id": 9, "file_name": "000000000009.jpg"}]
    return {
        "info": {}, "images": images,
        "annotations": [{"id": name, "image_id": image, "caption": text} for name, image, text in captions],
    }  # fmt: skip


def test_coco_captions_are_a_record_for_each_annotation(convert):
    source = coco((31, 9, "A cat."), (32, 7, "A dog. \n"), (33, 9, "Two cats."))
    expected = [
        {"id": "31", "image": "t/000000000009.jpg", "conversations": turns("<image>", "A cat.")},
        {"id": "32", "image": "t/000000000007.jpg", "conversations": turns("<image>", "A dog.")},
        {"id": "33", "image": "t/000000000009.jpg", "conversations": turns("<image>", "Two cats.")},
    ]
    assert convert("coco-captions", source, "--image-prefix", "t/") == expected
    assert convert("auto", source, "--image-prefix", "t/", to="auto.json") == expected


def test_coco_annotations_without_a_picture_are_left_out_and_listed(convert):
    source = coco((31, 8, "A cat."), (32, 7, " "), (33, 7, "A dog."))
    convert("coco-captions", source, "--max-skipped", "1", code=1)
    assert "2 records of 3 cannot be converted (1 no picture, 1 wrong form); nothing was written" in convert.err
    assert "--max-skipped 2" in convert.err
    assert [entry["origin"] for entry in convert.skipped()] == ["in.json: annotation 1", "in.json: annotation 2"]
    records = convert("coco-captions", source, "--max-skipped", "2")
    assert [record["id"] for record in records] == ["33"]
    assert "3 records read, 1 written to out.json, 2 left out.\n  1 no picture\n  1 wrong form\n" in convert.out
    odd = {"images": [{"id": []}], "annotations": [{"id": 1, "image_id": []}, 3]}
    convert("coco-captions", odd, to="odd.json", code=1)
    assert [entry["reason"] for entry in convert.skipped("odd.json")] == ["no picture", "wrong form"]
    convert("coco-captions", {"images": []}, to="other.json", code=1)
    assert "not COCO's captions" in convert.err


def test_llava_records_keep_all_turns_and_lose_what_nobody_reads(convert):
    source = [
        {"id": 5, "image": "a.jpg", "conversations": turns("<image>\nQ", "A", "Q2", "A2"), "model": "x"},
        {"conversations": [{"from": "human", "value": "Hi", "weight": 1}, {"from": "gpt", "value": "Ho"}]},
    ]
    expected = [
        {"id": "5", "image": "a.jpg", "conversations": turns("<image>\nQ", "A", "Q2", "A2")},
        {"id": "2", "conversations": turns("Hi", "Ho")},
    ]
    assert convert("llava", source) == expected == convert("auto", source, to="b.jsonl")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"image": "a.jpg", "conversations": turns("no tag", "A")}, "wrong tags"),
        ({"images": ["a.jpg"], "conversations": turns("Q", "A")}, "unread field"),
        ({"image": "../a.jpg", "conversations": turns("<image>", "A")}, "picture outside"),
        ({"image": "http://x/a.jpg", "conversations": turns("<image>", "A")}, "picture at an address"),
        ({"conversations": []}, "wrong form"),
        ({"conversations": [{"from": "human", "text": "Q"}]}, "wrong form"),
        ({"image": ["a.jpg", 3], "conversations": turns("<image><image>", "A")}, "wrong form"),
        (3, "wrong form"),
    ],
)
def test_llava_records_that_cannot_be_used_are_left_out(convert, entry, reason):
    good = {"id": "g", "conversations": turns("Q", "A")}
    assert convert("llava", [entry, good], "--max-skipped", "1") == [good]
    assert [(line["origin"], line["reason"]) for line in convert.skipped()] == [("in.json: record 1", reason)]


def test_a_broken_line_is_left_out_and_named(convert, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"id"\n' + json.dumps({"id": "g", "conversations": turns("Q", "A")}))
    assert len(convert("llava", "in.jsonl", "--max-skipped", "1")) == 1
    assert convert.skipped()[0]["origin"] == "in.jsonl:1"


# ShareGPT and OpenAI


def test_sharegpt_in_the_ways_it_is_written(convert):
    source = [
        {"id": "s", "system": "Be brief.", "images": ["a.jpg", "b.jpg"],
         "conversations": [{"from": "user", "value": "<image> or <image>?"}, {"from": "assistant", "value": "B"}]},
        {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"},
                      {"role": "assistant", "content": "A"}], "images": ["c.jpg"]},
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "images": []},
    ]  # fmt: skip
    expected = [
        {"id": "s", "image": ["a.jpg", "b.jpg"],
         "conversations": [{"from": "system", "value": "Be brief."}, *turns("<image> or <image>?", "B")]},
        {"id": "2", "image": "c.jpg",
         "conversations": [{"from": "system", "value": "S"}, *turns("<image>\nQ", "A")]},
        {"id": "3", "conversations": turns("Q", "A")},
    ]  # fmt: skip
    assert convert("sharegpt", source) == expected == convert("auto", source, to="b.json")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"images": ["a.jpg"], "messages": [{"role": "user", "content": "<image><image>"}]}, "wrong tags"),
        ({"videos": ["a.mp4"], "messages": [{"role": "user", "content": "<video>"}]}, "other media"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "other role"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "other media"),
        ({"images": ["a", "b"], "messages": [{"role": "user", "content": [{"type": "image"}]}]}, "wrong tags"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "no picture"),
        ({"messages": [{"role": "user", "content": None}]}, "wrong form"),
    ],
)
def test_chats_that_cannot_be_used_are_left_out(convert, fields, reason):
    good = {"messages": [{"role": "user", "content": "Q"}]}
    assert len(convert("openai", [fields, good], "--max-skipped", "1")) == 1
    assert convert.skipped()[0]["reason"] == reason


def test_openai_content_becomes_text_with_tags_and_data_urls_become_files(convert, tmp_path):
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    inside = (tmp_path / "pictures" / "in side.png").absolute()

    def image(place: object, kind: str = "image_url") -> dict:
        return {"type": kind, kind: place}

    text = {"type": "text", "text": "What?"}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Red."}]}
    source = [
        {"messages": [{"role": "user", "content": [image({"url": url}), text]}, answer]},
        {"messages": [{"role": "user", "content": [text, image({"url": url}), image("sub/b.png")]}, answer]},
        {"messages": [{"role": "user", "content": [image(inside.as_uri()), text]}, answer]},
        {"messages": [{"role": "user", "content": [{"type": "image"}, text, {"type": "image"}]}, answer],
         "images": ["x.png", {"path": "y.png"}]},
    ]  # fmt: skip
    records = convert("auto", source, "--image-folder", "pictures")
    written = list((tmp_path / "pictures").iterdir())
    assert len(written) == 1 and written[0].read_bytes() == png() and "1 picture written" in convert.out
    name = written[0].name
    assert [(record.get("image"), record["conversations"]) for record in records] == [
        (name, turns("<image>\nWhat?", "Red.")),
        ([name, "sub/b.png"], turns("What?\n<image>\n<image>", "Red.")),
        ("in side.png", turns("<image>\nWhat?", "Red.")),
        (["x.png", "y.png"], turns("<image>\nWhat?\n<image>", "Red.")),
    ]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9/a.png", "picture at an address"), ("file:///etc/a.png", "picture outside"),
        ("data:image/png;base64,AAAA", "broken picture"), ("data:image/png;base64,A!", "broken picture"),
        ("data:text/plain,x", "broken picture"), ("s3://b/a.png", "picture at an address"),
    ],
)  # fmt: skip
def test_pictures_that_cannot_be_had_are_left_out(convert, url, reason):
    source = [{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}]
    convert("openai", source, "--image-folder", "pictures", code=1)
    assert convert.skipped()[0]["reason"] == reason
    convert("openai", source, "--image-folder", "pictures", "--fetch", code=1)  # a local address: still refused
    assert convert.skipped()[0]["reason"] == reason


def test_addresses_are_fetched_where_asked(convert, tmp_path):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/a" else 404)
            self.end_headers()
            self.wfile.write(png() if self.path == "/a" else b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        places = [f"http://127.0.0.1:{server.server_port}/{name}" for name in "ab"]
        source = [{"messages": [{"role": "user", "content": [{"type": "image", "url": url}]}]} for url in places]
        options = ("--image-folder", "p", "--fetch", "--allow-local-urls", "--max-skipped", "1")
        records = convert("openai", source, *options)
        server.shutdown()
    assert [(tmp_path / "p" / record["image"]).read_bytes() for record in records] == [png()]
    assert "404" in convert.skipped()[0]["detail"]


def test_pictures_in_the_source_need_a_folder(convert):
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    source = [{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}]
    convert("openai", source, code=2)
    assert "--image-folder DIR" in convert.err


# RefCOCO


def test_refcoco_in_the_forms_it_is_written(convert, tmp_path):
    source = [
        {"id": "r", "image": "coco/train2017/000000581857.jpg", "sents": "the woman", "bbox": [300.5, 100, 150, 99.9],
         "height": 400, "width": 600},
        {"id": "edge", "image": "000000581857.jpg", "sents": "all of it", "bbox": [0, 0.02, 600, 400],
         "height": 400, "width": 600},
        {"img_id": "COCO_train2014_000000581857_16", "sents": "a cup", "bbox": [10, 20, 30, 40],
         "width": 100, "height": 200},
        {"img_path": "images/COCO_train2014_000000000009.jpg", "expression": "a dog", "bbox": [0, 0, 50, 50],
         "width": 100, "height": 200},
        {"image": "data/coco/train2014/b.jpg", "sent": "a cat", "bbox": [64, 0, 128, 64], "width": 128, "height": 64},
    ]  # fmt: skip
    records = convert("auto", source, "--image-prefix", "coco/")
    assert [(r["id"], r["image"], *(turn["value"] for turn in r["conversations"])) for r in records] == [
        # XTuner's own arithmetic: 300.5 / 600, 100 / 400, 450.5 / 600 and 199.9 / 400, each times 100 and cut.
        ("r", "coco/000000581857.jpg", "<image>\n[refer] give me the location of the woman", "{<50><25><75><49>}"),
        ("edge", "coco/000000581857.jpg", "<image>\n[refer] give me the location of all of it",
         "{<0><0><100><100>}"),
        ("000000581857-3", "coco/000000581857.jpg", "<image>\n[refer] give me the location of a cup",
         "{<10><10><40><30>}"),
        ("COCO_train2014_000000000009-4", "coco/COCO_train2014_000000000009.jpg",
         "<image>\n[refer] give me the location of a dog", "{<0><0><50><25>}"),
        ("b-5", "coco/b.jpg", "<image>\n[refer] give me the location of a cat", "{<50><0><100><100>}"),
    ]  # fmt: skip
    records = convert("refcoco", source, "--box-form", "llava", to="llava.json")
    # 600 × 400 padded to 600 × 600: 100 pixels above.
    # 100 × 200 padded to 200 × 200: 50 pixels on each side; 128 × 64 to 128 × 128: 32 above.
    assert [record["conversations"][1]["value"] for record in records] == [
        "[0.501, 0.333, 0.751, 0.500]", "[0.000, 0.167, 1.000, 0.833]",
        "[0.300, 0.100, 0.450, 0.300]", "[0.250, 0.000, 0.500, 0.250]", "[0.500, 0.250, 1.000, 0.750]",
    ]  # fmt: skip


def test_a_box_without_the_size_of_its_picture_is_left_out(convert):
    convert("refcoco", [{"image": "a.jpg", "sents": "the woman", "bbox": [57, 29, 86, 58]}], code=1)
    assert convert.skipped()[0]["reason"] == "no size"


@pytest.mark.parametrize("box", [[1, 2, 3], [50, 0, 40, 10], [0, 0, 101, 10], [0, 0, 10**400, 1], "x", [True] * 4])
def test_boxes_that_are_none_are_left_out(convert, box):
    source = [{"image": "a.jpg", "sent": "a cat", "bbox": box, "width": 100, "height": 100}]
    convert("refcoco", source, code=1)
    assert convert.skipped()[0]["reason"] == "wrong box"


def test_refcocos_pickle_is_refused_with_a_way_out(convert, tmp_path):
    (tmp_path / "refs(unc).p").write_bytes(b"\x80\x04N.")
    for name in ("refcoco", "auto"):
        convert(name, "refs(unc).p", code=2)
        assert "pickle" in convert.err and "JSON" in convert.err


# Shards


def test_parquet_rows_with_pictures(convert, tmp_path):
    image = {"bytes": png(), "path": "a.png"}
    blue = {"bytes": png("blue"), "path": None}
    rows = [
        {"id": "k/1", "images": [image],
         "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
        {"id": "k/2", "images": [blue, image], "messages": [{"role": "user", "content": "<image>v<image>"}]},
        {"id": "k/3", "images": [], "messages": [{"role": "user", "content": "Hi"}]},
        {"id": "k/4", "images": [{"bytes": b"no", "path": None}], "messages": [{"role": "user", "content": "Q"}]},
    ]  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=1)
    records = convert("auto", "a.parquet", "--image-folder", "p", "--max-skipped", "1")
    assert [record["id"] for record in records] == ["k/1", "k/2", "k/3"]
    assert [record["conversations"] for record in records] == [
        turns("<image>\nQ", "A"), turns("<image>v<image>"), turns("Hi"),
    ]  # fmt: skip
    assert [(tmp_path / "p" / name).read_bytes() for name in records[1]["image"]] == [png("blue"), png()]
    assert records[0]["image"].startswith("k_1-") and convert.skipped()[0]["reason"] == "broken picture"
    assert "3 pictures written to p." in convert.out


def test_parquet_pairs_captions_and_typed_content(convert, tmp_path):
    image = {"bytes": png(), "path": None}
    tables = {
        "pairs": [{"images": [image], "texts": [{"user": "Q", "assistant": "A", "source": "x"},
                                                {"user": "Q2", "assistant": "A2", "source": "x"}]}],
        "captions": [{"image": image, "caption": " A square. "}],
        "typed": [{"images": [image], "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Q", "index": None},
                                         {"type": "image", "text": None, "index": 0}]}]}],
    }  # fmt: skip
    expected = {"pairs": turns("<image>\nQ", "A", "Q2", "A2"), "captions": turns("<image>", "A square."),
                "typed": turns("Q\n<image>")}  # fmt: skip
    for name, rows in tables.items():
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
        records = convert("parquet", f"{name}.parquet", "--image-folder", "p", to=f"{name}.json")
        assert (records[0]["id"], records[0]["conversations"]) == (f"{name}-1", expected[name])


def test_parquet_that_is_none_or_has_no_text_is_told(convert, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
    convert("parquet", "a.parquet", code=1)
    assert "cannot be read as parquet" in convert.err
    parquet.write_table(pyarrow.table({"label": [1]}), tmp_path / "b.parquet")
    convert("parquet", "b.parquet", code=1)
    assert "no column of turns or captions; it has label" in convert.err


def test_parquet_that_is_damaged_inside_is_told(convert, tmp_path):
    rows = [{"image": {"bytes": png(), "path": None}, "caption": f"{number} " * 50} for number in range(200)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=50, compression="zstd")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[len(content) // 2 - 200 : len(content) // 2 + 200] = bytes(400)
    (tmp_path / "a.parquet").write_bytes(content)
    convert("parquet", "a.parquet", "--image-folder", "p", code=1)
    assert "cannot be read as parquet, after row" in convert.err


def test_a_picture_that_cannot_be_written_is_told(convert, tmp_path):
    shard(tmp_path / "a.tar", {"1.png": png(), "1.txt": b"A"})
    (tmp_path / "p").write_text("a file where the folder should be")
    convert("webdataset", "a.tar", "--image-folder", "p", code=1)
    assert "cannot be written" in convert.err or "cannot be made" in convert.err


def shard(path, files: dict[str, bytes], link: str = "") -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)


def test_webdataset_samples(convert, tmp_path):
    shard(tmp_path / "a.tar", {
        "d/1.png": png(), "d/1.txt": b"A red square.\n", "d/1.cls": b"3",
        "2.jpg": png(), "2.json": json.dumps({"caption": "Also red."}).encode(),
        "3.json": json.dumps({"conversations": turns("<image>Q<image>", "A")}).encode(),
        "3.0.png": png(), "3.1.png": png("blue"),
        "4.json": json.dumps({"width": 3}).encode(), "4.png": png(), "5.txt": b"alone",
    })  # fmt: skip
    records = convert("auto", "a.tar", "--image-folder", "p", "--max-skipped", "2")
    assert [(record["id"], record["conversations"]) for record in records] == [
        ("d/1", turns("<image>", "A red square.")), ("2", turns("<image>", "Also red.")),
        ("3", turns("<image>Q<image>", "A")),
    ]  # fmt: skip
    assert [(tmp_path / "p" / name).read_bytes() for name in records[2]["image"]] == [png(), png("blue")]
    assert records[1]["image"].endswith(".png")  # named by what it is
    assert [(line["origin"], line["reason"]) for line in convert.skipped()] == [
        ("a.tar: 4", "no text"), ("a.tar: 5", "no picture"),
    ]  # fmt: skip
    assert "5 records read, 3 written" in convert.out


@pytest.mark.parametrize(
    ("name", "link"), [("../x.txt", ""), ("/x.txt", ""), ("a/../../x.txt", ""), ("x.txt", "l.txt")]
)
def test_webdataset_names_that_lead_elsewhere_are_refused(convert, tmp_path, name, link):
    shard(tmp_path / "a.tar", {"1.png": png(), "1.txt": b"A", name: b"x"}, link)
    convert("webdataset", "a.tar", "--image-folder", "p", code=1)
    assert "refused" in convert.err


def test_webdataset_that_is_cut_is_told(convert, tmp_path):
    shard(tmp_path / "a.tar", {"1.png": png() * 500, "1.txt": b"A"})
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:2000])
    convert("webdataset", "a.tar", "--image-folder", "p", code=1)
    assert "cannot be read as tar" in convert.err


# The command


def test_pictures_are_looked_for_where_asked(convert, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(png())
    (tmp_path / "p" / "bad.png").write_bytes(b"<html>")
    source = [
        {"id": name, "image": name, "conversations": turns("<image>", "A")} for name in ("a.png", "b.png", "bad.png")
    ]
    options = ("--image-folder", "p", "--check-images")
    assert [r["id"] for r in convert("llava", source, *options, "--max-skipped", "2")] == ["a.png"]
    assert [line["detail"] for line in convert.skipped()] == [
        "p/b.png: there is no such file",
        "p/bad.png: it is an HTML page; one of JPEG, PNG, WEBP, GIF, BMP, TIFF is needed",
    ]
    convert("llava", source, "--check-images", to="x.json", code=2)


def test_several_sources_are_one_file_with_ids_of_their_own(convert, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(
            json.dumps([{"id": 1, "image": "x", "conversations": turns("<image>", name)}])
        )
    assert invoke(app, ["data", "convert", "auto", "a.json", "b.json", "out.jsonl"], debug=False) == 0
    ids = [conversation.id for conversation in read_conversations(tmp_path / "out.jsonl")]
    assert ids == ["1", "1.2"]


def test_what_is_ambiguous_or_unknown_names_the_candidates(convert):
    convert("auto", [{"conversations": turns("Q", "A")}], code=2)
    assert "llava or sharegpt" in convert.err
    convert("auto", [{"text": "x"}], code=2)
    assert "its records have text" in convert.err
    convert("lava", [], code=2)
    assert "Did you mean 'llava'?" in convert.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["llava", "in.json"], "one path only"), (["llava", "gone.json", "o.json"], "there is no such file"),
        (["llava", "in.json", "in.json"], "one of the files to read"), (["llava", "in.json", "o.txt"], "Rename it"),
        (["llava", "in.json", "there.json"], "--overwrite"),
        (["llava", "in.json", "o.json", "--captions", "all"], "--captions is for ai-challenger"),
        (["ai-challenger", "in.json", "o.json", "--captions", "al"], "not one of random"),
        (["ai-challenger", "in.json", "o.json", "--prompt", "What?"], "no text with one <image>"),
        (["refcoco", "in.json", "o.json", "--box-form", "x"], "not one of llava"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_told_before_work_starts(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    for name in ("in.json", "there.json"):
        (tmp_path / name).write_text("[]")
    assert invoke(app, ["data", "convert", *arguments], debug=False) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) <= 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json", "there.json"]


def test_nothing_is_left_of_a_conversion_that_fails(convert, tmp_path):
    good = {"id": "g", "conversations": turns("Q", "A")}
    (tmp_path / "cut.json").write_text(json.dumps([good, good])[:-5])
    convert("llava", "cut.json", code=1)
    assert "not valid JSON" in convert.err
    convert("llava", [], code=1)
    assert "the sources hold no record" in convert.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.json", "in.json"]
    (tmp_path / "out.json").write_text("old")
    assert invoke(app, ["data", "convert", "llava", "cut.json", "out.json", "--overwrite"], debug=False) == 1
    assert (tmp_path / "out.json").read_text() == "old"


def test_half_a_character_is_refused_in_turns_and_kept_in_ids(convert):
    source = [{"id": "\ud800", "conversations": turns("Q", "A")}, {"id": "b", "conversations": turns("\ud800", "A")}]
    assert len(convert("llava", source, "--max-skipped", "1")) == 1
    assert convert.skipped()[0]["reason"] == "wrong form"
