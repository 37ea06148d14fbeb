"""A client of OpenAI-compatible chat completions: one prompt, one reply. Any server of that kind, local ones too."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, urlsplit

from vlmtool.utils.errors import UsageError

LONGEST_REPLY = 1024  # tokens
CHECK_SECONDS = 10.0  # to find out whether there is a server
_CHAT = "/chat/completions"
MAX_BYTES = 4 * 2**20
_REFUSED = (401, 403, 404, 405)  # wrong key, address or model: no other prompt fares better
_REMEDY = "Check --judge-url, --judge-model and the key in VLMTOOL_JUDGE_KEY."


class Unanswered(Exception):
    """A request that brought no reply; `is_passing` where the next try may, after `wait` seconds if the server says."""

    def __init__(self, what: str, is_passing: bool, wait: float | None = None) -> None:
        super().__init__(what)
        self.is_passing = is_passing
        self.wait = wait


class ChatClient:
    """Asks one model, greedily.

    Args:
        url: where the server's API begins, e.g. http://localhost:8000/v1.
        key: sent as a bearer token and shown nowhere; None sends none.
        seconds: that the server may be silent.

    Raises:
        UsageError: the address or the key cannot be used.

    Source: https://platform.openai.com/docs/api-reference/chat
    """

    def __init__(self, url: str, model: str, key: str | None, seconds: float) -> None:
        self.model = model
        self._url = _endpoint(url)
        self._key = _checked_key(key)
        self._seconds = seconds
        self._open = _opener(self._url)

    def ask(self, prompt: str) -> str:
        """The reply to one prompt.

        Raises:
            Unanswered: there is none. UsageError: the server refuses key, address or model.
        """
        body = {
            "model": self.model, "messages": [{"role": "user", "content": prompt}],
            "temperature": 0, "max_tokens": LONGEST_REPLY,
        }  # fmt: skip
        headers = {"Content-Type": "application/json", "User-Agent": "vlmtool"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        request = urllib.request.Request(self._url.geturl(), json.dumps(body).encode(), headers)
        try:
            with self._open(request, timeout=self._seconds) as response:
                return _message(response.read(MAX_BYTES))
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error) or type(error).__name__
            raise Unanswered(self._hidden(f"no connection, or no answer in time ({reason})"), is_passing=True) from None

    def check(self) -> None:
        """See that something answers at the address: any reply at all will do.

        Raises:
            UsageError: nothing can be reached there.
        """
        request = urllib.request.Request(
            self._url._replace(path=self._url.path.removesuffix(_CHAT) + "/models").geturl()
        )
        try:
            self._open(request, timeout=min(self._seconds, CHECK_SECONDS)).close()
        except urllib.error.HTTPError as error:
            error.close()
        except TimeoutError:
            pass  # a slow server may still grade
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error) or type(error).__name__
            if isinstance(reason, TimeoutError):
                return
            said = self._hidden(str(getattr(reason, "strerror", None) or reason))
            raise UsageError(
                f"--judge-url: the judge cannot be reached ({said}).\n"
                "No question was asked. Is the server running, and is this its address and port?\n"
                "Start it or correct --judge-url, then run the same command again."
            ) from None

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        try:
            said = " ".join(error.read(2000).decode("utf-8", "replace").split())
        except (OSError, http.client.HTTPException):
            said = ""
        error.close()
        what = f"HTTP {error.code}" + (f", {self._hidden(said)[:200]}" if said else "")
        if error.code in _REFUSED:
            return UsageError(f"The judge refuses: {what}.\n{_REMEDY}")
        is_passing = error.code in (408, 409, 429) or error.code >= 500
        return Unanswered(what, is_passing, _as_seconds(error.headers.get("Retry-After")))

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the key along to wherever a redirect points."""

    def redirect_request(self, *_: object) -> None:
        return None


def _endpoint(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_sound = False
    if not is_sound or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError("--judge-url: not an http or https address. Give one like http://localhost:8000/v1.")
    if "@" in parts.netloc:
        raise UsageError("--judge-url: no user or password in the address. Put the key into VLMTOOL_JUDGE_KEY.")
    path = parts.path.rstrip("/")
    return parts._replace(path=path if path.endswith(_CHAT) else path + _CHAT, fragment="")


def _checked_key(key: str | None) -> str | None:
    key = key.strip() if key else None
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(
            "The judge's key holds spaces or other odd characters. Set VLMTOOL_JUDGE_KEY to the key alone."
        )
    return key or None


def _opener(url: SplitResult) -> Callable[..., Any]:
    """Without redirects. Proxies of the environment are for other hosts, not for this machine."""
    is_here = url.hostname in ("localhost", "::1") or (url.hostname or "").startswith("127.")
    proxies = urllib.request.ProxyHandler({} if is_here else None)
    return urllib.request.build_opener(_NoRedirect, proxies).open


def _message(content: bytes) -> str:
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, RecursionError, LookupError, TypeError):
        raise Unanswered("a reply that is no chat completion", is_passing=True) from None
    return text if isinstance(text, str) else ""


def _as_seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdecimal() else None
