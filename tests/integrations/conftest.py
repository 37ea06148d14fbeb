"""Stand-ins of the evaluators' base classes, where the tools themselves are not installed; and a model folder."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.chat.conftest import llm_folder, one_thread, own_hash_cache, pictures, vision_folder  # noqa: F401
from tests.chat.folders import write_folders
from vlmtool.chat.generator import Generator
from vlmtool.chat.load import load_chat_model


class BaseModel:
    """VLMEvalKit's: `generate` checks the parts' types and hands them on; `dump_image` is the data set's own."""

    INTERLEAVE = False
    allowed_types = ["text", "image", "video"]

    def __init__(self):
        self.dump_image_func = None

    def set_dump_image(self, dump_image_func):
        self.dump_image_func = dump_image_func

    def dump_image(self, line, dataset):
        return self.dump_image_func(line)

    def generate(self, message, dataset=None):
        assert all(part["type"] in self.allowed_types for part in message)
        return self.generate_inner(message, dataset)

    def chat(self, messages, dataset=None):
        return self.chat_inner(messages, dataset=dataset)


class Lmms:
    """lmms-eval's: rank, the tasks' documents, and making a model from `--model_args`."""

    is_simple = True

    def __init__(self):
        self._rank, self._world_size, self.task_dict = 0, 1, {}

    @property
    def rank(self):
        return self._rank

    @classmethod
    def create_from_arg_string(cls, arg_string, additional_config=None):
        given = dict(pair.split("=", 1) for pair in arg_string.split(","))
        return cls(**given, **{key: value for key, value in (additional_config or {}).items() if value is not None})


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None


@dataclass
class Instance:
    """A request of lmms-eval, as a chat model gets it."""

    arguments: tuple[Any, ...]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def args(self):
        return self.arguments


def register_model(*names):
    return lambda cls: cls


def put(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """A module of that name, with its packages, where there is none."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        known = ".".join(parts[:length])
        if known not in sys.modules:
            module = ModuleType(known)
            module.__path__ = []
            monkeypatch.setitem(sys.modules, known, module)
    for key, value in content.items():
        monkeypatch.setattr(sys.modules[name], key, value, raising=False)


@pytest.fixture
def vlmeval(monkeypatch):
    """Our bridge to VLMEvalKit: on the tool itself where it is installed."""
    try:
        import vlmeval.vlm.base  # noqa: F401
    except ModuleNotFoundError:
        put(monkeypatch, "vlmeval.vlm.base", BaseModel=BaseModel)
    monkeypatch.delitem(sys.modules, "vlmtool.integrations.vlmeval", raising=False)
    from vlmtool.integrations import vlmeval as bridge

    return bridge


@pytest.fixture
def lmms_eval(monkeypatch):
    """Our bridge to lmms-eval: on the tool itself where it is installed."""
    try:
        import lmms_eval.api.registry  # noqa: F401
    except ModuleNotFoundError:
        put(monkeypatch, "lmms_eval.api.model", lmms=Lmms)
        put(monkeypatch, "lmms_eval.api.registry", register_model=register_model)
        put(monkeypatch, "lmms_eval.models.registry_v2", ModelManifest=ModelManifest)
    monkeypatch.delitem(sys.modules, "vlmtool.integrations.lmms_eval", raising=False)
    from vlmtool.integrations import lmms_eval as bridge

    return bridge


class Absent:
    """Finds everything but one package, which it says is not there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


@pytest.fixture
def without(monkeypatch):
    """Makes a package one that is not installed, and our bridge to it not yet imported."""

    def forget(package: str) -> None:
        monkeypatch.setattr(sys, "meta_path", [Absent(package), *sys.meta_path])
        for name in list(sys.modules):
            if name.split(".")[0] == package or name == f"vlmtool.integrations.{package}":
                monkeypatch.delitem(sys.modules, name)

    return forget


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, llm_folder, vision_folder) -> Path:  # noqa: F811
    return write_folders(tmp_path_factory.mktemp("models"), llm_folder, vision_folder).model


@pytest.fixture(scope="session")
def direct(model_folder) -> Generator:
    """The same model without any evaluator."""
    return load_chat_model(str(model_folder), device="cpu")


@pytest.fixture
def docs(pictures) -> list[SimpleNamespace]:  # noqa: F811
    """Documents of a task: texts of different lengths, each with a picture."""
    texts = [
        "What?",
        "A much longer question about what the picture shows.",
        "Which colour is it?",
        "Why?",
        "Who is it?",
    ]
    return [SimpleNamespace(text=text, picture=pictures[number % 4]) for number, text in enumerate(texts)]
