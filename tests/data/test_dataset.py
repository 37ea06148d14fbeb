"""Samples: what is cut, skipped, refused; what a batch is made of; that workers can make them."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from vlmtool.data.check_record import RecordChecker, Source, Task
from vlmtool.data.collate import Collator
from vlmtool.data.conversation import Conversation, Image, assistant, user
from vlmtool.data.dataset import ConversationDataset
from vlmtool.data.render import IGNORED, Renderer
from vlmtool.data.templates.library import parse_template
from vlmtool.utils.errors import DataError

LONG = "A red circle above a blue square. " * 5


def conversation(name: str, answer: str, *images: str, question: str = "What?") -> Conversation:
    return Conversation(name, (user(*map(Image, images), question), assistant(answer)), f"f.jsonl:{name}")


@pytest.fixture
def dataset(renderer, transform):
    def make(*conversations: Conversation, max_length: int = 1000, bad: list | None = None) -> ConversationDataset:
        own = Renderer(renderer("vicuna").tokenizer, renderer("vicuna").template, transform.num_tokens)
        return ConversationDataset(conversations, own, transform, max_length, bad)

    return make


def test_a_sample_holds_its_ids_labels_and_pixels(dataset, picture, transform, renderer):
    picture("a.png"), picture("b.png")
    made = conversation("s", "Yes", "b.png", "a.png")
    sample = dataset(made)[0]
    rendered = renderer("vicuna").sample(made)
    assert sample.id == "s"
    assert (sample.input_ids.tolist(), sample.labels.tolist()) == (rendered.input_ids, rendered.labels)
    assert torch.equal(sample.pixels.values, transform([Image("b.png"), Image("a.png")]).values)


def test_a_text_only_sample_has_no_pixels(dataset):
    assert dataset(conversation("s", "Yes"))[0].pixels is None


def test_a_cut_answer_is_counted_and_named(dataset, renderer):
    long = conversation("long", LONG)
    full = len(renderer("vicuna").sample(long).input_ids)
    data = dataset(conversation("short", "Yes"), long, max_length=full - 1)
    report = data.scan()
    assert report.cut_answers == ["long"]
    assert data.lengths[1] == len(data[1].input_ids) == full - 1


def test_a_sample_of_just_max_length_is_whole(dataset, renderer):
    long = conversation("long", LONG)
    full = len(renderer("vicuna").sample(long).input_ids)
    assert dataset(long, max_length=full).scan().cut_answers == []


def test_a_cut_image_is_an_error_that_names_the_sample(dataset, picture):
    picture("a.png")
    turns = (user("What?"), assistant(LONG), user(Image("a.png")), assistant("Yes"))
    with pytest.raises(DataError, match=r"sample 's' \(f:1\): .* an image would be cut"):
        dataset(Conversation("s", turns, "f:1"), max_length=20).scan()


def test_samples_without_a_supervised_token_are_named_and_skipped(dataset):
    no_answer = Conversation("mute", (user("What?"),), "f:2")
    cut_away = conversation("cut", "Yes", question=LONG)
    data = dataset(conversation("a", "Yes"), no_answer, cut_away, conversation("b", "No"), max_length=30)
    report = data.scan()
    assert report.unsupervised == ["mute", "cut"]
    assert (len(data), report.num_samples, len(data.lengths)) == (2, 2, 2)
    assert [data[i].id for i in range(2)] == ["a", "b"]


def test_nothing_to_learn_from_is_an_error(dataset):
    with pytest.raises(DataError, match="No sample has a supervised token"):
        dataset(Conversation("mute", (user("What?"),), "f:2")).scan()


def test_the_scan_counts(dataset, picture, renderer):
    picture("a.png")
    made = [conversation("a", "Yes", "a.png"), conversation("b", "No")]
    report = dataset(*made).scan()
    rendered = [renderer("vicuna").sample(c) for c in made]
    assert report.num_images == 1
    assert report.num_tokens == sum(len(r.input_ids) for r in rendered)
    assert report.num_supervised == sum(r.num_supervised for r in rendered)


def test_missing_images_are_found_before_training(dataset, picture):
    picture("a.png")
    made = [conversation(str(i), "Yes", name) for i, name in enumerate(["a.png", "b.png", "b.png", "c.png"])]
    with pytest.raises(DataError, match=r"2 images are missing in .*, first 'b.png' \(3 uses\)"):
        dataset(*made).scan()


@pytest.mark.parametrize(
    ("name", "is_missing"), [("b.png", True), ("a.png/b.png", True), ("x" * 300 + ".png", False), ("folder", False)]
)
def test_the_scan_and_the_check_say_the_same_of_an_image(dataset, picture, tmp_path, name, is_missing):
    picture("a.png")
    folder = tmp_path / "images"
    (folder / "folder").mkdir()
    checker = RecordChecker(Source(Path("f.jsonl"), folder), deep=False)
    [(kind, _)] = checker(Task([], [name])).bad_images.values()
    assert (kind == "missing_image") is is_missing

    with pytest.raises(DataError, match="1 image is missing" if is_missing else r"sample 's' .*cannot be read"):
        dataset(conversation("s", "Yes", name)).scan()
    skipping = dataset(conversation("s", "Yes", name), conversation("t", "No"), bad=[])
    assert skipping.scan().num_samples == 1 and [bad.id for bad in skipping.bad] == ["s"]


def test_a_broken_image_names_the_sample(dataset, picture):
    picture("a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"sample 's' \(f.jsonl:s\): .*a.png: the image cannot be read"):
        dataset(conversation("s", "Yes", "a.png"))[0]


def test_a_mixed_batch_is_padded_on_the_right(dataset, picture, tokenizer):
    picture("a.png"), picture("b.png"), picture("c.png")
    data = dataset(
        conversation("two", "Yes", "a.png", "b.png"), conversation("none", LONG), conversation("one", "No", "c.png")
    )
    samples = [data[i] for i in range(3)]
    batch = Collator(tokenizer.pad_token_id, data.renderer.image_token_id)(samples)
    assert batch.ids == ("two", "none", "one")
    assert torch.equal(batch.pixels.values, torch.cat([samples[0].pixels.values, samples[2].pixels.values]))
    assert batch.num_tokens == sum(len(s.input_ids) for s in samples)
    assert batch.num_supervised == sum(int((s.labels[1:] != IGNORED).sum()) for s in samples)
    for row, sample in enumerate(samples):
        length = len(sample.input_ids)
        assert torch.equal(batch.input_ids[row, :length], sample.input_ids)
        assert torch.equal(batch.labels[row, :length], sample.labels)
        assert (batch.input_ids[row, length:] == tokenizer.pad_token_id).all()
        assert (batch.labels[row, length:] == IGNORED).all()


def test_a_text_only_batch_has_no_pixels(dataset, tokenizer):
    data = dataset(conversation("a", "Yes"), conversation("b", "No"))
    assert Collator(tokenizer.pad_token_id, data.renderer.image_token_id)([data[0], data[1]]).pixels is None


def test_a_batch_that_supervises_nothing_stops(dataset):
    data = dataset(Conversation("mute", (user("What?"),), "f:2"))
    with pytest.raises(DataError, match="samples mute supervises nothing"):
        Collator(0, data.renderer.image_token_id)([data[0]])


def test_a_batch_that_supervises_an_image_token_stops(tokenizer, transform, picture):
    picture("a.png")
    marks_all = parse_template(
        "all", "{% for m in messages %}|{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    renderer = Renderer(tokenizer, marks_all, transform.num_tokens)
    data = ConversationDataset([conversation("s", "Yes", "a.png")], renderer, transform, 100)
    with pytest.raises(DataError, match="samples s supervises image tokens"):
        Collator(0, renderer.image_token_id)([data[0]])


@pytest.mark.slow
def test_workers_that_start_from_nothing_make_the_same_samples(dataset, picture):
    picture("a.png")
    data = dataset(conversation("a", "Yes", "a.png"), conversation("b", "No"))
    data.scan()
    loader = DataLoader(data, batch_size=2, num_workers=1, multiprocessing_context="spawn", collate_fn=list)
    [made] = list(loader)
    for sample, expected in zip(made, [data[0], data[1]], strict=True):
        assert sample.id == expected.id
        assert torch.equal(sample.input_ids, expected.input_ids) and torch.equal(sample.labels, expected.labels)
    assert torch.equal(made[0].pixels.values, data[0].pixels.values)
