"""Rendering against Hugging Face's own, and where the image tag is an image."""

import pytest
from tokenizers import Regex, pre_tokenizers, processors

from vlmtool.data.conversation import Conversation, Image, Message, assistant, user
from vlmtool.data.render import IGNORED, Renderer
from vlmtool.data.templates.library import find_template, parse_template, template_names
from vlmtool.data.tokenizer import load_tokenizer
from vlmtool.utils.errors import CheckpointError, DataError

TEXT_ONLY = (
    Message("system", ("Be brief.",)),
    user("What is in the picture?"),
    assistant("A red circle é."),
    user("And 中文 🙂 above?"),
    assistant("A blue square.\n\nIt is round."),
)


# How Llama 3 and Qwen cut text into words: line ends stay together.
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize("name", template_names())
def test_ids_and_mask_are_those_of_hugging_face(name, tokenizer_folder):
    tokenizer = load_tokenizer(tokenizer_folder)
    # Hugging Face agrees with itself only here: with GPT-2's words its prompt "…\n\n" is another than its sample's,
    # and with trimmed offsets its mask misses a lone space before an answer.
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    rendered = Renderer(tokenizer, find_template(name, None), lambda image: 1).sample(Conversation("a", TEXT_ONLY))
    expected = tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.content[0]} for message in TEXT_ONLY],
        chat_template=find_template(name, None).jinja,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    mask = [int(label != IGNORED) for label in rendered.labels]
    assert rendered.input_ids == expected["input_ids"]
    assert mask == expected["assistant_masks"]


def test_each_image_takes_its_own_number_of_tokens(tokenizer):
    sizes = {"a": 2, "b": 5, "c": 1}
    renderer = Renderer(tokenizer, find_template("plain", None), lambda image: sizes[image.source])
    turns = (user("x", Image("a"), Image("b"), "y"), assistant("z"), user(Image("c")), assistant("w"))
    rendered = renderer.sample(Conversation("s", turns))
    token = renderer.image_token_id
    expected = ["<s>", "x", *["<image>"] * 7, "y", "z", "</s>", "<image>", "w", "</s>"]
    assert rendered.input_ids == tokenizer.convert_tokens_to_ids(expected)
    assert all(label == IGNORED for i, label in zip(rendered.input_ids, rendered.labels, strict=True) if i == token)


@pytest.mark.parametrize("name", template_names())
@pytest.mark.parametrize("tokens", [1, 5])
def test_counts_are_those_of_the_sample(name, tokens, tokenizer):
    renderer = Renderer(tokenizer, find_template(name, None), lambda image: tokens)
    pictured = (
        user("x", Image("a"), Image("b"), "y"),
        assistant(""),
        user(Image("c"), "What?"),
        assistant("It is <image>."),
    )
    for turns in (TEXT_ONLY, pictured, (user("No answer?"),), (assistant("No question."),)):
        whole = renderer.sample(Conversation("s", turns))
        assert renderer.count(Conversation("s", turns)) == (len(whole.input_ids), whole.num_supervised)


def test_counts_are_those_of_the_sample_where_everything_is_an_answer(tokenizer):
    """Also the first token, and images."""
    every = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    renderer = Renderer(tokenizer, parse_template("every", every), lambda image: 3)
    for turns in ((user(Image("a"), "x", Image("b")), assistant("y")), (assistant("y"), user(Image("a")))):
        whole = renderer.sample(Conversation("s", turns))
        assert renderer.count(Conversation("s", turns)) == (len(whole.input_ids), whole.num_supervised)


def test_a_tag_in_an_answer_is_text(renderer, tokenizer):
    turns = (user(Image("a"), "What?"), assistant("The tag <image> is <image>."))
    rendered = renderer("vicuna").sample(Conversation("s", turns))
    assert rendered.input_ids.count(renderer("vicuna").image_token_id) == 4
    learned = tokenizer.decode([label for label in rendered.labels if label != IGNORED])
    assert learned == " The tag <image> is <image>.</s>"


def test_line_ends_across_the_edge_of_an_answer_are_not_joined(renderer, tokenizer):
    joined = tokenizer.encode("\n\n", add_special_tokens=False)
    assert len(joined) == 1  # else this test shows nothing
    rendered = renderer("qwen_chat").sample(Conversation("s", (user("What?"), assistant("\n\nYes"))))
    assert joined[0] not in rendered.input_ids


def test_a_space_that_an_answer_ends_with_is_learned(tokenizer):
    template = parse_template(
        "bare", "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}"
    )
    rendered = Renderer(tokenizer, template, lambda image: 1).sample(Conversation("s", (assistant("round "),)))
    assert tokenizer.decode([label for label in rendered.labels if label != IGNORED]) == "round "


def test_a_text_only_sample_has_no_image_token(renderer):
    rendered = renderer("vicuna").sample(Conversation("s", TEXT_ONLY))
    assert renderer("vicuna").image_token_id not in rendered.input_ids


def test_a_template_that_prints_a_turn_twice_is_refused(tokenizer):
    template = parse_template(
        "twice", "{% for m in messages %}{{ m.content }}{{ m.content }}{% generation %}{% endgeneration %}{% endfor %}"
    )
    renderer = Renderer(tokenizer, template, lambda image: 1)
    with pytest.raises(DataError, match="sample 's': 2 image tokens in the rendered prompt, but 1 image\\."):
        renderer.sample(Conversation("s", (user(Image("a")),)))


def test_a_template_without_marks_is_refused_for_samples_but_not_for_prompts(tokenizer):
    template = parse_template("bare", "{% for m in messages %}{{ m.content }}{% endfor %}")
    renderer = Renderer(tokenizer, template, lambda image: 1)
    assert tokenizer.decode(renderer.prompt((user("What?"),))) == "What?"
    with pytest.raises(DataError, match="does not mark the answers"):
        renderer.sample(Conversation("s", TEXT_ONLY))


def test_what_a_template_refuses_names_the_sample(tokenizer):
    template = parse_template(
        "strict", "{{ raise_exception('roles must alternate') }}{% generation %}{% endgeneration %}"
    )
    with pytest.raises(DataError, match="sample 's'.*roles must alternate"):
        Renderer(tokenizer, template, lambda image: 1).sample(Conversation("s", TEXT_ONLY))


def test_num_supervised_leaves_out_a_first_token_that_nothing_predicts(tokenizer):
    template = parse_template(
        "bare", "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    rendered = Renderer(tokenizer, template, lambda image: 1).sample(Conversation("s", (assistant("x y"),)))
    assert rendered.num_supervised == len(rendered.input_ids) - 1


def test_the_image_tag_is_one_token_that_lies_behind_the_others(tokenizer, tokenizer_folder, tmp_path):
    token = tokenizer.convert_tokens_to_ids("<image>")
    assert tokenizer.encode("a<image>b", add_special_tokens=False)[1] == token == len(tokenizer) - 1
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).convert_tokens_to_ids("<image>") == token


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="its tokenizer cannot be loaded: there is none that transformers"):
        load_tokenizer(tmp_path)


def test_an_encoder_in_the_place_of_the_language_model_is_named(encoder_folder):
    with pytest.raises(CheckpointError, match=r"this is an image encoder \('clip_vision_model'\), not a language"):
        load_tokenizer(encoder_folder)
