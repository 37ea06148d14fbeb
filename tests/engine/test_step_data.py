"""What a process does instead of waiting for others: it prepares the next steps' data, and nothing else changes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.engine.command import command, hook, start
from tests.engine.conftest import losses
from tests.models.conftest import IMAGE_TOKEN, batch, clip, llama
from vlmtool.data.collate import Batch
from vlmtool.engine.step_data import MOST_AHEAD, StepDataQueue
from vlmtool.models.checkpoint import last_checkpoint, read_checkpoint
from vlmtool.models.encoders.reading import Reading
from vlmtool.models.encoders.vision import VisionEncoder
from vlmtool.models.projectors.mlp import MLPProjector
from vlmtool.models.vlm import VisionLanguageModel
from vlmtool.utils.errors import DataError

LORA = "llm.lora=dict(r=8, alpha=16)"  # no dropout: equalities


def numbered(count, bad=()):
    """Batches with their number as id; those in `bad` cannot be drawn."""
    for number in range(count):
        if number in bad:
            raise DataError(f"batch {number}")
        ids = torch.full((1, 3), number)
        yield Batch((str(number),), ids, ids, None, 3)


def queue(batches, steps, size=1):
    def prepared(one):
        return replace(one, ids=(*one.ids, "prepared"))

    return StepDataQueue(batches, steps, lambda _: size, prepared)


def taken(data):
    return [one.ids for one in data.micro_batches]


def test_data_drawn_ahead_are_those_of_their_step():
    data, early = queue(numbered(12), range(5, 11), size=2), iter([True, True, *[False] * 3, True, True])
    found = []
    for _ in range(6):
        found.append(taken(data.take()))
        data.look_ahead(lambda: next(early))
    numbers = [[int(one[0]) for one in step] for step in found]
    assert numbers == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    ahead = [(first[1:], second[1:]) for first, second in found]
    first_alone = (("prepared",), ())
    assert ahead == [((), ()), first_alone, first_alone, ((), ()), first_alone, first_alone]


def test_no_more_is_drawn_ahead_than_is_kept_nor_than_there_is():
    drawn = []
    data = queue((drawn.append(one) or one for one in numbered(20)), range(0, 7))
    data.take()
    data.look_ahead(lambda: True)
    assert len(drawn) == 1 + MOST_AHEAD
    for _ in range(MOST_AHEAD):
        data.take()
    data.look_ahead(lambda: True)
    assert len(drawn) == 7


def test_what_cannot_be_drawn_is_told_by_its_own_step():
    data = queue(numbered(6, bad=(2,)), range(0, 6))
    data.take()
    data.look_ahead(lambda: True)
    assert taken(data.take()) == [("1", "prepared")]
    data.look_ahead(lambda: True)
    with pytest.raises(DataError, match="batch 2"):
        data.take()


def test_features_made_ahead_give_the_same_gradients():
    torch.manual_seed(0)
    encoder = VisionEncoder(clip(), Reading())
    model = VisionLanguageModel(encoder, MLPProjector(64, 64), llama(), IMAGE_TOKEN).train()
    model.vision_encoder.requires_grad_(False)
    inputs = batch()
    plain = gradients(model, inputs)
    ran = []
    encoder.register_forward_hook(lambda *_: ran.append(1))
    ahead = model.encoded(inputs["pixels"])
    assert ran == [1] and not len(ahead.values)
    found = gradients(model, {**inputs, "pixels": ahead})
    assert ran == [1]
    assert plain.keys() == found.keys() and all(torch.equal(plain[name], found[name]) for name in plain)


def gradients(model: nn.Module, inputs):
    model.zero_grad()
    model(**inputs).total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


TILES = ("vision_encoder.tiles=((1, 2), (2, 1))", "data.pad_to_square=False")


@pytest.mark.parametrize(("more", "port"), [((), 29651), (TILES, 29652)])
def test_an_early_process_looks_ahead_and_the_training_stays_what_it_was(run, small, tmp_path, more, port):
    common = [LORA, "data.sampler='random'", "schedule.max_steps=8", *more]
    one = run("one", *common, "schedule.batch_size=2", "schedule.accumulation=2")
    late = hook("LateRankHook", num_micro_batches=2)
    two = [*common, "schedule.batch_size=1", "schedule.accumulation=2", late]
    done = start(command(small, tmp_path / "two", *two), processes=2, port=port)
    assert done.returncode == 0, done.stderr
    steps = (tmp_path / "two" / "encoded").read_text().split()
    assert steps.count("0") > 2, "rank 0 did not look ahead"
    assert len(steps) <= 8 * 2, "what was made ahead was made again"
    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-5)
    expected, weights = (read_checkpoint(last_checkpoint(folder)).state_dict for folder in (one, tmp_path / "two"))
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=1e-6)
