"""Each way of tuning in a run: it resumes exactly, evaluates on the way, and hands over to the next stage."""

import shutil

import pytest
import torch
from mmengine.hooks import Hook

from tests.engine.conftest import FINETUNE, log_rows, losses
from vlmtool.convert.pth_to_hf import pth_to_hf
from vlmtool.engine.build import build_model, build_runner
from vlmtool.engine.planned import planned_llm
from vlmtool.models.checkpoint import read_checkpoint
from vlmtool.recipe.load import load_recipe

WAYS = {
    "dora": ["llm.lora=dict(r=8, alpha=16, dropout=0.1, dora=True, rslora=True)", "llm.quantization='nf4'"],
    "prefix": [
        "llm.prefix=dict(num_tokens=3)",
        "runtime.activation_checkpointing=False",
        "schedule.sample_every=2",
        "data.sample_prompts=(dict(question='What is it?'),)",
    ],  # fmt: skip
    "int8": ["llm.lora=dict(r=8, alpha=16, dropout=0.1)", "llm.quantization='int8'"],
    "noise": ["schedule.neftune_alpha=5.0", "llm.lora=dict(r=8, alpha=16)"],
}


@pytest.mark.parametrize("way", WAYS)
def test_resuming_continues_exactly(run, tmp_path, standins, way):
    extra = [
        "llm.lora=None", *WAYS[way], "schedule.save_every=2", "schedule.val_every=1", "data.num_workers=1",
        f"data.val_path={str(standins.data)!r}", "llm.freeze=None",
    ]  # fmt: skip
    unbroken = run("unbroken", *extra)
    broken = tmp_path / "broken"
    broken.mkdir()
    shutil.copy(unbroken / "iter_2.pth", broken)
    shutil.copytree(unbroken / "iter_2.state", broken / "iter_2.state")
    (broken / "last_checkpoint").write_text("iter_2.pth\n")
    run("broken", *extra, resume=True)
    assert losses(broken) == losses(unbroken)[2:]
    ours, theirs = (read_checkpoint(f / "iter_4.pth").state_dict for f in (broken, unbroken))
    assert theirs and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert log_rows(broken, "val_log.jsonl")[4] == log_rows(unbroken, "val_log.jsonl")[4]


def test_noise_changes_the_training_and_the_seed_the_noise(run):
    common = ["llm.lora=dict(r=8, alpha=16)", "llm.freeze=None", "schedule.max_steps=2"]
    noisy = [*common, "schedule.neftune_alpha=15.0"]
    first, again, clean = losses(run("a", *noisy)), losses(run("b", *noisy)), losses(run("c", *common))
    assert first == again and first[0] != clean[0]


@pytest.mark.parametrize("way", ["dora", "prefix", "int8"])
def test_the_dry_run_counts_what_the_run_trains(small, standins, way):
    recipe = load_recipe(FINETUNE, [*small, "llm.lora=None", "llm.freeze=None", *WAYS[way]])
    planned = planned_llm(recipe, standins.llama)
    folders = {"llm": standins.llama, "vision_encoder": standins.clip}
    llm = build_model(recipe, folders, 384, torch.device("cpu")).llm
    trained = [{name: p.shape for name, p in part.named_parameters() if p.requires_grad} for part in (planned, llm)]
    assert trained[0] == trained[1] and trained[0]


class SeedHook(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        torch.manual_seed(1)


def test_the_noise_of_a_step_is_measured_by_the_length_of_each_sample(small, tmp_path):
    overrides = ["llm.lora=dict(r=8, alpha=16)", "llm.freeze=None", "schedule.neftune_alpha=15.0"]
    runner = build_runner(load_recipe(FINETUNE, [*small, *overrides]), "run", tmp_path).runner
    loader, model = runner.train_dataloader, runner.vlm.train()
    batch = next(iter(loader))
    lengths = [len(loader.dataset[index].input_ids) for index in loader.batch_sampler.plan.step_samples(0)]
    assert len(set(lengths)) > 1
    found = []
    for given in (lengths, None):
        torch.manual_seed(1)
        with torch.no_grad(), runner.autocast():
            loss = model(batch.input_ids, batch.labels, batch.pixels, lengths=given)
        found.append(loss.total.item() / int(loss.num_tokens))
    runner.register_hook(SeedHook(), priority="LOWEST")
    runner.train()
    assert losses(tmp_path)[0] == pytest.approx(found[0], rel=1e-6)
    assert abs(found[1] - found[0]) > 1e-4


@pytest.mark.parametrize("way", ["dora", "prefix"])
def test_the_next_stage_starts_from_a_model_folder(run, small, tmp_path, way):
    extra = ["llm.lora=None", "llm.freeze=None", *WAYS[way], "schedule.max_steps=2"]
    first = run("first", *extra)
    recipe = load_recipe(FINETUNE, [*small, *extra])
    folder = pth_to_hf(recipe, first / "iter_2.pth", tmp_path / "hf")
    second = run("second", *extra, f"init_from={str(folder)!r}", "schedule.lr=1e-12", "projector.lr=None")
    before, after = (read_checkpoint(f / "iter_2.pth").state_dict for f in (first, second))
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6)
