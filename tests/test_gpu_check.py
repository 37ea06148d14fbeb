"""`benchmarks/gpu_check.py` runs on any device with a tiny shape, and counts what torch counts."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vlmtool.data.collate import Collator
from vlmtool.engine.flop import StepFlop

FILE = Path(__file__).parents[1] / "benchmarks" / "gpu_check.py"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def gpu_check() -> ModuleType:
    sys.path.insert(0, str(FILE.parent))  # as `python benchmarks/gpu_check.py` has it
    spec = importlib.util.spec_from_file_location("gpu_check", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_line_runs(gpu_check, capsys, monkeypatch):
    words = ["gpu_check", "--tiny", "--steps", "2", "--warmup", "1", "--batch-size", "3"]
    monkeypatch.setattr(sys, "argv", words)
    gpu_check.main()
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[1].strip() for row in rows[1:]] == ["LoRA on float32", "QLoRA (NF4)"]
    for row in rows[1:]:
        samples, tokens, tflops, memory, _ = (float(cell.replace(",", "")) for cell in row[2:7])
        assert tokens > samples > 0 and tflops > 0 and memory > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(gpu_check, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    with pytest.raises(SystemExit, match="no GPU"):
        gpu_check.main()


@pytest.mark.parametrize(("trained", "tolerance"), [("lora", 0.015), ("projector", 0.015), ("all", 0.05)])
def test_the_formula_counts_what_torch_counts(gpu_check, trained, tolerance):
    """All but the products inside attention, and the gradient that the first trained layer passes on to nobody."""
    shape, count = gpu_check.TINY, 4
    recipe = gpu_check.make_recipe(shape, None, count)
    model = gpu_check.make_model(shape, recipe, CPU)
    model.llm.gradient_checkpointing_disable()
    if trained != "lora":
        model.llm.requires_grad_(trained == "all")
        model.vision_encoder.requires_grad_(trained == "all")

    samples = gpu_check.RandomSamples(shape, model.vision_encoder.num_patches, 40)
    chosen = [i for i in range(40) if samples.drawn[i].pictures][:count]
    batch = Collator(0, model.image_token_id)([samples[i] for i in chosen])
    with FlopCounterMode(display=False) as counter:
        loss = model.train()(batch.input_ids, batch.labels, batch.pixels, lengths=batch.lengths)
        loss.total.backward()
    counted = counter.get_flop_counts()["Global"]
    products = sum(flop for op, flop in counted.items() if "bmm" in str(op) or "attention" in str(op))
    padded = batch.input_ids.numel()
    expected = StepFlop.of(model).count(padded, batch.num_supervised, count, count)
    assert sum(counted.values()) - products == pytest.approx(expected, rel=tolerance)


def test_lengths_are_those_that_are_stated(gpu_check):
    from mixture import MIXTURE  # where the fixture finds it

    samples = gpu_check.RandomSamples(gpu_check.FULL, 576, 4000)
    share = sum(source[0] for source in MIXTURE.values() if source[1]) / 664
    assert sum(drawn.pictures for drawn in samples.drawn) / 4000 == pytest.approx(share, abs=0.02)
    assert max(samples.lengths) <= gpu_check.MAX_LENGTH
    number = [drawn.pictures for drawn in samples.drawn].index(1)
    sample = samples[number]
    assert int((sample.input_ids == 32000).sum()) == 576 and len(sample.input_ids) == samples.lengths[number]
    assert int((sample.labels != -100).sum()) == samples.drawn[number].supervised
