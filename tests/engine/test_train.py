"""Training against a plain torch loop, and against itself: accumulation, processes, resuming."""

import math
import os
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, CLIPVisionModel
from transformers.models.clip.modeling_clip import CLIPMLP

from tests.engine.conftest import FINETUNE, PRETRAIN, log_rows, losses
from vlmtool.engine.build import build_runner
from vlmtool.models.checkpoint import read_checkpoint
from vlmtool.models.llm import compile_blocks
from vlmtool.recipe.load import load_recipe
from vlmtool.utils.errors import CheckpointError, DataError, RecipeError, UsageError

LORA = "llm.lora=dict(r=8, alpha=16)"  # no dropout: equalities


def plain_loop(standins, start: dict[str, torch.Tensor], batches: list, lr: float) -> list[float]:
    """The same training in plain torch, transformers and peft: full logits, no masking tricks."""
    clip = CLIPVisionModel.from_pretrained(standins.clip).eval()
    llm = AutoModelForCausalLM.from_pretrained(standins.llama)
    width = llm.config.hidden_size
    projector = torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.GELU(), torch.nn.Linear(width, width))
    projector.load_state_dict(
        {k.removeprefix("projector.model."): v for k, v in start.items() if k.startswith("projector")}
    )
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    llm = get_peft_model(llm, LoraConfig(r=8, lora_alpha=16, target_modules=targets))
    adapter = {k.removeprefix("llm."): v for k, v in start.items() if k.startswith("llm.")}
    assert not llm.load_state_dict(adapter, strict=False).unexpected_keys
    params = [p for p in [*projector.parameters(), *llm.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.999), weight_decay=0.0)
    steps, warmup = len(batches), round(0.03 * len(batches))
    seen = []
    for step, batch in enumerate(batches):
        factor = (
            (step + 1) / (warmup + 1)
            if step < warmup
            else 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
        )
        for group in optimizer.param_groups:
            group["lr"] = lr * factor
        is_image = batch.input_ids >= llm.config.vocab_size
        embeds = llm.get_input_embeddings()(batch.input_ids.masked_fill(is_image, 0)).detach().clone()
        if batch.pixels is not None:
            with torch.no_grad():
                features = clip(batch.pixels.values, output_hidden_states=True).hidden_states[-2][:, 1:]
            embeds[is_image] = projector(features).flatten(0, 1)
        logits = llm(inputs_embeds=embeds).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), batch.labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        seen.append(loss.item())
    return seen


def test_same_losses_as_a_plain_torch_loop(small, standins, tmp_path):
    recipe = load_recipe(FINETUNE, [*small, LORA, "schedule.max_steps=20", "projector.lr=None", "schedule.lr=2e-3"])
    runner = build_runner(recipe, "run", tmp_path).runner
    start = {name: p.detach().clone() for name, p in runner.model.named_parameters() if p.requires_grad}
    batches = list(runner.train_dataloader)
    runner.train()
    ours, theirs = losses(tmp_path), plain_loop(standins, start, batches, 2e-3)
    assert len(ours) == 20 and theirs[-1] < theirs[0] - 0.2
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_accumulation_does_not_change_the_numbers(run):
    whole = run("whole", LORA)
    quarters = run("quarters", LORA, "schedule.batch_size=1", "schedule.accumulation=4")
    assert losses(whole) == pytest.approx(losses(quarters), rel=1e-5)
    counts = {row["num_supervised"] for row in log_rows(whole).values()}
    assert len(counts) > 1  # steps of unequal token counts, or the test shows nothing


def test_two_processes_are_one(run, small, tmp_path):
    one = run("one", LORA)
    arguments = [x for o in [*small, LORA, "schedule.batch_size=1", "schedule.accumulation=2"] for x in ("--set", o)]
    environment = {**os.environ, "NPROC_PER_NODE": "2", "PORT": "29611"}
    command = [sys.executable, "-m", "vlmtool", "train", FINETUNE, "--work-dir", str(tmp_path / "two"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert losses(one) == pytest.approx(losses(tmp_path / "two"), rel=1e-5)
    weights = [read_checkpoint(folder / "iter_4.pth").state_dict for folder in (one, tmp_path / "two")]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("quantization", ["None", "'nf4'"])
def test_resuming_continues_exactly(run, tmp_path, standins, quantization):
    extra = [
        "llm.lora=dict(r=8, alpha=16, dropout=0.1)", f"llm.quantization={quantization}", "data.num_workers=1",
        "schedule.save_every=2", "schedule.val_every=1", "data.sampler='length'",
        f"data.val_path={str(standins.data)!r}",
    ]  # fmt: skip
    unbroken = run("unbroken", *extra)
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("iter_2.pth", "iter_2.state"):
        source = unbroken / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, broken / name)
    (broken / "last_checkpoint").write_text("iter_2.pth\n")
    run("broken", *extra, resume=True)
    assert losses(broken) == losses(unbroken)[2:]
    ours, theirs = (read_checkpoint(f / "iter_4.pth").state_dict for f in (broken, unbroken))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert log_rows(broken, "val_log.jsonl")[4] == log_rows(unbroken, "val_log.jsonl")[4]


def test_resuming_with_other_batches_is_refused(run, tmp_path):
    run("first", "schedule.save_every=2")
    with pytest.raises(CheckpointError, match="samples per step .* 4 → 2"):
        run("first", "schedule.batch_size=2", resume=True)
    with pytest.raises(CheckpointError, match="seed 0 → 1"):
        run("first", "runtime.seed=1", resume=True)


def test_the_next_stage_starts_from_the_projector(run, tmp_path):
    first = run("first", recipe=PRETRAIN)
    projector = read_checkpoint(first / "iter_4.pth").state_dict
    second = run("second", f"init_from={str(first)!r}", "schedule.lr=1e-12", "projector.lr=None")
    checkpoint = read_checkpoint(second / "iter_4.pth")
    for name, value in projector.items():
        torch.testing.assert_close(checkpoint.state_dict[name], value)
    assert [parent["name"] for parent in checkpoint.meta["parents"]] == [PRETRAIN]


def test_a_stage_on_another_base_is_refused(run, standins):
    first = run("first", recipe=PRETRAIN)
    with pytest.raises(CheckpointError, match="was trained on another llm"):
        run("second", f"init_from={str(first)!r}", f"llm.path={str(standins.internlm)!r}")


def test_checkpoints_are_kept_and_dropped(run):
    folder = run("kept", "schedule.save_every=1", "schedule.keep=2", "schedule.save_epochs=False")
    names = sorted(p.name for p in folder.glob("*.pth"))
    assert names == ["iter_3.pth", "iter_4.pth"]
    assert sorted(p.name for p in folder.glob("*.state")) == ["iter_3.state", "iter_4.state"]
    assert (folder / "last_checkpoint").read_text() == "iter_4.pth\n"


def test_epochs_are_saved_by_name(run):
    folder = run(
        "epochs",
        "schedule.max_steps=None",
        "schedule.save_epochs=True",
        "schedule.batch_size=16",
        "schedule.epochs=2.0",
    )
    assert sorted(p.name for p in folder.glob("*.pth")) == ["epoch_1.pth", "epoch_2.pth"]


def test_learning_rates_per_part(run):
    folder = run("rates", "projector.lr=1e-3", "llm.lr=3e-5", "schedule.warmup_ratio=0.0", "schedule.decay='constant'")
    assert log_rows(folder)[1]["lr"] == {"projector": 1e-3, "llm": 3e-5}


def test_bf16_and_activation_checkpointing_train(run):
    reference = losses(run("float32", LORA))
    assert losses(run("checkpointing", LORA, "runtime.activation_checkpointing=True")) == pytest.approx(
        reference, rel=1e-5
    )
    assert losses(run("bf16", LORA, "runtime.dtype='bfloat16'")) == pytest.approx(reference, abs=0.05)


def test_activations_of_the_encoder_can_be_computed_again(run, monkeypatch):
    """Its blocks run a second time in the backward pass, and the losses are the same."""
    trained = (LORA, "vision_encoder.freeze=None", "vision_encoder.lora=dict(r=4, alpha=8)")
    runs = []
    for parts in ((), ("vision_encoder",), ("llm", "vision_encoder")):
        made = []
        monkeypatch.setattr(CLIPMLP, "forward", counting(CLIPMLP.forward, made))
        folder = run(f"{len(parts)}", *trained, f"runtime.activation_checkpointing={parts!r}")
        runs.append((losses(folder), len(made)))
        monkeypatch.undo()
    assert runs[1][0] == pytest.approx(runs[0][0], rel=1e-5) == runs[2][0]
    assert runs[1][1] == runs[2][1] > runs[0][1]


def counting(method, calls):
    def counted(*arguments, **options):
        calls.append(1)
        return method(*arguments, **options)

    return counted


def test_a_part_that_cannot_be_computed_again_is_refused(run):
    with pytest.raises(RecipeError, match=r"runtime\.activation_checkpointing.*'llm' or 'vision_encoder'"):
        run("x", LORA, "runtime.activation_checkpointing=('projector',)")


def test_liger_is_refused_without_a_gpu(run):
    with pytest.raises(UsageError, match=r"runtime\.liger: its kernels need a GPU"):
        run("x", LORA, "runtime.liger=True")


def test_the_optimiser_moves_all_weights_in_one_pass_to_the_same_place(run):
    """Also where an older checkpoint, whose optimiser did not, is gone on from."""
    fused = run("fused", LORA)
    loops = run(
        "loops", LORA, "mmengine=dict(optim_wrapper=dict(optimizer=dict(fused=False)))", "schedule.save_every=2"
    )
    assert losses(fused) == pytest.approx(losses(loops), rel=1e-6)
    on = run("on", LORA, resume_from=loops / "iter_2.pth")
    assert losses(on)[-1] == pytest.approx(losses(loops)[-1], rel=1e-6)


def test_adam_with_moments_in_8_bits_learns_and_goes_on(run):
    eight = (LORA, "schedule.optimizer='bitsandbytes.optim.PagedAdamW8bit'", "schedule.save_every=2")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Paged optimizers")  # told beforehand, in our words
        whole = run("whole", *eight)
    assert losses(whole) == pytest.approx(losses(run("float", LORA)), rel=0.02)
    on = run("on", *eight, resume_from=whole / "iter_2.pth")
    assert losses(on)[-2:] == losses(whole)[-2:]


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("runtime.dtype='float16'", UsageError, "needs a GPU"),
        ("llm.path='no/such/folder/here'", UsageError, "there is no folder"),
        ("data.path='missing.json'", UsageError, "there is no file 'missing.json'"),
        ("data.image_folder='/nowhere'", UsageError, "there is no folder '/nowhere'"),
        ("data.image_folder='/'", DataError, "images are missing"),
        ("llm.lora=dict(r=8, alpha=16, target_modules=('q_porj',))", RecipeError, "Did you mean 'q_proj'"),
        ("projector.type='vlmtool.models.projectors.mlp.MPLProjector'", RecipeError, "MPLProjector"),
        ("projector.dept=3", RecipeError, "Did you mean 'depth'"),
        ("init_from='work_dirs/nothing'", UsageError, "init_from: there is no"),
        ("vision_encoder.select_layer=-40", UsageError, "blocks"),
    ],
)
def test_mistakes_are_told(run, override, error, message):
    with pytest.raises(error, match=message) as caught:
        run("wrong", override)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_in_a_run_names_its_sample(run, standins, tmp_path, workers):
    images = tmp_path / "images"
    shutil.copytree(standins.images, images)
    (images / "000_0.jpg").write_bytes((images / "000_0.jpg").read_bytes()[:400])
    overrides = (f"data.image_folder={str(images)!r}", f"data.num_workers={workers}", "schedule.max_steps=16")
    with pytest.raises(DataError, match=r"sample 'r0' .*000_0\.jpg") as caught:
        run("broken", *overrides)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_file_that_is_no_picture_is_found_before_the_first_step(run, standins, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(standins.images, images)
    (images / "000_0.jpg").write_text("<html>not found</html>")
    with pytest.raises(DataError, match=r"sample 'r0' .*000_0\.jpg"):
        run("broken", f"data.image_folder={str(images)!r}")
    assert not (tmp_path / "broken" / "train_log.jsonl").exists()


def test_every_step_tells_how_fast_it_was_against_what_the_device_can(run):
    rows = log_rows(run("run", LORA))
    for row in rows.values():
        assert (
            0 < row["mfu"] < 1 and 0.1 < row["peak_memory_gb"] < 20 and row["tokens_per_s"] > row["samples_per_s"] > 0
        )


def test_the_first_step_which_also_warms_up_is_not_in_the_rates_of_those_behind_it(run):
    first, *others = log_rows(run("run", LORA)).values()
    assert first["tokens_per_s"] == pytest.approx(first["num_tokens"] / first["seconds"])
    for last in range(1, len(others) + 1):
        tokens, seconds = (sum(row[name] for row in others[:last]) for name in ("num_tokens", "seconds"))
        assert others[last - 1]["tokens_per_s"] == pytest.approx(tokens / seconds)


@pytest.mark.soak  # a C++ compiler for half a minute
@pytest.mark.parametrize("more", [(), ("runtime.activation_checkpointing=True", "schedule.pack_to=2048")])
def test_compiled_blocks_learn_the_same(run, more):
    plain, compiled = run("plain", LORA, *more), run("compiled", LORA, *more, "runtime.compile=True")
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-5)


def test_blocks_are_compiled_in_place_under_their_names(standins):
    llm = AutoModelForCausalLM.from_pretrained(standins.llama)
    names = list(llm.state_dict())
    compile_blocks(llm)
    assert all(block._compiled_call_impl is not None for block in llm.model.layers) and list(llm.state_dict()) == names


def test_compiling_is_refused_where_it_was_not_tried(run):
    with pytest.raises(UsageError, match=r"runtime\.compile with runtime\.strategy = 'fsdp2'"):
        run("x", LORA, "runtime.compile=True", "runtime.strategy='fsdp2'")
