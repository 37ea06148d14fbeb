"""The parts that recipes are put together from: each is read, checked and short."""

import re
from pathlib import Path

import pytest

from vlmtool.data.templates.library import find_template
from vlmtool.recipe.catalog import CONFIGS
from vlmtool.recipe.load import read_sections
from vlmtool.recipe.schema import Recipe

SECTIONS = {
    "data": "data", "llms": "llm", "projectors": "projector", "schedules": "schedule",
    "vision_encoders": "vision_encoder",
}  # fmt: skip
FILES = sorted(file for file in (CONFIGS / "_base_").rglob("*.py") if file.name != "__init__.py")
HUB_ID = re.compile(r"[\w-]+/[\w.-]+")
SIZE = re.compile(r"\d+(?:_\d+)?[bm](?![a-z])|patch\d+|(?<=_)\d{3}(?![a-z0-9])")  # 1_8b, 135m, patch14, 336


def files(folder: str) -> list[Path]:
    """The parts of a folder that come from the hub."""
    return [file for file in FILES if file.parent.name == folder and not file.name.startswith("demo_")]


def part(file: Path):
    """The file's one section, checked."""
    sections = read_sections(file)
    name = SECTIONS[file.parent.name]
    assert list(sections) == [name]
    return Recipe.model_fields[name].annotation.model_validate(sections[name])


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_part_is_one_short_section_that_the_schema_takes(file):
    part(file)
    assert len(file.read_text(encoding="utf-8").splitlines()) <= (25 if file.parent.name == "data" else 10)


@pytest.mark.parametrize("file", files("llms"), ids=lambda file: file.stem)
def test_a_language_model_names_a_template_that_can_be_learned_from(file):
    llm = part(file)
    assert HUB_ID.fullmatch(llm.path)
    assert find_template(llm.template, None).marks_answers


@pytest.mark.parametrize("file", files("vision_encoders"), ids=lambda file: file.stem)
def test_an_image_encoder_says_its_layer(file):
    assert HUB_ID.fullmatch(part(file).path)
    assert "select_layer" in read_sections(file)["vision_encoder"]


def test_no_two_files_name_the_same_checkpoint():
    for folder in ("llms", "vision_encoders"):
        paths = [(part(file).path, getattr(part(file), "beside", None)) for file in files(folder)]
        assert len(paths) == len(set(paths)) > 5


@pytest.mark.parametrize("file", files("llms") + files("vision_encoders"), ids=lambda file: file.stem)
def test_a_file_is_named_after_its_checkpoint(file):
    if file.stem == "xmodel_lm_1_1b":  # whose hub name has no size
        return
    path = re.sub(r"[-.]", "_", part(file).path.lower())
    stem = re.sub(r"_p(\d+)", r"_patch\1", file.stem)
    assert [size for size in SIZE.findall(stem) if size not in path] == []
