"""lmms-eval's requests: conversations in reading order, batches, stop words, and answers in the order given."""

from types import SimpleNamespace

import pytest
from PIL import Image as PILImage

from tests.integrations.conftest import Instance
from vlmtool.chat.generator import GenerationSettings, Generator, Request
from vlmtool.data.conversation import Image, Message, assistant, user
from vlmtool.utils.errors import DataError, UsageError

GREEDY = {"max_new_tokens": 12, "temperature": 0, "do_sample": False, "num_beams": 1}


@pytest.fixture
def make(lmms_eval, direct, monkeypatch):
    """Makes a model of the tool's kind; its parts are loaded once for all tests."""
    monkeypatch.setattr(lmms_eval, "load_chat_model", lambda *_, **__: direct)
    return lmms_eval.VlmtoolLmms


@pytest.fixture
def model(make, docs):
    model = make("folder", batch_size="2")
    model.task_dict["task"] = {"test": docs}
    return model


@pytest.fixture
def ask(direct):
    """The model without lmms-eval."""

    def answer(*messages: Message, **settings) -> str:
        return direct.generate([Request(messages)], GenerationSettings(**{"max_new_tokens": 12, **settings}))[0]

    return answer


@pytest.fixture
def batches(monkeypatch) -> list[list[int]]:
    """Prompt lengths (characters of the last text) of each call of the generator."""
    seen: list[list[int]] = []
    real = Generator.generate

    def generate(self, requests, settings):
        seen.append([len(request.messages[-1].content[-1]) for request in requests])
        return real(self, requests, settings)

    monkeypatch.setattr(Generator, "generate", generate)
    return seen


def parts(doc) -> list[dict]:
    return [{"type": "image", "url": PILImage.open(doc.picture)}, {"type": "text", "text": doc.text}]


def to_messages(doc) -> list[dict]:
    return [{"role": "user", "content": parts(doc)}]


def requests(docs, *kwargs: dict, messages=to_messages) -> list[Instance]:
    """One for each document, its settings by turns."""
    return [
        Instance((doc.text, messages, dict(kwargs[number % len(kwargs)]), number, "task", "test"))
        for number, doc in enumerate(docs)
    ]


def asked_alone(ask, docs, **settings) -> list[str]:
    return [ask(user(Image(doc.picture), "\n" + doc.text), **settings) for doc in docs]


def test_answers_come_in_the_order_given(model, ask, docs, batches):
    answers = model.generate_until(requests(docs, GREEDY))
    assert batches == [[52, 19], [10, 5], [4]]  # two at once, the longest first
    assert answers == asked_alone(ask, docs)
    assert len(set(answers)) > 2  # else their order would show nothing


def test_settings_of_each_request(model, ask, docs):
    short = GREEDY | {"max_new_tokens": 3}
    answers = model.generate_until(requests(docs, GREEDY, short))
    expected = [asked_alone(ask, docs), asked_alone(ask, docs, max_new_tokens=3)]
    assert answers == [expected[number % 2][number] for number in range(len(docs))]


def test_until_ends_an_answer(model, ask, docs):
    whole = asked_alone(ask, docs[:1])[0]
    middle = whole[len(whole) // 2]
    for until in (middle, [middle, "never said"]):
        (answer,) = model.generate_until(requests(docs[:1], GREEDY | {"until": until}))
        assert answer == whole[: whole.index(middle)].strip()
    assert model.generate_until(requests(docs[:1], GREEDY | {"until": ["", "never said"]})) == [whole]


def test_repeats_are_drawn_anew(model, ask, docs):
    (request,) = requests(docs[:1], {"max_new_tokens": 12, "temperature": 1.0, "top_p": 0.9})
    answers = model.generate_until([request] * 3)
    drawn = [asked_alone(ask, docs[:1], temperature=1.0, top_p=0.9, seed=seed)[0] for seed in range(3)]
    assert answers == drawn and len(set(drawn)) == 3
    greedy = {"max_new_tokens": 12, "temperature": 1.0, "do_sample": False}
    assert model.generate_until(requests(docs[:1], greedy)) == asked_alone(ask, docs[:1])


def test_conversation_in_reading_order(model, ask, docs):
    red, green = (doc.picture for doc in docs[:2])

    def messages(doc):
        return [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [*parts(docs[0]), {"type": "image", "url": green}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Red."}]},
            {"role": "user", "content": [{"type": "text", "text": "Sure?"}]},
        ]

    expected = ask(
        Message("system", ("Be brief.",)), user(Image(red), "\nWhat?", Image(green)), assistant("Red."), user("Sure?")
    )
    assert model.generate_until(requests(docs[:1], GREEDY, messages=messages)) == [expected]


def test_tags_in_the_text_place_the_pictures(model, ask, docs):
    red, green = (doc.picture for doc in docs[:2])

    def messages(text):
        pictures = [{"type": "image", "url": path} for path in (red, green)]
        return lambda doc: [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]

    for text, content in (
        ("<image> or <image>?", (Image(red), " or ", Image(green), "?")),
        ("First <image>, then <image>", ("First ", Image(red), ", then ", Image(green))),
        ("One <image> only", (Image(red), "\n", Image(green), "\nOne <image> only")),
    ):
        assert model.generate_until(requests(docs[:1], GREEDY, messages=messages(text))) == [ask(user(*content))]


def test_rounds(model, ask, docs):
    """The task sees the answers so far, and has the last word on what they are."""
    seen = []

    def messages(doc, round_idx=None, previous_output=None, previous_round_info=None):
        if round_idx is None:
            return to_messages(doc)
        seen.append((round_idx, previous_output, previous_round_info))
        if round_idx == 2:
            return None, True, [*previous_output, "padded"], None
        return [{"role": "user", "content": [{"type": "text", "text": "And now?"}]}], False, previous_output, "info"

    first, second = asked_alone(ask, docs[:1])[0], ask(user("And now?"))
    assert model.generate_until_multi_round(requests(docs[:1], GREEDY, messages=messages)) == [
        [first, second, "padded"]
    ]
    assert seen == [(1, [first], None), (2, [first, second], "info")]


def test_a_task_of_one_round(model, ask, docs):
    def messages(doc, **rounds):
        return to_messages(doc)

    answers = model.generate_until_multi_round(requests(docs[:2], GREEDY, messages=messages))
    assert answers == [[answer] for answer in asked_alone(ask, docs[:2])]


def test_memory_that_ends_halves_the_batch(model, ask, docs, batches, monkeypatch):
    narrow = Generator.generate

    def generate(self, requests, settings):
        if len(requests) > 1:
            raise MemoryError
        return narrow(self, requests, settings)

    monkeypatch.setattr(Generator, "generate", generate)
    assert model.generate_until(requests(docs, GREEDY)) == asked_alone(ask, docs)
    assert [len(batch) for batch in batches[: len(docs)]] == [1] * len(docs)


@pytest.mark.parametrize(("role", "kind"), [("user", "video"), ("assistant", "image"), ("user", "audio")])
def test_what_our_models_cannot_read_is_an_error(model, docs, role, kind):
    message = {"role": role, "content": [{"type": kind, "url": "a"}]}
    with pytest.raises(DataError, match=f"shows {kind} as the {role}"):
        model.generate_until(requests(docs[:1], GREEDY, messages=lambda doc: [message]))


def test_beam_search_is_refused_and_odd_settings_are_told_once(model, docs, capsys):
    with pytest.raises(UsageError, match="beam search"):
        model.generate_until(requests(docs, GREEDY | {"num_beams": 4}))
    model.generate_until(requests(docs[:2], GREEDY | {"image_aspect_ratio": "pad"}))
    assert capsys.readouterr().err.count("image_aspect_ratio=pad") == 1


@pytest.mark.parametrize("size", ["0", "auto:4", -1, "many"])
def test_batch_size_must_be_a_number_or_auto(lmms_eval, size):
    with pytest.raises(UsageError, match="--batch_size"):
        lmms_eval.VlmtoolLmms("nowhere", batch_size=size)


def test_auto_batch_size(make, docs, ask, batches):
    model = make("folder", batch_size="auto")
    model.task_dict["task"] = {"test": docs}
    answers = model.generate_until(requests(docs, GREEDY))
    assert [len(batch) for batch in batches] == [5]
    assert answers == asked_alone(ask, docs)


def test_model_of_the_command_line(lmms_eval, model_folder, docs, ask):
    model = lmms_eval.VlmtoolLmms.create_from_arg_string(
        f"pretrained={model_folder}", {"batch_size": "2", "max_batch_size": None, "device": "cpu"}
    )
    model.task_dict["task"] = {"test": docs}
    assert model.device.type == "cpu"
    assert model.generate_until(requests(docs[:1], GREEDY)) == asked_alone(ask, docs[:1])


def test_numbers_that_lmms_eval_reads_as_floats(lmms_eval, monkeypatch):
    given = {}
    monkeypatch.setattr(lmms_eval, "load_chat_model", lambda *_, **parts: given.update(parts))
    lmms_eval.VlmtoolLmms("model", visual_select_layer=-2.0, bits=4, llava="folder")
    assert given == {"device": None, "visual_select_layer": -2, "bits": 4, "llava": "folder"}
    assert isinstance(given["visual_select_layer"], int)


def test_scoring_given_answers_is_refused(model):
    with pytest.raises(NotImplementedError, match="multiple_choice"):
        model.loglikelihood([SimpleNamespace(args=("What?", " red"))])


def test_where_the_class_stands(lmms_eval):
    manifest = lmms_eval.manifest()
    assert (manifest.model_id, manifest.simple_class_path) == ("vlmtool", None)
    assert manifest.chat_class_path == "vlmtool.integrations.lmms_eval.VlmtoolLmms"
    assert lmms_eval.VlmtoolLmms.is_simple is False


def test_missing_lmms_eval_is_named(without):
    without("lmms_eval")
    with pytest.raises(ModuleNotFoundError, match="pip install lmms-eval"):
        import vlmtool.integrations.lmms_eval  # noqa: F401
