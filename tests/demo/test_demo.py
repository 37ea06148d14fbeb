"""The demo proves what it says only if its test was never trained on, and cannot be guessed from the text."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vlmtool.demo import scenes
from vlmtool.demo.benchmark_files import write_benchmark_files
from vlmtool.demo.commands import demo_steps
from vlmtool.demo.digits import DIGIT_WORDS, digit_samples
from vlmtool.demo.part_llm import letter_accuracy
from vlmtool.demo.probe import fit
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.utils.hub import local_folder

ASSETS = Path(scenes.__file__).parent / "assets"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """The four benchmark files."""
    folder = tmp_path_factory.mktemp("benchmark")
    names = ("mmbench", "blank", "shuffled", "pairs")
    paths = {name: folder / f"{name}.tsv" for name in names}
    write_benchmark_files(*paths.values())
    return paths


def test_no_combination_of_the_test_occurs_in_training():
    rng = np.random.default_rng(0)
    seen = {(s.object, s.colour, s.place) for s in (scenes.sample_scene(rng, held_out=False) for _ in range(4000))}
    tested = {(s.object, s.colour, s.place) for s in (scenes.sample_scene(rng, held_out=True) for _ in range(2000))}
    assert not seen & tested
    for attribute, index in (("object", 0), ("colour", 1), ("place", 2)):
        assert {combination[index] for combination in seen} == set(scenes.VALUES[attribute])
        assert {combination[index] for combination in tested} == set(scenes.VALUES[attribute])


def test_handwriting_of_the_test_is_held_out():
    for word in DIGIT_WORDS:
        train, test = set(digit_samples(word, False)), set(digit_samples(word, True))
        assert train and test and not train & test


def test_a_blind_answer_is_right_once_in_its_group(files):
    """Questions of the same text and options differ in their picture, and every option is right equally often."""
    for name in ("mmbench", "blank", "shuffled"):
        groups = defaultdict(list)
        for row in MMBench(files[name]).rows:
            if row.is_base:
                groups[row.category, row.question, *row.options.values()].append(row)
        for (category, *_), rows in groups.items():
            counts = Counter(row.answer for row in rows)
            assert set(counts) == set(rows[0].options) and len(set(counts.values())) == 1, (name, category)
        assert sum(len(rows) for rows in groups.values()) >= 600


def test_controls_ask_the_same_questions_of_other_pictures(files):
    test, blank, shuffled = (MMBench(files[name]).rows for name in ("mmbench", "blank", "shuffled"))
    assert len({row.picture for row in blank}) == 1
    for one, other in zip(test, shuffled, strict=True):
        assert (one.question, one.options, one.answer) == (other.question, other.options, other.answer)
        assert one.picture != other.picture


def test_minimal_pairs_differ_in_their_answer_alone(files):
    rows = MMBench(files["pairs"]).rows
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert (one.question, one.options) == (other.question, other.options)
        assert one.answer != other.answer and one.picture != other.picture


def test_the_shipped_language_model_knows_its_task_from_text():
    folder = local_folder("vlmtool://demo/assets/llm", "llm")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert letter_accuracy(model, tokenizer, count=200) > 0.95
    shuffled = model.model.embed_tokens.weight.data
    shuffled[:] = shuffled[torch.randperm(len(shuffled), generator=torch.Generator().manual_seed(0))]
    assert letter_accuracy(model, tokenizer, count=200) < 0.6


def test_the_shipped_parts_are_small():
    assert sum(file.stat().st_size for file in ASSETS.rglob("*") if file.is_file()) < 8 * 2**20


def test_probe_reads_a_linear_signal():
    generator = torch.Generator().manual_seed(0)
    words = ("red", "green", "blue")
    labels = torch.randint(3, (300,), generator=generator)
    features = torch.nn.functional.one_hot(labels, 3) + 0.1 * torch.randn(300, 3, generator=generator)
    features = torch.cat([features, torch.ones(300, 1)], 1)
    scores = fit(features[:200], [{words[i]} for i in labels[:200]], words, features[200:])
    assert (scores.argmax(1) == labels[200:]).all()


def test_commands_name_the_work_dir_and_seed_everywhere(tmp_path):
    default = [step.command for step in demo_steps(Path("work_dirs/demo"), 0)]
    assert not any("--set" in command for command in default)
    for step in demo_steps(tmp_path / "with space", 3):
        assert "work_dirs" not in step.command
        assert "'" in step.command  # quoted
        if "vlmtool train" in step.command:
            assert "runtime.seed=3" in step.command


def test_records_are_llava_records(tmp_path):
    from vlmtool.data.formats.llava import parse_record
    from vlmtool.demo.data import _question_records

    rng = np.random.default_rng(0)
    drawn = [(f"{i}.jpg", scenes.sample_scene(rng, held_out=False)) for i in range(20)]
    for record in json.loads(json.dumps(_question_records(drawn, rng))):
        conversation = parse_record(record, "here", "1")
        assert len(conversation.images) == 1 and conversation.messages[-1].role == "assistant"


def test_three_lines_make_the_recipe_ones_own(standins):
    """What the demo's last words promise."""
    from vlmtool.recipe.load import load_recipe, recipe_text

    own = [f"data.path={standins.data}", f"data.image_folder={standins.images}", f"llm.path={standins.llama}"]
    text = recipe_text(load_recipe("demo_pretrain", own), "mine")
    assert "work_dirs" not in text
    assert "demo/assets/llm" not in text
