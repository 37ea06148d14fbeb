"""`vlmtool data check | preview`, called as the command line calls them, with parts that have no weights."""

import json

import pytest
import typer
from typer.testing import CliRunner

from vlmtool.cli import data
from vlmtool.utils.errors import CheckpointError, RecipeError, UsageError

LONG = "A red circle above a blue square. " * 20


def record(name, question="<image>\nWhat?", answer="It is [red]round[/red].", image="a.png") -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": image, "conversations": turns}


@pytest.fixture
def vlmtool(tmp_path, tokenizer_folder, encoder_folder, picture):
    """`vlmtool("check", records, "--deep")` → result of the command on a recipe for these records."""
    app = typer.Typer()
    app.command("check")(data.check)
    app.command("preview")(data.preview)
    picture("a.png", 96, 72)

    def run(command: str, records: list, *options: str, **changes):
        path = tmp_path / "data.json"
        path.write_text(json.dumps(records))
        sections = dict(
            llm=dict(path=str(tokenizer_folder), template="vicuna", freeze=True),
            vision_encoder=dict(path=str(encoder_folder)),
            projector=dict(),
            data=dict(path=str(path), image_folder=str(tmp_path / "images"), max_length=100),
            schedule=dict(lr=1e-3, batch_size=1),
        )
        recipe = tmp_path / "recipe.py"
        recipe.write_text("".join(f"{name} = {value!r}\n" for name, value in sections.items()))
        sets = [part for key, value in changes.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]
        result = CliRunner().invoke(app, [command, str(recipe), *options, *sets], env={"COLUMNS": "120"})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def test_check_of_good_data_exits_0(vlmtool):
    result = vlmtool("check", [record("a"), record("b", question="What?", image=None)])
    assert result.exit_code == 0
    assert "2 records, 2 usable samples, 1 image." in result.stdout
    assert "error" not in result.stdout


def test_check_counts_one_as_one_and_thousands_with_separators(vlmtool):
    assert "1 record, 1 usable sample, 1 image.\n" in vlmtool("check", [record("a")]).stdout
    result = vlmtool("check", [record(n, answer=f"{n}", image=None, question="Q") for n in range(1001)])
    assert "1,001 records, 1,001 usable samples, 0 images.\n" in result.stdout


def test_check_of_an_empty_file_names_it_and_the_cause(vlmtool, tmp_path):
    result = vlmtool("check", [])
    assert result.exit_code == 1 and "0 records, 0 usable samples" in result.stdout
    assert f"{tmp_path / 'data.json'}: no record: the array is empty." in result.stdout
    assert "Tokens a sample" not in result.stdout


def test_check_prints_what_where_and_how_to_fix_it(vlmtool, tmp_path):
    result = vlmtool("check", [record("a"), record("gone", image="gone.png"), record("odd", question="Q"), record("a")])
    assert result.exit_code == 1
    assert result.stdout.index("<image> tags ≠ images") < result.stdout.index("missing image")
    assert result.stdout.index("missing image") < result.stdout.index("id used before")
    assert "add the image or drop the tag" in result.stdout
    assert f"  {tmp_path / 'data.json'}: record 2: sample 'gone' gone.png" in result.stdout.splitlines()


def test_check_with_warnings_alone_exits_0(vlmtool):
    result = vlmtool("check", [record("a"), record("b", answer=LONG)])
    assert result.exit_code == 0
    assert "answer cut by max_length" in result.stdout


def test_check_lists_the_first_places_and_all_when_asked(vlmtool):
    records = [{"id": f"s{n}"} for n in range(15)]
    short, full = vlmtool("check", records), vlmtool("check", records, "--all")
    assert "… and 5 more; --all lists them." in short.stdout
    assert "'s14'" not in short.stdout and "'s14'" in full.stdout


def test_check_limits_the_records(vlmtool):
    assert "2 records" in vlmtool("check", [record(n) for n in range(5)], "--limit", "2").stdout


def test_check_reads_the_held_out_file_too(vlmtool, tmp_path):
    (tmp_path / "val.json").write_text(json.dumps([{"id": "val"}]))
    result = vlmtool("check", [record("a")], data__val_path=tmp_path / "val.json")
    assert result.exit_code == 1
    assert "val.json: record 1: sample 'val'" in result.stdout


def test_deep_finds_a_cut_picture(vlmtool, picture):
    path = picture("cut.png", 60, 40)
    path.write_bytes(path.read_bytes()[:300])
    records = [record("a", image="cut.png")]
    assert vlmtool("check", records).exit_code == 0
    assert vlmtool("check", records, "--deep").exit_code == 1


@pytest.mark.parametrize(
    ("strategy", "tokens"), [("auto", 4), ("patch", 4), ("full", 5)]
)  # 2 × 2 patches, and the CLS token where it is kept
def test_an_images_tokens_come_from_the_configs(vlmtool, strategy, tokens):
    result = vlmtool("preview", [record("a")], vision_encoder__select_strategy=strategy)
    assert f"[image {tokens} tokens: a.png 96×72]" in result.stdout


def test_preview_marks_what_is_learned_and_shows_text_as_it_is(vlmtool):
    result = vlmtool("preview", [record("a")])
    assert result.exit_code == 0
    heading, body, after = result.stdout.split("\n", 2)
    assert heading.startswith("sample 'a' (") and "supervised" in heading
    assert body == "<s>USER: [image 4 tokens: a.png 96×72]"
    assert after.rstrip("\n") == "What? ASSISTANT:« It is [red]round[/red].</s>»"


def test_preview_shows_as_many_as_asked(vlmtool):
    records = [record(n) for n in range(5)]
    assert vlmtool("preview", records).stdout.count("sample '") == 3
    assert vlmtool("preview", records, "-n", "1").stdout.count("sample '") == 1


def test_preview_finds_an_id(vlmtool):
    records = [record(f"sample_{n}") for n in range(5)]
    assert "sample 'sample_4'" in vlmtool("preview", records, "--id", "sample_4").stdout
    with pytest.raises(UsageError, match=r"--id sample_x: no record .* Did you mean 'sample_"):
        vlmtool("preview", records, "--id", "sample_x")


@pytest.mark.parametrize("command", ["check", "preview"])
def test_text_of_files_cannot_steer_the_terminal(vlmtool, command):
    evil = "\x1b[2J\x1b]0;title\x07red"
    result = vlmtool(
        command, [record(evil, answer=evil, image="a.png"), {"id": evil}][: 1 if command == "preview" else 2]
    )
    assert "red" in result.stdout
    assert "\x1b" not in result.stdout and "\x07" not in result.stdout


def test_a_template_without_marks_is_refused_before_work_starts(vlmtool, tmp_path):
    template = tmp_path / "bare.jinja"
    template.write_text("{{ messages }}")
    with pytest.raises(RecipeError, match="does not mark the answers"):
        vlmtool("check", [record("a")], llm__template=template)


def test_a_damaged_encoder_folder_is_named(vlmtool, tmp_path):
    folder = tmp_path / "encoder"
    folder.mkdir()
    with pytest.raises(CheckpointError, match="config cannot be read"):
        vlmtool("check", [record("a")], vision_encoder__path=folder)
