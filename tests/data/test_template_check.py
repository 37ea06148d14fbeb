"""A template that does not fit its tokenizer is told, each way by itself."""

import pytest
from tokenizers import processors

from vlmtool.data.template_check import check_template
from vlmtool.data.templates.library import find_template, parse_template
from vlmtool.data.tokenizer import load_tokenizer

TURN = "{% if m.role == 'user' %}Q: {{ m.content }} A:{% else %}{% generation %}ANSWER{% endgeneration %}{% endif %}"


def template(text: str, answer: str = "{{ m.content + eos_token }}"):
    """A template whose loop body is `TURN`, in `text` where LOOP stands."""
    turn = TURN.replace("ANSWER", answer)
    return parse_template("mine", text.replace("LOOP", f"{{% for m in messages %}}{turn}{{% endfor %}}"))


def found(rows) -> list[tuple[str, str]]:
    return [(row.level, row.detail) for row in rows]


@pytest.mark.parametrize("name", ["plain", "vicuna", "llama3_chat"])
def test_shipped_templates_fit_a_tokenizer_that_has_their_tokens(name, tokenizer):
    [row] = check_template(tokenizer, find_template(name, None))
    assert row.level == "ok" and row.detail.startswith(f"{name}: BOS once, answers end in '")


def test_markers_that_are_text_to_the_tokenizer_are_named(tokenizer):
    [row] = check_template(tokenizer, find_template("internlm_chat", None))
    assert (row.level, row.detail) == (
        "warning", "<|User|>, <|Bot|>: no token of this tokenizer, read as text of several tokens"
    )  # fmt: skip


def test_a_stop_word_that_is_no_token_is_named(tokenizer):
    [row] = check_template(tokenizer, find_template("qwen_chat", None))
    assert row.level == "warning" and row.detail.startswith("<|endoftext|>: ")
    text = '{# stop_words: ["<|eot_id|>", "<end>", "STOP"] #}' + template("{{ bos_token }}LOOP").jinja
    [row] = check_template(tokenizer, parse_template("mine", text))
    assert row.level == "warning" and row.detail.startswith("<end>: ")


@pytest.mark.parametrize("answer", ["{{ m.content }}", "{{ m.content }}<end>", "{{ m.content + eos_token }} "])
def test_answers_must_end_where_a_chat_stops(answer, tokenizer):
    rows = check_template(tokenizer, template("{{ bos_token }}LOOP", answer))
    assert [row.level for row in rows if "answers end in" in row.detail] == ["error"]


def test_an_end_outside_the_mark_is_not_learned(tokenizer):
    outside = TURN.replace("ANSWER", "{{ m.content }}").replace("{% endgeneration %}", "{% endgeneration %}</s>")
    text = f"{{{{ bos_token }}}}{{% for m in messages %}}{outside}{{% endfor %}}"
    [row] = check_template(tokenizer, parse_template("mine", text))
    assert row.level == "error" and "answers end in" in row.detail


def test_a_stop_word_that_is_text_ends_an_answer_too_but_is_named(tokenizer):
    text = '{# stop_words: ["<end>"] #}' + template("{{ bos_token }}LOOP", "{{ m.content }}<end>").jinja
    [row] = check_template(tokenizer, parse_template("mine", text))
    assert row.level == "warning" and row.detail.startswith("<end>: no token of this tokenizer")


def test_a_stop_word_that_is_a_token_ends_an_answer(tokenizer):
    text = '{# stop_words: ["<|eot_id|>"] #}' + template("{{ bos_token }}LOOP", "{{ m.content }}<|eot_id|>").jinja
    assert found(check_template(tokenizer, parse_template("mine", text))) == [
        ("ok", "mine: BOS once, answers end in '<|eot_id|>'")
    ]


@pytest.mark.parametrize(
    ("text", "level", "told"),
    [
        ("{{ bos_token }}{{ bos_token }}LOOP", "error", "BOS '<s>' stands 2 times in one turn"),
        ("Hello {{ bos_token }}LOOP", "error", "BOS '<s>' does not stand first"),
        ("LOOP", "ok", "mine: no BOS, answers end in '</s>'"),
    ],
)
def test_bos_stands_once_and_first(text, level, told, tokenizer):
    assert found(check_template(tokenizer, template(text))) == [(level, told)]


def test_bos_of_each_turn_is_a_warning(tokenizer):
    text = "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}{% endif %}" + TURN + "{% endfor %}"
    rows = check_template(tokenizer, parse_template("mine", text.replace("ANSWER", "{{ m.content + eos_token }}")))
    assert found(rows) == [("warning", "BOS '<s>' begins each turn, not the sample alone")]


def test_bos_that_the_tokenizer_would_put_is_missed(tokenizer_folder):
    tokenizer = load_tokenizer(tokenizer_folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    assert found(check_template(tokenizer, template("LOOP"))) == [
        ("warning", "no BOS '<s>', with which this tokenizer begins a text")
    ]


def test_a_bos_that_is_also_the_eos_may_stand_often(tokenizer_folder):
    tokenizer = load_tokenizer(tokenizer_folder)
    tokenizer.bos_token = tokenizer.eos_token
    assert [row.level for row in check_template(tokenizer, find_template("plain", None))] == ["ok"]


def test_a_bos_that_marks_turns_may_stand_often(tokenizer_folder):
    tokenizer = load_tokenizer(tokenizer_folder)  # as SmolLM2's: its BOS is the <|im_start|> of ChatML
    tokenizer.bos_token, tokenizer.eos_token = "<|im_start|>", "<|im_end|>"
    tokenizer.add_tokens(["<|endoftext|>"], special_tokens=True)
    assert found(check_template(tokenizer, find_template("qwen_chat", None))) == [
        ("ok", "qwen_chat: BOS begins each message, answers end in '<|im_end|>'")
    ]
    rows = check_template(tokenizer, find_template("internlm2_chat", None))  # prints it once more, as bos_token
    assert found(rows) == [("error", "BOS '<|im_start|>' stands 3 times in one turn")]


def test_tokens_beyond_the_embedding_table_are_an_error(tokenizer):
    rows = check_template(tokenizer, find_template("vicuna", None), vocabulary=len(tokenizer) - 1)
    assert [row.level for row in rows] == ["ok"]  # the image token needs no embedding
    rows = check_template(tokenizer, find_template("llama3_chat", None), vocabulary=tokenizer.eos_token_id + 2)
    assert [row.level for row in rows] == ["error"] and "the LLM has no embedding for" in rows[0].detail


def test_a_template_that_refuses_a_plain_turn_is_an_error(tokenizer):
    text = "{{ raise_exception('system first') }}{% generation %}{% endgeneration %}"
    [row] = check_template(tokenizer, parse_template("strict", text))
    assert row.level == "error" and "system first" in row.detail
