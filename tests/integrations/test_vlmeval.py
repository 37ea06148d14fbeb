"""VLMEvalKit's questions reach our models in reading order, and MMBench's as `vlmtool mmbench` asks them."""

import base64
from pathlib import Path

import pandas as pd
import pytest

from vlmtool.chat.generator import GenerationSettings, Request
from vlmtool.data.conversation import Image, Message, assistant, user
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.evaluation.files.pictures import decode_picture
from vlmtool.utils.errors import DataError

DATA = Path(__file__).parents[1] / "data" / "mmbench" / "mmbench.tsv"


@pytest.fixture
def model(vlmeval, direct, monkeypatch):
    """Of the tool's kind; its parts are loaded once for all tests."""
    monkeypatch.setattr(vlmeval, "load_chat_model", lambda *_, **__: direct)
    return vlmeval.VlmtoolModel(model_path="folder", max_new_tokens=12)


@pytest.fixture
def ask(direct):
    """The model without VLMEvalKit."""

    def answer(*messages: Message, max_new_tokens: int = 12) -> str:
        return direct.generate([Request(messages)], GenerationSettings(max_new_tokens=max_new_tokens))[0]

    return answer


def image(path: str) -> dict[str, str]:
    return {"type": "image", "value": path}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "value": value}


def test_picture_then_text(model, ask, pictures):
    answer = model.generate([image(pictures[0]), text("What?")], "MME")
    assert answer and answer == ask(user(Image(pictures[0]), "\nWhat?"))


def test_several_pictures_keep_their_places(model, ask, pictures):
    red, green, blue, _ = pictures
    message = [image(red), image(green), text("and then "), image(blue), text(": what?")]
    expected = ask(user(Image(red), "\n", Image(green), "\nand then ", Image(blue), ": what?"))
    assert model.generate(message, "BLINK") == expected
    assert model.generate([message[1], message[0], *message[2:]], "BLINK") != expected
    assert model.generate([text("no picture")]) == ask(user("no picture"))


def test_conversation(model, ask, pictures):
    turns = [
        {"role": "user", "content": [image(pictures[0]), text("What?")]},
        {"role": "assistant", "content": [text("Red.")]},
        {"role": "user", "content": [text("Sure?")]},
    ]
    assert model.chat(turns) == ask(user(Image(pictures[0]), "\nWhat?"), assistant("Red."), user("Sure?"))


@pytest.mark.parametrize("part", [{"type": "video", "value": "a.mp4"}, text("Best option: (") | {"role": "assistant"}])
def test_what_our_models_cannot_read_is_an_error(model, part):
    with pytest.raises(DataError, match="VLMEvalKit gave a part of type"):
        model.generate_inner([part])


@pytest.mark.parametrize(
    ("name", "is_ours"),
    [
        ("MMBench_DEV_EN", True), ("MMBench_TEST_CN_V11", True), ("MMBench", True), ("CCBench", True),
        ("mmbench_dev_en", True), ("MMBench-Video", False), ("MMStar", False), ("MTL_MMBench_DEV", False),
    ],
)  # fmt: skip
def test_data_sets_with_our_prompt(model, name, is_ours):
    assert model.use_custom_prompt(name) is is_ours


def test_mmbench_is_asked_and_answered_as_by_vlmtool_mmbench(model, ask, tmp_path):
    """Every prompt of the file, read by pandas as VLMEvalKit reads it; of some of them the answer, too."""
    benchmark = MMBench(DATA)
    table = pd.read_csv(DATA, sep="\t", keep_default_na=False, na_values=[""])
    cells = dict(zip(table["index"], table["image"], strict=True))
    picture = tmp_path / "picture.png"
    model.set_dump_image(lambda line: [str(picture)])
    for number, sample in enumerate(benchmark.samples()):
        line = table.iloc[number]
        prompt = model.build_prompt(line, "MMBench_DEV_EN")
        ((shown, question),) = (message.content for message in benchmark.prompt(sample))
        assert [part["type"] for part in prompt] == ["image", "text"]
        assert "\n" + prompt[1]["value"] == question
        if number % 100 == 0:
            cell = line["image"]
            picture.write_bytes(base64.b64decode(cells[int(cell)] if len(cell) < 16 else cell))
            asked = user(Image(decode_picture(shown.source)), question)
            assert model.generate(prompt, "MMBench_DEV_EN") == ask(asked)


def test_numbers_and_empty_cells_of_pandas(model):
    line = {"index": "3", "question": "How many?", "hint": float("nan"), "A": 3.0, "B": 2.5, "C": " ", "D": None}
    model.set_dump_image(lambda line: "a.png")
    first, second = model.build_prompt(pd.Series(line), "MMBench")
    assert first == image("a.png")
    assert second["value"].startswith("How many?\nA. 3\nB. 2.5\nC.  \nAnswer")


def test_an_option_that_vlmevalkit_lost_is_told(model):
    model.set_dump_image(lambda line: ["a.png"])
    with pytest.warns(UserWarning, match="Question 7 has the options A, C"):
        model.build_prompt({"index": 7, "question": "Which?", "A": "red", "B": float("nan"), "C": "blue"}, "MMBench")


def test_length_of_answers(vlmeval, model_folder, ask):
    model = vlmeval.VlmtoolModel(model_path=str(model_folder), device="cpu")
    question = [text("What?")]
    assert model.generate(question, "MMBench") == ask(user("What?"), max_new_tokens=100)
    assert model.generate(question, "MMVet") == ask(user("What?"), max_new_tokens=512)
    assert model.generate(question, "MMBench") != model.generate(question, "MMVet")


def test_missing_vlmevalkit_is_named(without):
    without("vlmeval")
    with pytest.raises(ModuleNotFoundError, match="pip install git"):
        import vlmtool.integrations.vlmeval  # noqa: F401
