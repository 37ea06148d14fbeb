"""The judge's client against a real server on this machine: tries, waits, its record, its key, a kill in the middle."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.evaluation.judge_server import JudgeServer, serving
from vlmtool.evaluation.judging import judge as judge_module
from vlmtool.evaluation.judging.chat_api import ChatClient
from vlmtool.evaluation.judging.judge import GIVE_UP, ChatJudge, open_judge
from vlmtool.utils.errors import UsageError, VlmtoolError

KEY = "sk-very-secret-0123456789"


def as_number(reply: str) -> float | None:
    return float(reply) if reply.replace(".", "", 1).isdecimal() else None


def judge_at(server: JudgeServer, folder: Path, model: str = "m", seconds: float = 10.0) -> ChatJudge:
    return ChatJudge(ChatClient(server.url, model, KEY, seconds), folder / "judge.jsonl", wait=0.001)


def grade(judge: ChatJudge, prompt: str = "How good?") -> float | None:
    return judge.grade(prompt, as_number, "A number only.")


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The seconds that would have been waited."""
    found: list[float] = []
    monkeypatch.setattr(judge_module.time, "sleep", found.append)
    return found


def test_what_is_asked(tmp_path):
    with serving(lambda prompt, number: "0.5") as server:
        assert grade(judge_at(server, tmp_path)) == 0.5
    assert server.paths == ["/v1/chat/completions"] and server.bearers == [f"Bearer {KEY}"]
    body = server.bodies[0]
    assert (body["model"], body["temperature"]) == ("m", 0)
    assert body["messages"] == [{"role": "user", "content": "How good?"}]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again(tmp_path, waits, status):
    with serving(lambda prompt, number: (status, "busy", {}) if number < 3 else "1") as server:
        judge = ChatJudge(ChatClient(server.url, "m", None, 10.0), tmp_path / "judge.jsonl")
        assert grade(judge) == 1
    assert waits == [2.0, 4.0] and server.bearers == [None] * 3
    assert judge.facts() == {"model": "m", "calls": 3, "cache_hits": 0, "failures": 0}


@pytest.mark.parametrize(("asked", "waited"), [("7", 7.0), ("86400", 60.0), ("Fri, 31 Dec 1999 23:59:59 GMT", 2.0)])
def test_the_server_says_how_long_to_wait(tmp_path, waits, asked, waited):
    with serving(lambda prompt, number: (429, "", {"Retry-After": asked}) if number == 1 else "1") as server:
        grade(ChatJudge(ChatClient(server.url, "m", None, 10.0), tmp_path / "judge.jsonl"))
    assert waits == [waited]


def test_after_three_failures_there_is_no_grade(tmp_path, waits):
    with serving(lambda prompt, number: (500, f"down, and {KEY} is bad", {})) as server:
        judge = judge_at(server, tmp_path)
        assert grade(judge) is None
    facts = judge.facts()
    assert (facts["calls"], facts["failures"], facts["problems"]) == (3, 1, {"HTTP 500, down, and … is bad": 1})
    assert not (tmp_path / "judge.jsonl").exists()


def test_an_unreadable_grade_is_asked_for_again_with_a_reminder(tmp_path, waits):
    with serving(lambda prompt, number: "0.25" if number == 2 else "Rather good!") as server:
        judge = judge_at(server, tmp_path)
        assert grade(judge) == 0.25
        assert server.prompts == ["How good?", "How good?\n\nA number only."] and waits == []
        assert grade(judge_at(server, tmp_path)) == 0.25 and len(server.bodies) == 2  # the readable one is found again


def test_three_unreadable_grades_are_none_and_the_next_run_asks_again(tmp_path):
    with serving(lambda prompt, number: "Rather good!" if number <= 3 else "0.75") as server:
        judge = judge_at(server, tmp_path)
        assert grade(judge) is None and len(server.bodies) == 3
        assert judge.facts()["problems"] == {"a reply without a readable grade": 1}
        assert grade(judge_at(server, tmp_path)) == 0.75 and len(server.bodies) == 4


@pytest.mark.parametrize("body", ["", "[]", "no JSON", '{"choices": []}', '{"choices": [{"message": 3}]}', "[" * 10**5])
def test_a_reply_that_is_no_completion_is_a_passing_failure(tmp_path, waits, body):
    with serving(lambda prompt, number: (200, body, {}) if number == 1 else "1") as server:
        assert grade(judge_at(server, tmp_path)) == 1


@pytest.mark.parametrize("content", ["<think>0.1? No.\n</think>\n0.5", "0.5"])
def test_thoughts_are_not_the_answer(tmp_path, content):
    with serving(lambda prompt, number: content) as server:
        assert grade(judge_at(server, tmp_path)) == 0.5


def test_a_refusal_stops_at_once(tmp_path):
    with serving(lambda prompt, number: (401, f"Incorrect API key: {KEY}", {})) as server:
        with pytest.raises(UsageError, match="HTTP 401, Incorrect API key: ….\n.*VLMTOOL_JUDGE_KEY") as failure:
            grade(judge_at(server, tmp_path))
        assert len(server.bodies) == 1 and KEY not in str(failure.value)


def test_a_question_that_the_judge_will_not_take_is_not_repeated(tmp_path):
    with serving(lambda prompt, number: (400, "too long", {}) if "long" in prompt else "1") as server:
        judge = judge_at(server, tmp_path)
        assert grade(judge, "long") is None and len(server.bodies) == 1
        assert grade(judge) == 1


def test_a_judge_that_has_gone_is_not_asked_hundreds_of_times(tmp_path, waits):
    with serving(lambda prompt, number: "1" if number == 1 else (500, "", {})) as server:
        judge = judge_at(server, tmp_path)
        grade(judge, "0")
        for number in range(1, GIVE_UP):
            assert grade(judge, str(number)) is None
        with pytest.raises(VlmtoolError, match=r"5 questions in a row unanswered: HTTP 500.\n.*judge.jsonl"):
            grade(judge, "last")
        assert len(server.bodies) == 1 + 3 * GIVE_UP


def test_silence_is_a_failure(tmp_path):
    done = threading.Event()

    def silent(prompt: str, number: int) -> str:
        done.wait(20)
        return "1"

    with serving(silent) as server:
        start = time.monotonic()
        judge = judge_at(server, tmp_path, seconds=0.2)
        assert grade(judge) is None and time.monotonic() - start < 5
        done.set()
    assert list(judge.facts()["problems"]) == ["no connection, or no answer in time (timed out)"]


def test_replies_are_kept_by_model_and_prompt_not_by_address(tmp_path):
    with serving(lambda prompt, number: "0.5") as first, serving(lambda prompt, number: "0.9") as second:
        assert grade(judge_at(first, tmp_path)) == 0.5
        again = judge_at(second, tmp_path)
        assert grade(again) == 0.5 and not second.bodies
        assert again.facts() == {"model": "m", "calls": 0, "cache_hits": 1, "failures": 0}
        assert grade(again, "Another?") == 0.9
        assert grade(judge_at(second, tmp_path, model="other")) == 0.9


def test_a_line_that_a_kill_cut_short_is_asked_again_and_spoils_no_other(tmp_path):
    record = tmp_path / "judge.jsonl"
    with serving(lambda prompt, number: "0.5") as server:
        grade(judge_at(server, tmp_path), "first")
        whole = record.read_bytes()
        record.write_bytes(whole + whole[:40])
        grade(judge_at(server, tmp_path), "second")
        judge = judge_at(server, tmp_path)
        assert [grade(judge, "first"), grade(judge, "second")] == [0.5, 0.5] and len(server.bodies) == 2


def test_a_redirect_does_not_carry_the_key_away(tmp_path, waits):
    with serving(lambda prompt, number: "1") as other:
        elsewhere = {"Location": f"{other.url}/chat/completions"}
        with serving(lambda prompt, number: (302, "", elsewhere)) as server:
            assert grade(judge_at(server, tmp_path)) is None
        assert not other.paths


def test_a_proxy_is_not_asked_for_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with serving(lambda prompt, number: "1") as server:
        assert grade(judge_at(server, tmp_path)) == 1


@pytest.mark.parametrize(
    ("environment", "bearer"),
    [
        ({"OPENAI_API_KEY": "b"}, "Bearer b"),
        ({"OPENAI_API_KEY": "b", "VLMTOOL_JUDGE_KEY": " a\n"}, "Bearer a"),
        ({"VLMTOOL_JUDGE_KEY": ""}, None),
        ({}, None),
    ],
)
def test_the_key_comes_from_the_environment(tmp_path, environment, bearer):
    with serving(lambda prompt, number: "1") as server:
        judge = open_judge(f"{server.url}/chat/completions/", "m", tmp_path, environment)
        assert judge is not None and grade(judge) == 1
    assert server.bearers == [bearer] and server.paths == ["/v1/chat/completions"]


@pytest.mark.parametrize(
    ("url", "model", "key", "said"),
    [
        ("http://a/v1", None, "", "belong together"),
        (None, "m", "", "belong together"),
        ("localhost:8000", "m", "", "not an http or https address"),
        ("file:///etc/passwd", "m", "", "not an http or https address"),
        ("http://a b/v1", "m", "", "not an http or https address"),
        ("http://[/v1", "m", "", "not an http or https address"),
        (f"http://me:{KEY}@host/v1", "m", "", "no user or password"),
        ("http://a/v1", "m", f"{KEY}\nX-Evil: 1", "odd characters"),
    ],
)
def test_what_cannot_be_used_is_told_without_the_key(tmp_path, url, model, key, said):
    with pytest.raises(UsageError, match=said) as failure:
        open_judge(url, model, tmp_path, {"VLMTOOL_JUDGE_KEY": key})
    assert KEY not in str(failure.value)


def test_without_options_there_is_no_judge(tmp_path):
    assert open_judge(None, None, tmp_path, {"OPENAI_API_KEY": KEY}) is None


def write_mmvet(folder: Path, count: int) -> list[str]:
    """A data file and answers of `count` questions; the command line that scores them, but for the judge."""
    questions = {
        f"v1_{i}": {"question": f"Q{i}?", "answer": "yes", "capability": ["rec"], "imagename": "a.png"}
        for i in range(count)
    }
    (folder / "mm-vet.json").write_text(json.dumps(questions))
    (folder / "answers.json").write_text(json.dumps(dict.fromkeys(questions, "yes")))
    where = ["--data-path", str(folder / "mm-vet.json"), "--predictions", str(folder / "answers.json")]
    return [sys.executable, "-m", "vlmtool", "eval", "mmvet", *where, "--work-dir", str(folder / "work")]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path):
    """SIGKILL while the fifth of eight questions is with the judge."""
    asked, killed = threading.Event(), threading.Event()

    def answer(prompt: str, number: int) -> str:
        if number == 5:
            asked.set()
            killed.wait(60)
        return "1.0" if "Q0?" in prompt else "0.5"

    command = write_mmvet(tmp_path, 8)
    environment = os.environ | {"VLMTOOL_JUDGE_KEY": KEY, "PYTHONPATH": os.getcwd()}
    with serving(answer) as server:
        command += ["--judge-url", server.url, "--judge-model", "stand-in"]
        first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert asked.wait(120)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        killed.set()
        assert first.returncode == -signal.SIGKILL and not (tmp_path / "work" / "metrics.json").exists()
        second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert second.returncode == 0, second.stderr
        prompts = [prompt.split("Question: ")[-1].split("?")[0] for prompt in server.prompts]
    assert prompts == ["Q0", "Q1", "Q2", "Q3", "Q4", "Q4", "Q5", "Q6", "Q7"]
    metrics = json.loads((tmp_path / "work" / "metrics.json").read_text())
    assert metrics["judge"] == {"model": "stand-in", "calls": 4, "cache_hits": 4, "failures": 0}
    assert metrics["scores"] == {"total": 100 * (1 + 7 * 0.5) / 8, "rec": 100 * (1 + 7 * 0.5) / 8}
    assert set(server.bearers) == {f"Bearer {KEY}"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"judge.jsonl", "metrics.json", "report.html"} <= {path.name for path in files}
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in second.stdout + second.stderr


def test_the_address_is_checked_unless_replies_are_at_hand(tmp_path):
    with serving(lambda prompt, number: "1") as server:
        judge_at(server, tmp_path).check()  # 405 is an answer too
        assert server.paths == ["/v1/models"] and server.bodies == []
        assert grade(judge_at(server, tmp_path)) == 1
    judge_at(server, tmp_path).check()
    with pytest.raises(UsageError, match="cannot be reached") as failure:
        judge_at(server, tmp_path / "new").check()
    assert len(str(failure.value).splitlines()) == 3 and KEY not in str(failure.value)
