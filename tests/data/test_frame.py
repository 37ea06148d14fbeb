"""A template's frame, filled, against transformers' rendering of the same messages."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from vlmtool.data.templates.frame import frame_of, marks, only_places_texts
from vlmtool.data.templates.library import find_template, template_names

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
LOOP = "{%- for message in messages %}BODY{%- endfor %}"


def rendered(jinja, roles, texts, asks):
    turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    (text,), (answers,) = render_jinja_template(
        [turns], chat_template=jinja, return_assistant_tokens_mask=True, add_generation_prompt=asks, **SPECIAL
    )
    return text, answers


def in_loop(body):
    return LOOP.replace("BODY", body)


PLACING = {
    "twice, and the last first": in_loop("{{ message.content }}|{{ message['content'] ~ '!' }}") * 2,
    "counting": in_loop("{%- set n = namespace(k=0) %}{%- set n.k = n.k + 1 %}{{ n.k | string + message.content }}"),
    "roles alone": in_loop("{{ message.role }}{% if loop.last %}.{% endif %}"),
    "some left out": in_loop("{% if message.role != 'system' %}{{ message.content }}{% endif %}"),
    "chosen": "{%- for m in messages if m.role == 'user' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{%- endfor %}",
    "neighbours": in_loop("{% if loop.previtem is defined %}{{ loop.previtem.content + ';' }}{% endif %}"),
}
turns = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(max_size=8)), max_size=6)
strange = st.lists(
    st.tuples(
        st.sampled_from(["user", "assistant"]),
        st.sampled_from(["", "{{ eos_token }}", "{% generation %}", "\ue0f30\ue0f4", " </s>\n", "<s>"]),
    ),
    max_size=4,
)


@pytest.mark.parametrize("jinja", [*(find_template(name, None).jinja for name in template_names()), *PLACING.values()])
@settings(max_examples=30, derandomize=True, deadline=None)
@given(turns=turns | strange, others=st.lists(st.text(max_size=5), min_size=6, max_size=6), asks=st.booleans())
def test_a_filled_frame_is_the_rendered_text(jinja, turns, others, asks):
    assert only_places_texts(jinja)
    roles, texts = [role for role, _ in turns], [text for _, text in turns]
    frame = frame_of(*rendered(jinja, roles, marks(len(roles)), asks))
    for filling in (texts, others[: len(roles)]):
        assert frame.filled(filling) == rendered(jinja, roles, filling, asks)


LOOKING = {
    "trimmed": in_loop("{{ message['content'] | trim }}"),
    "trimmed in a sum": in_loop("{{ ('A: ' + message['content']) | trim }}"),
    "stripped": in_loop("{{ message['content'].strip() }}"),
    "cut": in_loop("{{ message['content'][1:] }}"),
    "looked into": in_loop("{% if 'a' in message['content'] %}!{% endif %}{{ message['content'] }}"),
    "compared": in_loop("{{ 'same' if message.content == 'a' else 'other' }}"),
    "chosen by": "{%- for m in messages if m.content %}{{ m.content }}{%- endfor %}",
    "one of two": in_loop("{{ message.content if message.content else 'none' }}"),
    "kept": "{%- set first = messages[0]['content'] %}{{ first | upper }}",
    "kept whole": in_loop("{%- set one = message %}{{ one.content | upper }}"),
    "kept in a namespace": in_loop("{%- set n = namespace(x=message.content) %}{{ n.x | upper }}"),
    "kept from a block": in_loop("{%- set x %}{{ message.content }}{%- endset %}{{ x | upper }}"),
    "by another key": "{%- set key = 'content' %}" + in_loop("{{ message[key] | upper }}"),
    "by a method": in_loop("{{ message.get('content') | upper }}"),
    "counted": in_loop("{{ message.content | length }}"),
    "every letter": in_loop("{%- for letter in message.content %}{{ letter }}.{%- endfor %}"),
    "as JSON": "{{ messages | tojson }}",
    "neighbours compared": in_loop("{% if loop.previtem is eq(loop.nextitem) %}!{% endif %}"),
    "neighbour's text compared": in_loop("{% if loop.previtem.content == 'a' %}!{% endif %}"),
    "changed": in_loop("{% if loop.changed(message.content) %}!{% endif %}"),
    "in a macro": "{% macro say(x) %}{{ x | upper }}{% endmacro %}" + in_loop("{{ say(message.content) }}"),
    "in a filter block": in_loop("{% filter upper %}{{ message.content }}{% endfilter %}"),
    "until one is found": in_loop("{% if message.content == 'a' %}{% break %}{% endif %}x"),
    "the date": "{{ strftime_now('%Y') }}" + in_loop("{{ message.content }}"),
    "no template": "{% for %}",
}


@pytest.mark.parametrize("jinja", LOOKING.values(), ids=LOOKING)
def test_a_template_that_does_more_has_none(jinja):
    assert not only_places_texts(jinja)
