"""NEFTune's noise against the paper's formula: on text, in training, from the run's random numbers."""

import math

import pytest
import torch

from tests.models.conftest import IMAGE_TOKEN, batch, llama
from vlmtool.models.noise import add_neftune_noise
from vlmtool.models.vlm import VisionLanguageModel


def test_noise_is_bounded_by_the_length_of_its_row():
    embeds, is_text = torch.zeros(3, 400, 8), torch.ones(3, 400, dtype=torch.bool)
    is_text[1, :100] = False
    torch.manual_seed(0)
    noise = add_neftune_noise(embeds, is_text, [400, 100, 25], alpha=5.0)
    assert noise[1, :100].eq(0).all()
    for row, length in zip(noise, (400, 100, 25), strict=True):
        bound, drawn = 5 / math.sqrt(length * 8), row[row != 0]
        # Uniform in ±bound: the largest of 2,400 draws lies within 1 % of it, the variance is bound² / 3.
        assert 0.99 * bound < drawn.abs().max() <= bound
        assert drawn.mean().abs() < 0.05 * bound and drawn.var().item() == pytest.approx(bound**2 / 3, rel=0.05)
    assert embeds.eq(0).all()


class Seen(torch.nn.Module):
    """Takes the place of an LLM and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.llm = llama()
        self.embeds: list[torch.Tensor] = []

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.llm.get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.llm.get_output_embeddings()

    def forward(self, inputs_embeds: torch.Tensor, **arguments):
        self.embeds.append(inputs_embeds.detach())
        return self.llm(inputs_embeds=inputs_embeds, **arguments)


def test_noise_is_on_text_in_training_alone_and_follows_the_seed(vlm):
    llm = Seen()
    model = VisionLanguageModel(vlm.vision_encoder, vlm.projector, llm, IMAGE_TOKEN, neftune_alpha=5.0).train()
    given = batch((1, 0, 2))
    lengths = [10, 7, 16]

    def embeds(seed: int, lengths: list[int] | None = lengths) -> torch.Tensor:
        torch.manual_seed(seed)
        model(**given, lengths=lengths)
        return llm.embeds[-1]

    clean = vlm.embed(given["input_ids"], vlm.encode_images(given["pixels"])).detach()
    first, again, other, padded = embeds(1), embeds(1), embeds(2), embeds(1, None)
    assert torch.equal(first, again) and not torch.equal(first, other)
    is_text = given["input_ids"] != IMAGE_TOKEN
    assert torch.equal(first[~is_text], clean[~is_text])
    noise = first - clean
    for row, length in enumerate(lengths):
        bound = 5 / math.sqrt(length * 64)
        assert 0.9 * bound < noise[row].abs().max() <= bound + 1e-6
    # Rows that are all of the batch's length have the same noise with and without their lengths.
    torch.testing.assert_close(padded[2], first[2])
    assert (padded - clean)[1].abs().max() < noise[1].abs().max()

    state = torch.get_rng_state()
    model.eval()(**given)
    assert torch.equal(llm.embeds[-1], clean) and torch.equal(torch.get_rng_state(), state)


def test_other_ways_draw_no_random_numbers(vlm):
    state = torch.get_rng_state()
    vlm(**batch())
    assert torch.equal(torch.get_rng_state(), state)
