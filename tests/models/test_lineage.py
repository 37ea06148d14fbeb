"""What must stay the same from stage to stage, and what a guard does where it does not."""

from dataclasses import replace

import pytest

from vlmtool.models.encoders.reading import Reading
from vlmtool.models.fingerprint import Identity
from vlmtool.models.lineage import Guard, Setup, check_setup, describe_projector, stage_of, text_hash
from vlmtool.utils.errors import CheckpointError

MLP = {"type": "a.MLPProjector", "vision_hidden_size": 8, "llm_hidden_size": 16, "options": {"depth": 2, "bias": True}}
ALIGNED = Setup(
    parts={"llm": ("base", Identity("a" * 64, "b" * 64)), "vision_encoder": ("clip", Identity("c" * 64))},
    template=("vicuna", text_hash("vicuna's text")),
    projector=MLP,
    reading=Reading(),
    pad_to_square=True,
    trains=frozenset({"projector"}),
)
TUNED = replace(ALIGNED, trains=frozenset({"projector", "llm"}))
OTHER_TEMPLATE = {"template": ("plain", text_hash("plain text"))}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parts": {**ALIGNED.parts, "llm": ("x", Identity("d" * 64))}}, ("another llm", "a" * 12, "d" * 12)),
        ({"parts": {**ALIGNED.parts, "llm": ("x", Identity("a" * 64, "e" * 64))}}, ("config.json", "b" * 12, "e" * 12)),
        ({"parts": {**ALIGNED.parts, "vision_encoder": ("x", Identity("f" * 64))}}, ("another vision_encoder",)),
        ({"projector": MLP | {"options": {"depth": 3}}}, ("depth 2", "depth 3", text_hash(MLP)[:12])),
        ({"reading": Reading(-1)}, ("select_layer -2", "select_layer -1")),
        ({"reading": Reading(-2, "full")}, ("select_strategy auto", "select_strategy full")),
    ],
)
def test_what_the_projector_was_aligned_to_stays(change, said):
    with pytest.raises(CheckpointError) as caught:
        check_setup(ALIGNED, replace(ALIGNED, **change), "iter_1.pth", Guard())
    message = str(caught.value)
    assert all(text in message for text in ("iter_1.pth", "--force", *said)) and len(message.splitlines()) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (OTHER_TEMPLATE, (text_hash("vicuna's text")[:12], text_hash("plain text")[:12])),
        ({"pad_to_square": False}, ()),
        ({"reading": Reading(tiles=((1, 2),)), "projector": MLP | {"row_end": True}}, ("another projector",)),
        ({"reading": Reading(image_size=64)}, ("image_size None", "image_size 64")),
    ],
)
def test_prompt_and_padding_stay_once_more_than_the_projector_was_trained(change, said):
    check_setup(ALIGNED, replace(ALIGNED, **change), "iter_1.pth", Guard())  # LLaVA's own two stages
    for before, may_move_on in ((TUNED, True), (ALIGNED, False)):
        with pytest.raises(CheckpointError) as caught:
            check_setup(before, replace(before, **change), "iter_1.pth", Guard(), may_move_on)
        assert all(text in str(caught.value) for text in said)


def test_what_was_not_recorded_is_not_compared():
    unknown = replace(TUNED, template=(None, ""), projector={}, parts={"llm": ("base", Identity(""))})
    check_setup(unknown, replace(TUNED, **OTHER_TEMPLATE), "old", Guard())


def test_force_warns_and_keeps_a_record(capsys):
    guard = Guard(force=True)
    for _ in range(2):
        check_setup(TUNED, replace(TUNED, reading=Reading(-1), pad_to_square=False), "iter_1.pth", guard)
    assert len(guard.overridden) == 2 and "select_layer -2" in guard.overridden[0]
    said = capsys.readouterr().err
    assert said.count("Warning: iter_1.pth was trained") == 2 and "Forced." in said


def test_a_stage_in_words():
    recipe = {
        "llm": {"path": "x", "lora": {"r": 8, "alpha": 16.0}, "quantization": "nf4"},
        "vision_encoder": {"path": "y", "freeze": False},
        "projector": {"type": "z"},
    }
    assert stage_of(recipe) == {"llm": "lora r=8 alpha=16 on nf4", "vision_encoder": "full", "projector": "full"}
    frozen = {"llm": {"path": "x", "quantization": "int8"}, "projector": {"freeze": True}}
    assert stage_of(frozen) == {"llm": "frozen on int8", "projector": "frozen"}
    assert stage_of({}) == {} and stage_of({"llm": None}) == {}
    assert describe_projector(MLP) == "MLPProjector 8 → 16, depth 2, bias"
    assert describe_projector({}) == "None None → None"
