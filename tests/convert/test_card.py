"""The model card: the facts of the manifest, and text of users that cannot be anything but text."""

import re
from pathlib import Path

import pytest
from transformers import AutoProcessor

from tests.convert.conftest import LORA, Train
from vlmtool.convert.card import MARK, card, code
from vlmtool.convert.merge import merge_folder
from vlmtool.convert.pth_to_hf import SAVE_FORMATS, pth_to_hf
from vlmtool.models.manifest import read_lineage, read_manifest

EVIL = "x` <img src=x onerror=alert(1)> | ``` \n# Heading\n[link](javascript:1) \x1b[31m"


@pytest.mark.parametrize("save_format", SAVE_FORMATS)
def test_every_format_has_one(save_format, train: Train, standins, tmp_path):
    run = train(llm={"lora": LORA})
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "out", save_format)
    text = (folder / "README.md").read_text()
    manifest = read_manifest(folder) or read_lineage(folder)
    assert text.rpartition(MARK)[0] == card(manifest)
    said = [str(standins.llama), str(standins.clip), "lora r=8 alpha=16", "MLPProjector 64 → 64, depth 2", "vicuna"]
    said += ["4 tokens an image", "padded to a square", "x.json", manifest.parents[0]["sha256"][:12], "torch"]
    assert [fact for fact in said if fact not in text] == []
    opening = {"huggingface": "AutoModelForImageTextToText", "official": "load_pretrained_model"}
    assert {**opening, "xtuner": "LLaVA_XTuner(", "vlmtool": "vlmtool chat"}[save_format] in text


def test_what_the_card_says_of_opening_runs(train: Train, standins, tmp_path, capsys):
    run = train(llm={"lora": LORA})
    folder = pth_to_hf(run.recipe, run.path, tmp_path / "out", "huggingface", fp32=True)
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    picture = next(standins.images.glob("*.jpg"))
    program = program.replace("path/of/this/folder", str(folder)).replace("picture.jpg", str(picture))
    capsys.readouterr()
    exec(program.replace('device_map="auto"', "").replace("max_new_tokens=200", "max_new_tokens=5"), {})
    assert capsys.readouterr().out.strip()
    pillow = AutoProcessor.from_pretrained(folder, backend="pil").image_processor
    assert type(pillow).__name__ == "LlavaImageProcessorPil" and pillow.do_pad


def test_an_edited_card_stays_and_another_is_written_anew(train: Train, tmp_path, capsys):
    run, target = train(llm={"lora": LORA}), tmp_path / "model"
    pth_to_hf(None, run.path, target)
    written = (target / "README.md").read_text()
    pth_to_hf(None, run.path, target)
    assert (target / "README.md").read_text() == written and "edited" not in capsys.readouterr().err
    (target / "README.md").write_text("# Ours\n" + written)
    pth_to_hf(None, run.path, target)
    assert (target / "README.md").read_text() == "# Ours\n" + written
    assert "was edited and stays as it is" in capsys.readouterr().err.replace("\n", " ")


def test_a_merged_folder_has_its_own(train: Train, tmp_path):
    run = train(llm={"lora": LORA})
    merged = merge_folder(pth_to_hf(run.recipe, run.path, tmp_path / "hf"), tmp_path / "merged")
    assert (merged / "README.md").read_text().rpartition(MARK)[0] == card(read_manifest(merged))
    (merged / "README.md").write_text("edited")  # it is for people: no hash holds it
    assert "README.md" not in read_manifest(merged).files


def test_text_of_users_is_only_text(train: Train, tmp_path):
    run = train(llm={"lora": LORA})
    manifest = read_manifest(pth_to_hf(run.recipe, run.path, tmp_path / "hf"))
    parent = {**manifest.parents[0], "name": EVIL, "step": EVIL, "stage": {"llm": EVIL}}
    llm = manifest.llm.model_copy(update={"base": EVIL})
    template = manifest.template.model_copy(update={"name": EVIL, "stop_words": (EVIL,)})
    changes = {"parents": (parent,), "llm": llm, "template": template, "data": {"path": EVIL}, "forced": (EVIL,)}
    text = card(manifest.model_copy(update={**changes, "versions": {EVIL: EVIL}}))
    assert "\x1b" not in text and text.count("# Heading") == 11
    outside = re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", text.replace("\\|", ""))  # without code spans
    assert not any(piece in outside for piece in ("<img", "onerror", "Heading", "javascript"))
    rows = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {4, 8}


def test_hub_ids_are_named_for_the_index(train: Train, tmp_path):
    run = train(llm={"lora": LORA})
    manifest = read_manifest(pth_to_hf(run.recipe, run.path, tmp_path / "hf"))
    assert "base_model" not in card(manifest)  # a path of this machine is nobody's model
    named = manifest.model_copy(update={"llm": manifest.llm.model_copy(update={"base": "lmsys/vicuna-7b-v1.5"})})
    assert 'base_model:\n  - "lmsys/vicuna-7b-v1.5"\n---\n' in card(named)


def test_code_spans():
    assert code("a") == "`a`" and code("a`b") == "``a`b``" and code("`") == "`` ` ``" and code("a|b") == "`a\\|b`"
    assert code("") == "` `" and code(Path("a\nb")) == "`a b`"
