"""`vlmtool train CONFIG --dry-run`, called as the command line calls it: each thing that is wrong is a row."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import typer
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from tests.engine.conftest import FINETUNE, PRETRAIN, as_overrides, on_standins
from vlmtool.cli import train as train_command
from vlmtool.engine import resources
from vlmtool.engine.build import build_runner
from vlmtool.engine.planned import PlannedParts, planned_encoder, planned_llm, planned_projector
from vlmtool.engine.resources import (
    PassLoad,
    checkpoint_bytes,
    count,
    disk_row,
    memory_need,
    memory_row,
    num_checkpoints,
    size,
)
from vlmtool.engine.train import train
from vlmtool.engine.trainable import check_trainable
from vlmtool.models.build import build_llm
from vlmtool.recipe.catalog import recipes
from vlmtool.recipe.load import load_recipe
from vlmtool.recipe.schema import Schedule
from vlmtool.utils.errors import CheckpointError, RecipeError, UsageError
from vlmtool.utils.hub import local_folder

CPU = torch.device("cpu")


@dataclass
class DryRun:
    """What the command printed; `rows` are (level, what, detail with its remedy)."""

    exit_code: int
    text: str

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        rows: list[tuple[str, str, str]] = []
        for line in self.text.splitlines():
            start = re.match(r"(error|warning|ok) +(\S+(?: \S+)*?)  +(\S.*)$", line)
            if start:
                rows.append((start[1], start[2], start[3].strip()))
            elif line.startswith("        ") and rows:
                rows[-1] = (*rows[-1][:2], f"{rows[-1][2]} {line.strip()}")
        return rows

    def of(self, level: str) -> dict[str, str]:
        return {what: detail for found, what, detail in self.rows if found == level}


@pytest.fixture
def endless(tmp_path) -> str:
    """An override that names a template whose answers have no end."""
    file = tmp_path / "endless.jinja"
    answer = "{% generation %}{{ m.content }}{% endgeneration %}"
    turn = f"{{% if m.role == 'user' %}}{{{{ m.content }}}}{{% else %}}{answer}{{% endif %}}"
    file.write_text(f"{{{{ bos_token }}}}{{% for m in messages %}}{turn}{{% endfor %}}")
    return f"llm.template={str(file)!r}"


@pytest.fixture
def dry_run(small, tmp_path) -> Callable[..., DryRun]:
    """`dry_run("llm.path=…", options=["--deep"])` on the stand-ins."""
    app = typer.Typer()
    app.command("train")(train_command.train)

    def run(*overrides: str, recipe: str = FINETUNE, options: tuple[str, ...] = (), columns: int = 200) -> DryRun:
        sets = [part for override in [*small, *overrides] for part in ("--set", override)]
        folder = str(tmp_path / "run")
        arguments = [recipe, "--dry-run", "--work-dir", folder, *sets, *options]
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns)})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return DryRun(result.exit_code, result.stdout)

    return run


def planned(recipe, folder_llm: Path, folder_encoder: Path, beside: Path | None = None):
    """The model of a recipe, without memory."""
    llm, encoder = planned_llm(recipe, folder_llm), planned_encoder(recipe, folder_encoder, beside)
    width = llm.get_input_embeddings().embedding_dim
    parts = PlannedParts(llm=llm, vision_encoder=encoder, tokenizer=StubTokenizer())
    parts.projector = planned_projector(recipe, encoder.hidden_size, width)
    return parts.model()


class StubTokenizer:
    def convert_tokens_to_ids(self, token: str) -> int:
        return 400


def test_the_path_of_the_data_may_be_written_in_any_way(dry_run, standins, monkeypatch):
    monkeypatch.chdir(standins.data.parent)
    for path in (f"./{standins.data.name}", f"..//{standins.data.parent.name}/./{standins.data.name}"):
        assert dry_run("schedule.max_steps=None", f"data.path='{path}'").of("ok")["steps"] == "8 of 4 samples"


def test_a_pointer_to_the_newest_checkpoint_that_is_broken_is_one_row_of_many(dry_run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last_checkpoint").write_text("../iter_4.pth")
    run = dry_run("data.val_path='none.json'")
    assert set(run.of("error")) == {"work dir", "data.val_path"} and "disk" in run.of("ok")
    assert "'../iter_4.pth' is not the name of a file beside it" in run.of("error")["work dir"]


def test_the_command_that_lists_all_places_is_of_the_same_data(dry_run, tmp_path):
    run = dry_run(f"data.image_folder={str(tmp_path)!r}")
    [line] = [line for line in run.text.splitlines() if line.startswith("Every place")]
    words = shlex.split(line.partition(": ")[2])
    assert words[:4] == ["vlmtool", "data", "check", FINETUNE] and words.count("--set") == (len(words) - 4) / 2 > 1
    assert words[-1] == f"data.image_folder={str(tmp_path)!r}"


def test_one_is_no_plural(dry_run, standins, tmp_path):
    file = tmp_path / "one.json"
    file.write_text(json.dumps(json.loads(standins.data.read_text())[:1]))
    last_alone = ("schedule.max_steps=1", "schedule.save_every=None", "schedule.save_epochs=False")
    run = dry_run(f"data.path={str(file)!r}", "schedule.batch_size=1", "data.val_path='no'", *last_alone)
    fine = run.of("ok")
    assert fine["data"] == "1 record, 1 usable sample, 1 image" and fine["steps"] == "1 of 1 sample"
    assert fine["disk"].startswith("1 checkpoint of ") and run.text.splitlines()[-1].startswith("1 check failed: ")


def test_a_good_recipe_has_no_errors_and_nothing_is_written(dry_run, tmp_path):
    run = dry_run("schedule.max_steps=None")
    assert run.exit_code == 0
    assert run.of("error") == {} and set(run.of("warning")) == {"same record as before"}  # the stand-ins hold copies
    fine = run.of("ok")
    assert fine["data"] == "32 records, 32 usable samples, 32 images"
    assert fine["vision_encoder"].endswith("frozen; 4 tokens an image")
    assert fine["chat template"] == "vicuna: BOS once, answers end in '</s>'"
    assert fine["steps"] == "8 of 4 samples"
    assert {"recipe", "llm", "projector", "sample length", "learned from", "disk", "memory"} <= set(fine)
    assert "this training can run" in run.text
    assert not (tmp_path / "run").exists()


def test_the_worst_stands_first_and_80_columns_are_enough(dry_run):
    run = dry_run("llm.path='/nowhere'", "data.val_path='none.json'", columns=80)
    levels = [level for level, _, _ in run.rows]
    assert levels == sorted(levels, key=["error", "warning", "ok"].index) and len(set(levels)) == 3
    lines = [line for line in run.text.splitlines() if not line.startswith("Every place")]  # a command to copy
    assert all(len(line) <= 80 for line in lines)
    assert "this training would stop" in run.text


def test_one_defect_does_not_hide_another(dry_run, tmp_path):
    run = dry_run(
        "llm.path='/nowhere/llm'", "vision_encoder.path='/nowhere/encoder'", f"data.image_folder={str(tmp_path)!r}",
        "data.val_path='none.json'", "init_from='none'", "schedule.optimizer='torch.optim.Adamm'",
        "data.sample_prompts=[dict(question='Q', image='none.jpg')]",
    )  # fmt: skip
    assert run.exit_code == 1
    assert set(run.of("error")) == {
        "llm", "vision_encoder", "missing image", "data.val_path", "init_from", "optimiser", "sample_prompts"
    }  # fmt: skip
    assert "neither lengths nor answers were looked at" in run.of("warning")["tokens"]
    assert run.of("error")["missing image"].startswith("32, first ")


@pytest.mark.parametrize(
    ("override", "what", "told"),
    [
        ("llm.path='/nowhere'", "llm", "there is no folder '/nowhere'"),
        ("vision_encoder.path='/nowhere'", "vision_encoder", "there is no folder '/nowhere'"),
        ("data.path='none.json'", "data.path", "there is no file 'none.json' → Point to it: --set data.path=FILE"),
        ("data.val_path='none.json'", "data.val_path", "there is no file 'none.json'"),
        ("data.image_folder='/nowhere'", "data.image_folder", "there is no folder '/nowhere'"),
        ("data.sample_prompts=[dict(question='Q', image='no.jpg')]", "sample_prompts", "no.jpg: there is no such"),
        ("init_from='none'", "init_from", "there is no 'none'"),
        ("schedule.optimizer='torch.optim.Adamm'", "optimiser", "has no attribute 'Adamm'"),
        ("schedule.optimizer='adamw'", "optimiser", "not a dotted path. Did you mean 'torch.optim.AdamW'?"),
        ("schedule.optimizer='bnb.PagedAdamW8Bit'", "optimiser", "Did you mean 'bitsandbytes.optim.PagedAdamW8bit'?"),
        ("vision_encoder.cache=dict(folder='/dev/null/kept')", "kept features", "'/dev/null' is a file"),
        ("schedule.optimizer='torch.nn.Linear'", "optimiser", "'torch.nn.Linear' is no optimiser"),
        ("schedule.optimizer='torch.optim.LBFGS'", "optimiser", "LBFGS computes a step's loss several times"),
        ("schedule.betas=(0.9, 1.5)", "optimiser", "AdamW cannot be made: Invalid beta parameter"),
        ("runtime.dtype='float16'", "number type", "needs a GPU"),
        ("runtime.strategy='zero4'", "strategy", "Did you mean"),
        ("runtime.liger=True", "liger", "its kernels need a GPU"),
        ("llm.lora=dict(r=8, alpha=16, target_modules=('q_porj',))", "llm", "Did you mean 'q_proj'"),
        ("projector.dept=3", "projector", "Did you mean 'depth'"),
        ("vision_encoder.select_layer=-40", "vision_encoder", "the encoder has 3 blocks"),
        ("llm.template='vicunna'", "chat template", "Did you mean 'vicuna'"),
        ("llm.template=None", "chat template", "has no chat template"),
        ("data.max_length=2", "image cut by max_length", "first "),
    ],
)
def test_each_mistake_is_an_error_row(dry_run, override, what, told):
    run = dry_run(override)
    assert run.exit_code == 1
    assert told in run.of("error")[what]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("schedule.optimizer='AdamW'", "optimiser: schedule.optimizer = 'AdamW': not a dotted path"),
        ("vision_encoder.cache=dict(folder='/dev/null/kept')", "'/dev/null' is a file"),
        ("runtime.liger=True", "its kernels need a GPU"),
    ],
)
def test_a_training_tells_them_before_it_builds_anything(small, tmp_path, monkeypatch, override, told):
    monkeypatch.setattr("vlmtool.engine.train.build_runner", None)
    with pytest.raises(UsageError, match=re.escape(told)):
        train(FINETUNE, [*small, override], tmp_path / "run")


@pytest.mark.parametrize(
    ("override", "what", "told"),
    [
        ("schedule.optimizer='bitsandbytes.optim.PagedAdamW8bit'", "optimiser", "there is no GPU: nothing is paged"),
        ("runtime.activation_checkpointing=('vision_encoder',)", "memory", "names the vision encoder, which is frozen"),
    ],
)
def test_what_does_nothing_is_a_warning(dry_run, override, what, told):
    run = dry_run(override)
    assert run.exit_code == 0
    assert told in run.of("warning")[what]


class OnGpuAlone(torch.optim.SGD):
    def __init__(self, *_, **__):
        raise RuntimeError("needs CUDA")


def test_an_optimiser_that_works_on_a_gpu_alone_is_taken_for_adam(dry_run):
    run = dry_run(f"schedule.optimizer='{__name__}.OnGpuAlone'")
    assert run.exit_code == 0
    assert run.of("ok")["memory"] == dry_run().of("ok")["memory"]


def test_the_demos_recipes_name_what_makes_their_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no file 'work_dirs/demo/data/pretrain.json'.*\n.*`vlmtool demo` makes"):
        train("demo_pretrain")


def test_a_template_that_does_not_fit_is_told(dry_run, endless):
    assert "answers end in 'A heron.', 'n the reeds.'" in dry_run(endless).of("error")["chat template"]
    run = dry_run("llm.template='qwen_chat'")
    assert run.exit_code == 0 and "<|im_end|>" in run.of("warning")["chat template"]


def test_what_the_recipe_itself_says_wrong_ends_the_command_as_before(dry_run):
    with pytest.raises(RecipeError, match="Did you mean 'lora'"):
        dry_run("llm.loar=dict(r=8, alpha=16)")


def test_a_work_dir_that_cannot_be_made_is_an_error(dry_run, tmp_path):
    (tmp_path / "run").write_text("a file")
    assert "is a file" in dry_run().of("error")["work dir"]


@pytest.mark.parametrize("part", ["llm", "vision_encoder"])
def test_weights_that_were_not_copied_whole_are_found(dry_run, standins, tmp_path, part):
    folder = tmp_path / "part"
    shutil.copytree(standins.llama if part == "llm" else standins.clip, folder)
    weights = folder / "model.safetensors"
    override = f"{part}.path={str(folder)!r}"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "the weights are damaged" in dry_run(override).of("error")[part]
    weights.unlink()
    assert "holds no weights" in dry_run(override).of("error")[part]
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert (
        f"weight file '{shards['a']}' and 1 more is missing"
        in dry_run(f"{part}.path={str(folder)!r}").of("error")[part]
    )


def test_deep_finds_a_cut_picture(dry_run, standins, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(standins.images, images)
    (images / "000_0.jpg").write_bytes((images / "000_0.jpg").read_bytes()[:-100])
    override = f"data.image_folder={str(images)!r}"
    assert dry_run(override).exit_code == 0
    run = dry_run(override, options=("--deep",))
    assert run.exit_code == 1 and "sample 'r0' 000_0.jpg" in run.of("error")["unreadable image"]


def test_deep_belongs_to_the_dry_run(small):
    with pytest.raises(UsageError, match="--dry-run"):
        train_command.train(FINETUNE, set_=small, deep=True)


def test_few_bad_samples_are_a_warning_where_they_are_skipped(dry_run, standins, tmp_path):
    records = json.loads(standins.data.read_text()) * 4
    records[0] = {**records[0], "image": "none.jpg"}
    file = tmp_path / "data.json"
    file.write_text(json.dumps(records))
    override = f"data.path={str(file)!r}"
    assert dry_run(override).exit_code == 1
    run = dry_run(override, "data.on_bad_sample='skip'")
    assert run.exit_code == 0 and "none.jpg" in run.of("warning")["missing image"]


def test_samples_longer_than_the_llm_knows_are_a_warning(dry_run, standins, tmp_path):
    folder = tmp_path / "llm"
    shutil.copytree(standins.llama, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 30}))
    run = dry_run(f"llm.path={str(folder)!r}")
    assert run.exit_code == 0 and "of which the LLM knows 30" in run.of("warning")["sample length"]


def test_the_processes_of_the_launch_share_a_step(dry_run, monkeypatch):
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    run = dry_run("schedule.max_steps=None")
    assert run.of("ok")["steps"] == "4 of 8 samples"
    assert "in each of 2 processes" in run.of("ok")["memory"]


def test_the_stage_before_is_held_against_this_one(run, dry_run, standins):
    first = f"init_from={str(run('first', recipe=PRETRAIN))!r}"
    assert re.match(r"4 tensors of '.*iter_4.pth' fit", dry_run(first).of("ok")["init_from"])
    other = dry_run(first, f"llm.path={str(standins.internlm)!r}", "llm.template='plain'")
    assert other.exit_code == 1 and "llm" in other.of("error")["init_from"]
    deeper = dry_run(first, "projector.depth=3")
    assert deeper.exit_code == 1 and "projector" in deeper.of("error")["init_from"]


def test_a_run_to_resume_is_looked_at_in_place_of_the_stage_before(run, dry_run):
    run("run")
    assert dry_run("init_from='none'", options=("--resume",)).of("ok")["resume"].endswith("iter_4.pth' fits")
    assert "resume" in dry_run("projector.depth=3", options=("--resume",)).of("error")


def test_the_checkpoint_to_resume_is_looked_into(run, dry_run, standins, tmp_path):
    """A dry run refuses what the run itself would, with the same words."""
    by_length = "data.sampler='length'"
    folder = run("run", by_length)
    fine = dry_run(by_length, options=("--resume",)).of("ok")["resume"]
    assert fine.startswith("step 4: ")
    (tmp_path / "few.json").write_text(json.dumps(json.loads(standins.data.read_text())[:20]))
    few = f"data.path={str(tmp_path / 'few.json')!r}"
    for overrides, told in (
        ((by_length, "llm.lora=dict(r=4, alpha=8)"), "this recipe trains other weights"),
        ((by_length, "runtime.seed=7"), "draw other batches than before: runtime.seed"),
        ((by_length, "schedule.batch_size=2"), "processes) 4 → 2"),
        ((by_length, few), "samples 32 → 20"),
        (("data.sampler='random'",), "by length True → False"),
    ):
        assert told in dry_run(*overrides, options=("--resume",)).of("error")["resume"]
        with pytest.raises(CheckpointError, match=re.escape(told)):
            run("run", *overrides, resume=True)
    shutil.rmtree(folder / "iter_4.state")
    assert "missing or damaged" in dry_run(by_length, options=("--resume",)).of("error")["resume"]
    (folder / "iter_4.pth").write_bytes((folder / "iter_4.pth").read_bytes()[:-1000])
    assert "the file is damaged" in dry_run(by_length, options=("--resume",)).of("error")["resume"]
    (folder / "iter_4.pth").unlink()
    assert "there is no file" in dry_run(by_length, options=("--resume",)).of("error")["resume"]


@pytest.mark.parametrize("content", ["", "[]", "\n"])
def test_an_empty_file_has_no_records(dry_run, tmp_path, content):
    file = tmp_path / "none.json"
    file.write_text(content)
    run = dry_run(f"data.path={str(file)!r}")
    assert run.exit_code == 1 and list(run.of("error")) == ["no data file"]
    assert "no record: " in run.of("error")["no data file"] and "answers" not in run.text.partition("ok ")[0]


def test_a_work_dir_with_a_run_in_it_is_an_error(run, dry_run):
    run("run")
    again = dry_run()
    assert again.exit_code == 1 and "holds a run already, up to iter_4.pth" in again.of("error")["work dir"]


def test_every_start_makes_the_quick_checks(run, endless, tmp_path, monkeypatch, capsys):
    with pytest.raises(UsageError, match="chat template: answers end in") as caught:
        run("wrong", endless)
    assert len(str(caught.value).splitlines()) == 2
    assert not (tmp_path / "wrong").exists()
    (tmp_path / "memory.max").write_text("1000000\n")
    monkeypatch.setattr(resources, "CGROUP_LIMIT", tmp_path / "memory.max")
    run("tight")
    assert "Warning: memory: 5." in capsys.readouterr().err


def test_checkpoints_that_do_not_fit_are_an_error(dry_run, tmp_path):
    many = ("schedule.keep=10000000000", "schedule.save_every=1", "schedule.max_steps=10000000000")
    run = dry_run(*many)
    assert run.exit_code == 1
    assert re.match(r"11,250,000,000 checkpoints of 3\.\d MB at once, .* free in", run.of("error")["disk"])
    assert disk_row(1, 1, tmp_path / "not" / "there").level == "ok"


@pytest.mark.parametrize(
    ("schedule", "steps", "epochs", "expected"),
    [
        (dict(), 100, 1, 1),  # the last step alone
        (dict(save_epochs=True), 100, 3, 4),
        (dict(save_every=10, keep=2), 100, 1, 3),  # two are kept while the third is written
        (dict(save_every=10, keep=2, save_epochs=True), 100, 3, 6),
        (dict(save_every=60, keep=5), 100, 1, 2),
        (dict(save_every=100, keep=5), 100, 1, 1),
        (dict(save_every=10, keep=2), None, 1, 3),
    ],
)
def test_how_many_checkpoints_lie_on_disk_at_once(schedule, steps, epochs, expected):
    assert num_checkpoints(Schedule(lr=1.0, batch_size=1, **schedule), steps, epochs) == expected


def test_the_size_of_a_checkpoint_is_predicted(run, small, standins):
    recipe = load_recipe(FINETUNE, small)
    folder = run("real")
    written = sum(f.stat().st_size for f in (folder / "iter_4.pth", folder / "iter_4.state" / "optimizer.pt"))
    predicted = checkpoint_bytes(planned(recipe, standins.llama, standins.clip), recipe)
    assert 0.9 < predicted / written < 1  # names, meta and the archive's frame come on top


@pytest.mark.parametrize("name", [entry.name for entry in recipes()])
def test_what_is_trained_is_predicted(name, parts, records, tmp_path):
    changed = on_standins(load_recipe(name), parts, records) | {"init_from": None}
    recipe = load_recipe(name, as_overrides(changed))
    second = recipe.vision_encoder.beside
    paths = [recipe.llm.path, recipe.vision_encoder.path, *([second.path] if second else [])]
    model = planned(recipe, *(local_folder(path, "path") for path in paths))
    assert check_trainable(model, recipe) == build_runner(recipe, name, tmp_path).parts
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_the_memory_of_weights_is_predicted(small, standins, quantization):
    thin = "llm.lora=dict(r=1, alpha=1)"  # so that the frozen weights are most of the sum
    recipe = load_recipe(FINETUNE, [*small, f"llm.quantization={quantization!r}", thin])
    need = memory_need(planned(recipe, standins.llama, standins.clip), recipe, CPU)
    llm = build_llm(standins.llama, torch.float32, quantization, recipe.llm.lora)
    real = sum(p.numel() * p.element_size() for p in llm.parameters())
    real += sum(p.quant_state.absmax.numel() for p in llm.parameters() if hasattr(p, "quant_state"))
    assert need.weights["llm"] == pytest.approx(real, rel=1e-3)
    trained = sum(p.numel() for p in llm.parameters() if p.requires_grad) + sum(
        need.weights["projector"] / 4 for _ in [0]
    )
    assert need.gradients == 4 * trained and need.optimizer == pytest.approx(8 * trained, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torch.optim.AdamW", 8.0),
        ("torch.optim.SGD", 0.0),
        ("torch.optim.Adafactor", 0.0),  # a number for each row and column: https://arxiv.org/abs/1804.04235
        ("bitsandbytes.optim.PagedAdamW8bit", 2.0),  # https://arxiv.org/abs/2110.02861, and a scale for a block of 256
        ("bitsandbytes.optim.Lion", 4.0),
    ],
)
def test_the_memory_of_an_optimiser_is_what_it_keeps(small, standins, name, expected):
    recipe = load_recipe(FINETUNE, [*small, f"schedule.optimizer={name!r}"])
    model = planned(recipe, standins.llama, standins.clip)
    need = memory_need(model, recipe, CPU)
    assert 4 * need.optimizer / need.gradients == pytest.approx(expected, abs=0.07)
    adams = checkpoint_bytes(model, load_recipe(FINETUNE, small))
    assert adams - checkpoint_bytes(model, recipe) == pytest.approx((8 - expected) * need.gradients / 4, rel=0.02)


@pytest.mark.parametrize("tuned", [None, ["q_proj", "v_proj"]])
def test_the_memory_of_activations_is_predicted(small, standins, tuned):
    """Against what autograd keeps of a model with proportions as Llama has them; by a quarter or so."""
    tokens, width, blocks = 512, 256, 6
    config = LlamaConfig(
        hidden_size=width, intermediate_size=688, num_hidden_layers=blocks, num_attention_heads=8, vocab_size=1000
    )
    llm = LlamaForCausalLM(config)
    body = llm.model if tuned is None else get_peft_model(llm, LoraConfig(target_modules=tuned)).model.model
    weights = {weight.untyped_storage().data_ptr() for weight in llm.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        body(inputs_embeds=torch.randn(1, tokens, width, requires_grad=True), use_cache=False)
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    recipe = load_recipe(FINETUNE, small)
    model = planned(recipe, standins.llama, standins.clip)
    model.llm = llm
    need = memory_need(model, recipe, CPU, PassLoad(tokens, 100, 0.0))
    assert 0.75 < need.activations / real < 1.25
    assert need.logits == 100 * 1000 * 4


def test_too_little_memory_is_a_warning(dry_run, tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000000\n")
    monkeypatch.setattr(resources, "CGROUP_LIMIT", tmp_path / "memory.max")
    run = dry_run()
    assert run.exit_code == 0
    told = r"7\.\d MB of 1\.0 MB RAM, estimated for the largest pass: llm 1\.\d MB.*activations 2\.\d MB"
    assert re.match(told, run.of("warning")["memory"])


def test_processes_share_the_ram_but_each_has_its_gpu(small, standins):
    recipe = load_recipe(FINETUNE, small)
    need = memory_need(planned(recipe, standins.llama, standins.clip), recipe, CPU)
    alone, shared = (memory_row(need, CPU, processes).detail for processes in (1, 10**6))
    assert "in each of" not in alone
    assert memory_row(need, CPU, 10**6).level == "warning" and "in each of 1000000 processes" in shared


def test_sizes_are_told_in_three_digits():
    assert [size(n) for n in (900, 81_000, 3_210_000, 14.04e9, 812e9, 2.5e12)] == [
        "1 kB", "81 kB", "3.2 MB", "14.0 GB", "812 GB", "2.5 TB"
    ]  # fmt: skip
    assert [count(n) for n in (8_320, 158_300_000, 6.74e9)] == ["8 k", "158.3 M", "6.7 B"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("mmbench:nowhere.tsv", "there is no 'nowhere.tsv'"),
        ("mmbanch:{table}", "Did you mean 'mmbench'"),
        ("multiple_choice:{table}", "table.tsv:3: index 1 stands on line 2 already"),
    ],
)
def test_benchmarks_of_the_training_are_opened(dry_run, tmp_path, entry, said):
    row = "1\tWhich?\tred\tblue\tA\t\n"
    (tmp_path / "table.tsv").write_text("index\tquestion\tA\tB\tanswer\timage\n" + row + row)
    run = dry_run(f"schedule.eval=['{entry.format(table=tmp_path / 'table.tsv')}']")
    assert run.exit_code == 1 and said in run.of("error")["schedule.eval"]


def test_real_steps_tell_their_time_and_memory(dry_run, tmp_path):
    run = dry_run("schedule.max_steps=600", options=("--steps", "2"))
    told = re.match(r"(\S+) s, the median of 2 real steps; (\S+) min for all 600", run.of("ok")["step time"])
    seconds, minutes = map(float, told.groups())
    assert run.exit_code == 0 and minutes == pytest.approx(10 * seconds, rel=0.006, abs=0.06)
    assert re.match(r"(\d+ MB|\d\.\d GB) in the steps taken: measured", run.of("ok")["peak memory"])
    assert not list(tmp_path.glob("run/*"))


def test_real_steps_that_fail_are_an_error(dry_run):
    never = "mmengine=dict(custom_hooks=[dict(type='no.such.Hook')])"
    run = dry_run(never, options=("--steps", "1"))
    assert run.exit_code == 1 and "no.such" in run.of("error")["real steps"]
    assert ": Error: " not in run.of("error")["real steps"] and "Mend that first" not in run.of("error")["real steps"]


def test_no_more_real_steps_are_taken_than_there_are(dry_run):
    run = dry_run("schedule.max_steps=2", options=("--steps", "1000"))
    assert "the median of 2 real steps" in run.of("ok")["step time"]


def test_real_steps_belong_to_the_dry_run(dry_run):
    with pytest.raises(UsageError, match="--steps: belongs to --dry-run"):
        train_command.train(FINETUNE, steps=3)


def test_a_pass_is_told_with_and_without_packing(dry_run):
    padded, packed = dry_run().of("ok")["a pass"], dry_run("schedule.pack_to=2048").of("ok")["a pass"]
    assert re.match(r"[\d,]+ tokens on average, up to [\d,]+ with padding", padded)
    assert re.match(r"up to 2,048 tokens, about \d+\.\d samples packed into it", packed)
