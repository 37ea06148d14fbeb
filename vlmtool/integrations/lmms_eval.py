"""lmms-eval asks our models: `VlmtoolLmms` is a chat model of its own kind.

The interface: https://github.com/EvolvingLMMs-Lab/lmms-eval, lmms_eval/api/model.py and models/registry_v2.py (0.7).
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from vlmtool.chat.generator import GenerationSettings, Request
from vlmtool.chat.load import load_chat_model
from vlmtool.data.conversation import Image, Message, assistant, user
from vlmtool.data.tokenizer import IMAGE_TAG
from vlmtool.evaluation.batch_size import BatchSize
from vlmtool.integrations.messages import question
from vlmtool.utils.errors import DataError, UsageError
from vlmtool.utils.terminal import clean, err, track

try:
    from lmms_eval.api.model import lmms  # type: ignore[import-not-found]
    from lmms_eval.api.registry import register_model  # type: ignore[import-not-found]
except ModuleNotFoundError as error:
    if error.name != "lmms_eval":  # it is there and lacks something itself, which its own message names
        raise
    raise ModuleNotFoundError(
        "vlmtool.integrations.lmms_eval works inside lmms-eval, which is not installed here.\n"
        "Install it: pip install lmms-eval",
        name="lmms_eval",
    ) from error

NAME = "vlmtool"
MAX_NEW_TOKENS = 1024  # where a task does not say; what lmms-eval's own LLaVA takes
KNOWN = {"until", "max_new_tokens", "temperature", "do_sample", "top_p", "top_k", "repetition_penalty", "num_beams"}


@register_model(NAME)
class VlmtoolLmms(lmms):
    """A model of ours.

    Args:
        pretrained: a model folder, or the LLM.
        batch_size: requests answered at once, halved when memory ends; "auto" grows to the memory.
        max_batch_size: takes no effect; lmms-eval gives it to every model.
        device: None takes this process's GPU, or the CPU.
        parts: further arguments of `load_chat_model`: llava, torch_dtype, bits …

    Raises:
        UsageError: an argument is wrong; nothing is loaded yet.
    """

    is_simple = False  # tasks give conversations with pictures in their places, not a text beside a list of pictures

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **parts: Any,
    ) -> None:
        super().__init__()
        self._batch_size = BatchSize(_rows(batch_size))
        # lmms-eval reads "visual_select_layer=-2" as -2.0.
        parts = {name: int(value) if isinstance(value, float) else value for name, value in parts.items()}
        self.generator = load_chat_model(pretrained, device=device, **parts)
        self._told: set[str] = set()

    @property
    def device(self) -> torch.device:
        """Where the model is; lmms-eval counts the requests of several processes there."""
        return self.generator.model.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers, in the order given.

        Raises:
            DataError: a task shows video or audio. UsageError: it wants beam search.
        """
        answered = self._answer_all(requests)
        answers = dict(track(answered, len(requests), NAME) if self.rank == 0 else answered)
        return [answers[number] for number in range(len(requests))]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """Of each request its answers, round by round; the task asks anew with the answers before at hand."""
        return [self._play(request.args) for request in requests]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not offered.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "lmms-eval scores given answers with models of its older kind only, those without conversations, and "
            "its documentation and its code disagree on the sign of the score.\n"
            "Leave out tasks of output_type loglikelihood and multiple_choice."
        )

    def _answer_all(self, requests: Sequence[Any]) -> Iterator[tuple[int, str]]:
        """(place in `requests`, answer), by settings and longest first: what memory has no room for shows at once."""
        groups: dict[GenerationSettings, list[int]] = defaultdict(list)
        copies: Counter[int] = Counter()
        for number, request in enumerate(requests):
            settings = self._settings(request.args[2])
            if settings.temperature > 0:  # a request that is repeated shall be drawn anew
                settings = replace(settings, seed=copies[id(request)])
                copies[id(request)] += 1
            groups[settings].append(number)
        for settings, numbers in groups.items():
            waiting = deque(sorted(numbers, key=lambda number: -len(requests[number].args[0])))
            while waiting:
                batch = [waiting.popleft() for _ in range(min(self._batch_size.value, len(waiting)))]
                try:
                    texts = self._generate([self._messages(requests[number].args) for number in batch], settings)
                except (MemoryError, RuntimeError) as error:
                    self._batch_size.shrink(error)
                    waiting.extendleft(reversed(batch))
                    continue
                self._batch_size.grow()
                yield from zip(batch, texts, strict=True)

    def _play(self, args: tuple[Any, ...]) -> list[str]:
        _, doc_to_messages, kwargs, doc_id, task, split = args
        doc, settings = self.task_dict[task][split][doc_id], self._settings(kwargs)
        messages, said, info = doc_to_messages(doc), [], None
        while True:
            said += self._generate([messages], settings)
            turn = doc_to_messages(doc, round_idx=len(said), previous_output=list(said), previous_round_info=info)
            if not isinstance(turn, tuple):  # a task of one round
                return said
            messages, is_over, final, info = turn
            if is_over:
                return said if final is None else list(final)

    def _messages(self, args: tuple[Any, ...]) -> list[Mapping[str, Any]]:
        _, doc_to_messages, _, doc_id, task, split = args
        return doc_to_messages(self.task_dict[task][split][doc_id])

    def _generate(self, asked: Sequence[Sequence[Mapping[str, Any]]], settings: GenerationSettings) -> list[str]:
        return self.generator.generate([Request(tuple(map(_message, messages))) for messages in asked], settings)

    def _settings(self, kwargs: Mapping[str, Any]) -> GenerationSettings:
        """Ours for a task's `generation_kwargs`; what we do not know is told once and left out."""
        if (kwargs.get("num_beams") or 1) > 1:
            raise UsageError("A task wants beam search, which vlmtool does not offer.\nAdd --gen_kwargs num_beams=1.")
        for name in kwargs.keys() - KNOWN - self._told:
            self._told.add(name)
            err().print(clean(f"Warning: a task sets {name}={kwargs[name]}, which has no effect with vlmtool."))
        until = kwargs.get("until") or ()
        return GenerationSettings(
            max_new_tokens=int(kwargs.get("max_new_tokens") or MAX_NEW_TOKENS),
            temperature=float(kwargs.get("temperature") or 0) if kwargs.get("do_sample", True) else 0.0,
            top_k=int(kwargs.get("top_k") or 0),
            top_p=float(kwargs.get("top_p") or 1),
            repetition_penalty=float(kwargs.get("repetition_penalty") or 1),
            stop_words=(until,) if isinstance(until, str) else tuple(until),
        )


def manifest() -> Any:
    """What lmms-eval's entry point `lmms_eval.models` asks for: where the class of `--model vlmtool` stands."""
    # Only here: lmms-eval imports this file while it imports its models.
    from lmms_eval.models.registry_v2 import ModelManifest  # type: ignore[import-not-found]

    return ModelManifest(NAME, chat_class_path=f"{__name__}.{VlmtoolLmms.__name__}")


def _message(message: Mapping[str, Any]) -> Message:
    """A message of the task; the user's parts are in reading order."""
    role, parts = message["role"], message["content"]
    odd = {part["type"] for part in parts} - ({"text", "image"} if role == "user" else {"text"})
    if odd or role not in ("system", "user", "assistant"):
        raise DataError(
            f"A task of lmms-eval shows {', '.join(sorted(odd)) or 'something'} as the {role}; our models read text of "
            "all and images of the user.\nLeave this task out."
        )
    if role == "user":
        return _question([Image(part["url"]) if part["type"] == "image" else part["text"] for part in parts])
    text = "".join(part["text"] for part in parts)
    return assistant(text) if role == "assistant" else Message("system", (text,))


def _question(parts: Sequence[str | Image]) -> Message:
    """Parts in their order; but a text after pictures has them where it has a tag for each, as older tasks mark it."""
    *images, text = parts
    if not isinstance(text, str) or text.count(IMAGE_TAG) != len(images) or any(isinstance(i, str) for i in images):
        return question(parts)
    first, *others = text.split(IMAGE_TAG)
    return user(first, *(piece for pair in zip(images, others, strict=True) for piece in pair))


def _rows(batch_size: int | str | None) -> int | None:
    """A number, or None for "auto"."""
    if batch_size == "auto":
        return None
    text = str(1 if batch_size is None else batch_size)
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise UsageError(f"--batch_size {batch_size}: neither a number of 1 or more nor auto.")
