"""Every shipped template: what is learned, where BOS stands, and that chat continues as training began."""

import pytest

from tests.answer_marks import AROUND, WITHOUT_BOS
from vlmtool.data.conversation import Conversation, Image, Message, assistant, user
from vlmtool.data.render import IGNORED
from vlmtool.data.templates.library import ALIASES, FOLDER, find_template, parse_template, template_names
from vlmtool.utils.errors import RecipeError, UsageError

SYSTEM = Message("system", ("Be brief.",))
# Answers that begin or end where a tokenizer likes to join: with a line end, with spaces, with a word part.
ANSWERS = ("It is round.", "\n\nA red circle", "  above é 中 ", "s")
TURNS = tuple(
    turn
    for number, answer in enumerate(ANSWERS)
    for turn in (user(*([Image("a.png"), "\n"] if number < 2 else []), f"What is {number}?"), assistant(answer))
)


@pytest.fixture(params=template_names())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def supervised_runs(rendered) -> list[list[int]]:
    """Runs of supervised ids."""
    runs: list[list[int]] = []
    for before, label in zip([IGNORED, *rendered.labels], rendered.labels, strict=False):
        if label != IGNORED:
            if before == IGNORED:
                runs.append([])
            runs[-1].append(label)
    return runs


def test_every_template_is_known_here():
    assert set(AROUND) == set(template_names())


@pytest.mark.parametrize("turns", [TURNS[:2], TURNS, (SYSTEM, *TURNS)], ids=["one turn", "four turns", "system turn"])
def test_the_answers_with_their_ends_are_supervised(name, turns, renderer, tokenizer):
    answers = [turn.content[0] for turn in turns if turn.role == "assistant"]
    runs = supervised_runs(renderer(name).sample(Conversation("a", turns)))
    before, after = AROUND[name]
    assert [tokenizer.decode(run) for run in runs] == [before + answer + after for answer in answers]


def test_labels_are_the_ids_where_they_are_supervised(name, renderer):
    rendered = renderer(name).sample(Conversation("a", TURNS))
    assert all(label in (IGNORED, token) for token, label in zip(rendered.input_ids, rendered.labels, strict=True))


def test_bos_stands_once_and_first(name, renderer, tokenizer):
    ids = renderer(name).sample(Conversation("a", (SYSTEM, *TURNS))).input_ids
    if name in WITHOUT_BOS:
        assert tokenizer.bos_token_id not in ids
        assert tokenizer.decode(ids).startswith(WITHOUT_BOS[name])
    else:
        assert [place for place, token in enumerate(ids) if token == tokenizer.bos_token_id] == [0]


@pytest.mark.parametrize("start", [0, 2])
def test_a_prompt_is_how_its_sample_begins(name, start, renderer):
    turns = (SYSTEM, *TURNS[start:])
    sample = renderer(name).sample(Conversation("a", turns)).input_ids
    for end, turn in enumerate(turns):
        if turn.role == "assistant":
            prompt = renderer(name).prompt(turns[:end])
            assert sample[: len(prompt)] == prompt


def test_what_is_supervised_follows_the_prompt(name, renderer):
    rendered = renderer(name).sample(Conversation("a", TURNS[:2]))
    prompt = renderer(name).prompt(TURNS[:1])
    assert rendered.labels[: len(prompt)] == [IGNORED] * len(prompt)
    assert rendered.labels[len(prompt)] != IGNORED


def test_what_ends_an_answer_in_training_ends_it_in_a_chat(name, renderer, tokenizer):
    stop_words = find_template(name, None).stop_words
    end = AROUND[name][1]
    assert end in (tokenizer.eos_token, *stop_words)
    token = tokenizer.convert_tokens_to_ids(end)
    assert token is None or token in renderer(name).stop_ids()
    assert tokenizer.eos_token_id in renderer(name).stop_ids()


def test_stop_words_are_not_part_of_the_template():
    template = parse_template("mine", '{# stop_words: ["<end>", "</s>"] #}\n{{ messages[0]["content"] }}')
    assert template.stop_words == ("<end>", "</s>")
    assert template.jinja == '{{ messages[0]["content"] }}'


def test_an_unknown_name_gives_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'vicuna'"):
        find_template("vicunna", None)


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_a_further_name_is_the_same_template(alias, name):
    assert alias in template_names() and not (FOLDER / f"{alias}.jinja").exists()
    assert find_template(alias, None) == find_template(name, None)


def test_no_name_takes_the_tokenizers_own():
    assert find_template(None, "{{ x }}").jinja == "{{ x }}"
    with pytest.raises(RecipeError, match="has no chat template"):
        find_template(None, None)


def test_a_file_is_a_template(tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("{% generation %}x{% endgeneration %}")
    assert find_template(str(file), None).marks_answers
    with pytest.raises(UsageError, match="no file"):
        find_template(str(tmp_path / "other.jinja"), None)


def test_an_answer_is_not_joined_with_the_word_before_it(renderer, tokenizer):
    assert len(tokenizer.encode("USER", add_special_tokens=False)) == 1  # else this test shows nothing
    turns = (user("US"), assistant("ER"))
    rendered = renderer("plain").sample(Conversation("a", turns))
    prompt = renderer("plain").prompt(turns[:1])
    assert rendered.input_ids[: len(prompt)] == prompt
    assert tokenizer.decode(supervised_runs(rendered)[0]) == "ER</s>"


@pytest.mark.parametrize(
    ("name", "text"),
    [  # as XTuner 0.1.23 and LLaVA print them
        ("internlm_chat", "<s><|User|>:Q<eoh>\n<|Bot|>:A<eoa>\n"),
        ("vicuna", "<s>USER: Q ASSISTANT: A</s>"),
        ("qwen_chat", "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"),
        (
            "llama3_chat",
            "<s><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>",
        ),
    ],
)
def test_a_template_prints_what_the_model_was_trained_on(name, text, renderer, tokenizer):
    rendered = renderer(name).sample(Conversation("a", (user("Q"), assistant("A"))))
    assert tokenizer.decode(rendered.input_ids) == text


def test_glm4_prints_what_its_own_template_does(renderer, tokenizer):
    own = "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    turns = (SYSTEM, user("Q"), assistant("A"), user("R"), assistant("B"))
    messages = [{"role": turn.role, "content": turn.content[0]} for turn in turns]
    text = tokenizer.apply_chat_template(messages, chat_template=own, tokenize=False)
    rendered = renderer("glm4_chat").sample(Conversation("a", turns))
    assert tokenizer.decode(rendered.input_ids) == text + "<|user|>"  # each answer is ended by the next turn's marker


def test_gemma_takes_a_system_text_without_a_question(renderer, tokenizer):
    ids = renderer("gemma").sample(Conversation("a", (SYSTEM, SYSTEM, assistant("A")))).input_ids
    assert tokenizer.decode(ids) == "<s><start_of_turn>user\nBe brief.\n\nBe brief.\n\nA<end_of_turn>\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{# stop_words: ['</s>'] #}\n{{ 1 }}", "its stop words are Expecting value.*JSON list, in double quotes"),
        (b"{# stop_words: oops #}\n{{ 1 }}", "its stop words are .*JSON list"),
        (b'{# stop_words: "<|end|>" #}\n{{ 1 }}', "its stop words are no list of words"),
        (b'{# stop_words: ["<|end|>", 7] #}\n{{ 1 }}', "its stop words are no list of words"),
        (
            b'{# stop_words: ["a"] #}\n{% for m in messages %}\n{{ m.content }\n{% endfor %}',
            r"mine.jinja:3: unexpected",
        ),
        ("{{ 'größe' }}".encode("latin-1"), "cannot be read as UTF-8"),
    ],
)
def test_a_file_of_ones_own_that_is_wrong_names_itself(tmp_path, content, said):
    file = tmp_path / "mine.jinja"
    file.write_bytes(content)
    with pytest.raises(RecipeError, match=f"(?s)^llm.template: .*{said}") as caught:
        find_template(str(file), None)
    assert str(file) in str(caught.value)
