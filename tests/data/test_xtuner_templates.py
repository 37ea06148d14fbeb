"""The templates that bear XTuner's names, against its strings (xtuner_templates.json, v0.1.23) put together as it does.

Source of the strings: https://github.com/InternLM/xtuner/blob/v0.1.23/xtuner/utils/templates.py
"""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from vlmtool.data.templates.library import find_template, template_names

XTUNER = json.loads((Path(__file__).parent / "xtuner_templates.json").read_text(encoding="utf-8"))
ROUNDS = [("What is it?", "A heron."), ("Where?\nHere?", "In the reeds"), ("Why?", "I do\nnot know.")]
SYSTEM = "Be brief."

# XTuner encodes an answer apart from what stands before it, so that a SentencePiece tokenizer puts a space between.
# We encode the text as a whole: where the model knows a space there, we print it, and the answer takes it.
SPACE = {"LEAD": " "}
OURS: dict[str, dict[str, Any]] = {
    "chatglm2": {"SYSTEM": " {system}\n"},  # XTuner adds [gMASK] and sop by their ids; as text, sop must stand alone
    "code_llama_chat": SPACE,
    "deepseek_moe": SPACE,  # one template with mistral
    "llama2_chat": SPACE,
    "mistral": SPACE,
    "mixtral": SPACE,
    "wizardlm": SPACE,
    # The same text; but a prompt that ends in a space has other tokens than the sample, and DeepSeek's has none there.
    "deepseek_v2": {"INSTRUCTION": "User: {input}\n\nAssistant:", **SPACE},
    # As FastChat trained Vicuna and LLaVA after it: nothing between the rounds, no sentence before the system text.
    "vicuna": {"SYSTEM": "{system} ", "SEP": "", **SPACE},
    # Google's own: the system text opens the user's first turn, no EOS between the rounds.
    "gemma": {"FOLDED": "{system}\n\n{input}", "SUFFIX_AS_EOS": True},
    # XTuner has no place for a system text; in MiniCPM's own template it stands as it is.
    "minicpm": {"SYSTEM": "{system}"},
}
BOS = {"chatglm2": "[gMASK]sop", "chatglm3": "[gMASK]sop", "qwen_chat": ""}  # else what the tokenizer has
LLAMA2_SYSTEM = (
    "[INST] <<SYS>>\n You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, "
    "while being safe. Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or "
    "illegal content. Please ensure that your responses are socially unbiased and positive in nature.\nS\n<</SYS>>\n "
    "[/INST] "
)
PREAMBLE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. S\n "
)

DIFFERENT = {  # a system text and two rounds: as XTuner prints them, as we do
    "default": (  # as all others that end in EOS: BOS stands once
        "<s><|System|>:S\n<|User|>:Q\n<|Bot|>:A</s>\n<s><|User|>:R\n<|Bot|>:B</s>\n",
        "<s><|System|>:S\n<|User|>:Q\n<|Bot|>:A</s>\n<|User|>:R\n<|Bot|>:B</s>\n",
    ),
    "chatglm2": (
        "[gMASK]sopS\n[Round 1]\n\n问：Q\n\n答：A</s>\n\n[gMASK]sop[Round 2]\n\n问：R\n\n答：B</s>\n\n",
        "[gMASK]sop S\n[Round 1]\n\n问：Q\n\n答：A</s>\n\n[Round 2]\n\n问：R\n\n答：B</s>\n\n",
    ),
    "mistral": (
        "<s>[INST] S [/INST]\n[INST] Q [/INST]A</s>\n<s>[INST] R [/INST]B</s>\n",
        "<s>[INST] S [/INST]\n[INST] Q [/INST] A</s>\n[INST] R [/INST] B</s>\n",
    ),
    "code_llama_chat": (
        "<s>S\n[INST] Q [/INST]A</s><s>[INST] R [/INST]B</s>",
        "<s>S\n[INST] Q [/INST] A</s>[INST] R [/INST] B</s>",
    ),
    "llama2_chat": (
        f"<s>{LLAMA2_SYSTEM}[INST] Q [/INST]A</s>\n<s>[INST] R [/INST]B</s>\n",
        f"<s>{LLAMA2_SYSTEM}[INST] Q [/INST] A</s>\n[INST] R [/INST] B</s>\n",
    ),
    "wizardlm": (
        f"<s>{PREAMBLE}USER: Q ASSISTANT:A</s>\n<s>USER: R ASSISTANT:B</s>\n",
        f"<s>{PREAMBLE}USER: Q ASSISTANT: A</s>\nUSER: R ASSISTANT: B</s>\n",
    ),
    "vicuna": (
        f"<s>{PREAMBLE}USER: Q ASSISTANT:A</s>\n<s>USER: R ASSISTANT:B</s>\n",
        "<s>S USER: Q ASSISTANT: A</s>USER: R ASSISTANT: B</s>",
    ),
    "deepseek_v2": 2 * (
        "<s>S\n\nUser: Q\n\nAssistant: A<｜end▁of▁sentence｜>User: R\n\nAssistant: B<｜end▁of▁sentence｜>",
    ),
    "gemma": (
        "<s><start_of_turn>system\nS<end_of_turn>\n<start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\n"
        "A<end_of_turn></s>\n<s><start_of_turn>user\nR<end_of_turn>\n<start_of_turn>model\nB<end_of_turn></s>\n",
        "<s><start_of_turn>user\nS\n\nQ<end_of_turn>\n<start_of_turn>model\n"
        "A<end_of_turn>\n<start_of_turn>user\nR<end_of_turn>\n<start_of_turn>model\nB<end_of_turn>\n",
    ),
}  # fmt: skip


def compose(name, rounds, system=None, as_xtuner=False) -> tuple[str, list[str]]:
    """A conversation from the table of strings, and what is learned of it. An answer that is None ends a prompt."""
    facts = {"SYSTEM": "", "SUFFIX": "", "SEP": "", "LEAD": "", "SUFFIX_AS_EOS": False, **XTUNER[name]}
    facts |= {} if as_xtuner else OURS.get(name, {})
    eos = "" if facts["SUFFIX_AS_EOS"] else "</s>"
    text, learned = BOS.get(name, "<s>"), []
    for number, (question, answer) in enumerate(rounds, 1):
        if system is not None and number == 1 and "FOLDED" in facts:
            question = facts["FOLDED"].format(system=system, input=question)
        elif system is not None and number == 1:
            text += facts["SYSTEM"].format(system=system)
        text += facts["INSTRUCTION"].format(input=question, round=number)
        if answer is None:
            break
        learned.append(facts["LEAD"] + answer + facts["SUFFIX"] + eos)
        text += learned[-1] + facts["SEP"]
        if as_xtuner and eos and number < len(rounds):
            text += BOS.get(name, "<s>")
    return text, learned


def render(name, rounds, system=None) -> tuple[str, list[str]]:
    """The same through our template, by Hugging Face."""
    turns = [] if system is None else [{"role": "system", "content": system}]
    for question, answer in rounds:
        turns.append({"role": "user", "content": question})
        if answer is not None:
            turns.append({"role": "assistant", "content": answer})
    [text], [spans] = render_jinja_template(
        [turns],
        chat_template=find_template(name, None).jinja,
        return_assistant_tokens_mask=True,
        add_generation_prompt=turns[-1]["role"] == "user",
        bos_token="<s>",
        eos_token="</s>",
    )
    return text, [text[start:end] for start, end in spans]


def test_every_name_of_xtuner_is_shipped():
    assert len(XTUNER) == 26 and set(XTUNER) <= set(template_names())


@pytest.mark.parametrize("system", [None, SYSTEM], ids=["no system", "system"])
@pytest.mark.parametrize("name", XTUNER)
def test_text_and_what_is_learned_are_xtuners(name, system):
    for count in range(1, len(ROUNDS) + 1):
        rounds = ROUNDS[:count]
        assert render(name, rounds, system) == compose(name, rounds, system)
        prompt = [*rounds[:-1], (rounds[-1][0], None)]
        assert render(name, prompt, system) == compose(name, prompt, system)
        assert render(name, rounds, system)[0].startswith(render(name, prompt, system)[0])


@pytest.mark.parametrize("name", XTUNER)
def test_stop_words_are_xtuners(name):
    assert find_template(name, None).stop_words == tuple(XTUNER[name].get("STOP_WORDS", ()))


@pytest.mark.parametrize("name", DIFFERENT)
def test_where_we_differ_from_xtuner(name):
    rounds, (theirs, ours) = [("Q", "A"), ("R", "B")], DIFFERENT[name]
    assert compose(name, rounds, "S", as_xtuner=True)[0] == theirs
    assert render(name, rounds, "S")[0] == ours


def test_minicpm_takes_a_system_text_for_which_xtuner_has_no_place():
    assert "SYSTEM" not in XTUNER["minicpm"]
    assert render("minicpm", [("Q", "A")], "S")[0] == "<s>S<用户> Q <AI>A</s>\n"


def test_every_other_template_is_xtuners_string_for_string():
    rounds = [("Q", "A")]  # one round: BOS stands once anyway
    for name in XTUNER.keys() - OURS.keys():
        assert render(name, rounds, "S") == compose(name, rounds, "S", as_xtuner=True)
