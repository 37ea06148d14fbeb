"""Mixtures: how often an epoch draws each set, and that every set keeps its own template, folder and bad samples."""

import json
from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader

from tests.data.test_commands import record, vlmtool  # noqa: F401  the command line on a recipe of tiny parts
from vlmtool.data import check
from vlmtool.data.collate import Collator
from vlmtool.data.conversation import Conversation, Image, assistant, user
from vlmtool.data.dataset import BadSample, ConversationDataset
from vlmtool.data.image_transform import ImageTransform
from vlmtool.data.mixture import Mixture
from vlmtool.data.render import Renderer
from vlmtool.data.sampler import Share, StepPlan, StepSampler
from vlmtool.data.templates.library import find_template
from vlmtool.utils.errors import DataError

SHARES = (Share(5), Share(6, 0.5), Share(4, 3.0))
EPOCH = 5 + 3 + 12
OF_SET = (range(5), range(5, 11), range(11, 15))


def plan(shares=SHARES, batch_size=4, accumulation=1, world_size=1, **options) -> StepPlan:
    return StepPlan(shares, batch_size, accumulation, world_size, **{"seed": 3, **options})


def epoch_of(chosen: StepPlan, number: int) -> list[int]:
    """The samples of an epoch, in their order."""
    size = chosen.epoch_size
    steps = range(number * size // chosen.step_size, -(-(number + 1) * size // chosen.step_size))
    stream = [index for step in steps for index in chosen.step_samples(step)]
    first = number * size - steps[0] * chosen.step_size
    return stream[first : first + size]


# What an epoch draws


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize("epoch", range(4))
def test_an_epoch_draws_each_set_as_often_as_its_weight_says(epoch, by_length):
    chosen = plan(batch_size=3, by_length=by_length, lengths=tuple(range(15)))
    drawn = Counter(epoch_of(chosen, epoch))
    once, half, thrice = ([drawn[index] for index in of_set] for of_set in OF_SET)
    assert chosen.epoch_size == sum(drawn.values()) == EPOCH
    assert once == [1] * 5 and sorted(half) == [0, 0, 0, 1, 1, 1] and thrice == [3] * 4


def test_each_epoch_draws_another_half_and_every_sample_has_its_turn():
    chosen = plan((Share(100), Share(20, 0.5)))
    halves = [frozenset(index for index in epoch_of(chosen, epoch) if index >= 100) for epoch in range(40)]
    assert len(set(halves)) > 30 and {len(half) for half in halves} == {10}
    turns = Counter(index for half in halves for index in half)
    assert len(turns) == 20 and min(turns.values()) > 8  # 20 of 40 each, give or take 3.2: binomial


def test_the_seed_decides_which_half():
    same, other = (frozenset(epoch_of(plan((Share(40, 0.5),), seed=seed), 0)) for seed in (3, 4))
    assert same == frozenset(epoch_of(plan((Share(40, 0.5),)), 0)) != other


@pytest.mark.parametrize(
    ("size", "weight", "drawn"),
    [(10, 1.0, 10), (10, 0.5, 5), (10, 2.5, 25), (30, 0.1, 3), (3, 0.3, 1), (100, 0.001, 1), (7, 3.0, 21)],
)
def test_a_share_is_rounded_and_never_nothing(size, weight, drawn):
    share = Share(size, weight)
    assert share.drawn == drawn
    counts = Counter(epoch_of(plan((share,)), 0))
    assert sum(counts.values()) == drawn and max(counts.values()) - min(counts[i] for i in range(size)) <= 1


def test_one_whole_set_is_drawn_as_it_was_without_mixtures():
    """Order of 6 samples with seed 3: torch.randperm(6) of a generator seeded with 3 * 1,000,003."""
    wanted = torch.randperm(6, generator=torch.Generator().manual_seed(3 * 1_000_003)).tolist()
    assert epoch_of(plan((Share(6),), batch_size=6), 0) == wanted


def test_steps_and_epochs_count_what_is_drawn():
    assert plan(batch_size=4).steps(1) == 5 and plan(batch_size=4).steps(2.5) == 13  # 50 samples


@pytest.mark.parametrize("by_length", [False, True])
def test_two_ranks_share_a_step_between_them(by_length):
    options = dict(by_length=by_length, lengths=tuple(range(15)))
    whole, shared = plan(batch_size=4, **options), plan(batch_size=2, world_size=2, **options)
    ranks = [[i for batch in StepSampler(shared, rank, 0, 5) for i in batch] for rank in range(2)]
    assert Counter(ranks[0] + ranks[1]) == Counter(epoch_of(whole, 0))
    assert all(sorted(shared.step_samples(step)) == sorted(whole.step_samples(step)) for step in range(15))


def test_two_ranks_see_other_samples_where_none_is_drawn_twice():
    shared = plan((Share(10), Share(12, 0.5)), batch_size=2, world_size=2)
    ranks = [{i for batch in StepSampler(shared, rank, 0, 4) for i in batch} for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == 8 and not ranks[0] & ranks[1]


@pytest.mark.parametrize("by_length", [False, True])
def test_going_on_gives_the_tail(by_length):
    options = dict(by_length=by_length, lengths=tuple(range(15)))
    unbroken = list(StepSampler(plan(**options), 0, 0, 20))
    for step in (1, 7, 19):
        assert list(StepSampler(plan(**options), 0, step, 20)) == unbroken[step:]


# Sets as one


def conversation(name: str, answer: str, *images: str, file: str = "a.jsonl") -> Conversation:
    return Conversation(name, (user(*map(Image, images), "What?"), assistant(answer)), f"{file}:{name}")


@pytest.fixture
def one_set(tokenizer, transform):
    """`one_set("vicuna", conversations)` reads pictures from `images/`, or from `folder`."""

    def make(template: str, *conversations: Conversation, folder=None, bad=None, name="a.jsonl") -> ConversationDataset:
        own = ImageTransform(transform.views, folder or transform.image_folder)
        renderer = Renderer(tokenizer, find_template(template, None), own.num_tokens)
        return ConversationDataset(conversations, renderer, own, 1000, bad, name)

    return make


def test_each_set_is_rendered_with_its_template(one_set, renderer):
    first, second = conversation("s", "Yes"), conversation("s", "No", file="b.jsonl")
    mixture = Mixture([one_set("vicuna", first), one_set("llama3_chat", second, name="b.jsonl")])
    for sample, name, made in zip(mixture, ("vicuna", "llama3_chat"), (first, second), strict=False):
        wanted = renderer(name).sample(made)
        assert (sample.input_ids.tolist(), sample.labels.tolist()) == (wanted.input_ids, wanted.labels)


def test_samples_are_numbered_one_set_after_another(one_set):
    sets = [
        one_set("vicuna", *(conversation(f"{letter}{number}", "Yes") for number in range(size)))
        for letter, size in (("a", 3), ("b", 1), ("c", 2))
    ]
    mixture = Mixture(sets)
    scans = mixture.scan()
    assert [mixture[index].id for index in range(len(mixture))] == ["a0", "a1", "a2", "b0", "c0", "c1"]
    assert [mixture.conversation(number).id for number in range(len(mixture))] == ["a0", "a1", "a2", "b0", "c0", "c1"]
    assert mixture.sizes == [scan.num_samples for scan in scans] == [3, 1, 2]
    assert mixture.lengths == [len(mixture[index].input_ids) for index in range(6)]


def test_pictures_and_texts_alone_mix_in_a_batch_of_workers(one_set, picture, tmp_path, tokenizer):
    picture("a.png"), picture("../other/a.png", 40, 40)
    pictures = one_set("vicuna", conversation("near", "Yes", "a.png"))
    others = one_set("vicuna", conversation("far", "Yes", "a.png"), folder=tmp_path / "other", name="b.jsonl")
    texts = one_set("vicuna", conversation("text", "Yes"), name="c.jsonl")
    mixture = Mixture([pictures, others, texts])
    mixture.scan()
    collate = Collator(tokenizer.pad_token_id, pictures.renderer.image_token_id)
    [batch] = DataLoader(mixture, batch_size=3, collate_fn=collate, num_workers=1)
    assert batch.input_ids.shape[0] == 3 and len(batch.pixels.values) == 2
    assert not batch.pixels.values[0].equal(batch.pixels.values[1])  # a.png of two folders


def test_a_missing_picture_is_looked_for_in_its_own_folder(one_set, picture, tmp_path):
    picture("a.png")
    mixture = Mixture(
        [
            one_set("vicuna", conversation("near", "Yes", "a.png")),
            one_set("vicuna", conversation("far", "Yes", "a.png"), folder=tmp_path / "other", name="b.jsonl"),
        ]
    )
    with pytest.raises(DataError, match=r"1 image is missing in '.*other', first 'a.png'"):
        mixture.scan()


def test_a_bad_sample_is_replaced_within_its_set(one_set, picture):
    picture("broken.png").write_bytes(picture("a.png").read_bytes()[:60])  # its header is fine
    first = one_set("vicuna", conversation("a", "Yes"), bad=[])
    second = one_set(
        "vicuna", conversation("b", "Yes", file="b.jsonl"), conversation("c", "Yes", "broken.png", file="b.jsonl"),
        bad=[], name="b.jsonl",
    )  # fmt: skip
    mixture = Mixture([first, second])
    mixture.scan()
    taken = mixture[2]
    assert taken.id == "b" and [bad.origin for bad in taken.replaced] == ["b.jsonl:c"]
    assert mixture.bad == []


def test_a_set_without_anything_to_learn_is_named(one_set):
    mute = Conversation("mute", (user("What?"),), "b.jsonl:1")
    mixture = Mixture([one_set("vicuna", conversation("a", "Yes")), one_set("vicuna", mute, name="b.jsonl")])
    with pytest.raises(DataError, match="^b.jsonl: No sample has a supervised token"):
        mixture.scan()


def test_bad_samples_are_counted_set_by_set(one_set):
    lost = [BadSample("x", "b.jsonl:x", "broken")]
    mixture = Mixture([one_set("vicuna", conversation("a", "Yes")), one_set("vicuna", bad=lost, name="b.jsonl")])
    assert [part.count_among({"b.jsonl:x", "a.jsonl:a"}) for part in mixture.parts] == [1, 1]
    assert [part.count_among({"b.jsonl:x"}) for part in mixture.parts] == [0, 1] and mixture.bad == lost


# The commands


@pytest.fixture
def two_files(tmp_path):
    """`two_files(second, template="llama3_chat")` is an override: a set of two good records, and one of `second`."""

    def make(second: list, **options) -> dict[str, str]:
        for name, records in (
            ("one.json", [record("a"), record("b", image=None, question="Hm?")]),
            ("two.json", second),
        ):
            (tmp_path / name).write_text(json.dumps(records))
        sets = (dict(path=str(tmp_path / "one.json")), dict(path=str(tmp_path / "two.json"), **options))
        return {"data__path": "None", "data__sets": repr(sets)}

    return make


def test_check_names_the_file_of_what_is_wrong(vlmtool, two_files, tmp_path):  # noqa: F811
    result = vlmtool("check", [], **two_files([record("a"), record("gone", image="gone.png")]))
    assert result.exit_code == 1
    assert "4 records, 3 usable samples, 2 images." in result.stdout
    assert f"  {tmp_path / 'two.json'}: record 2: sample 'gone' gone.png" in result.stdout.splitlines()
    assert "id used before" not in result.stdout  # ids need to differ within a file only


def test_check_looks_for_pictures_in_the_folder_of_the_set(vlmtool, two_files, tmp_path, picture):  # noqa: F811
    picture("../other/b.png")
    own = two_files([record("c", image="b.png")], image_folder=str(tmp_path / "other"))
    assert vlmtool("check", [], **own).exit_code == 0
    assert vlmtool("check", [], **two_files([record("c", image="b.png")])).exit_code == 1
    result = vlmtool("check", [], **two_files([record("c")], image_folder=str(tmp_path / "other")))
    assert "two.json: record 1: sample 'c' a.png" in result.stdout  # is in the other folder


def test_preview_shows_samples_of_each_set_as_it_is_rendered(vlmtool, two_files, tmp_path):  # noqa: F811
    sets = two_files([record("c", image=None, question="Why?"), record("d")], template="llama3_chat")
    shown = vlmtool("preview", [], "-n", "1", **sets).stdout
    assert shown.count("sample '") == 2
    assert "USER: [image" in shown and "<|start_header_id|>user<|end_header_id|>\n\nWhy?" in shown
    only = vlmtool("preview", [], "--id", "d", **sets).stdout
    assert only.count("sample '") == 1 and f"{tmp_path / 'two.json'}: record 2" in only


def test_two_processes_find_what_one_finds(vlmtool, two_files, monkeypatch):  # noqa: F811
    sets = two_files([record("a"), record("gone", image="gone.png")], template="llama3_chat")
    alone = vlmtool("check", [], **sets).stdout
    monkeypatch.setattr(check, "SMALL", 0)
    monkeypatch.setattr(check, "num_cores", lambda: 2)
    assert vlmtool("check", [], **sets).stdout == alone
