"""One picture and one question to an OpenAI-compatible endpoint: the wire.

They go to the one host that was named: no redirect is followed, no proxy of the environment is used. The key comes
from the environment and appears in no error, file or log.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

from care_cli.errors import CareError

KEY, OPENAI_KEY = "CARE_VLM_KEY", "OPENAI_API_KEY"  # environment variables: of any endpoint; of OpenAI's own
OPENAI = "api.openai.com"
LARGEST_REPLY = 4_000_000  # bytes
LONGEST_ANSWER = 60_000  # characters, with whatever the model says before it answers
SHOWN = 200  # characters of a reply in an error

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Endpoint:
    """Where a model is asked: `url` as OpenAI's clients take it, ending in /v1 for most servers."""

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 120.0  # s, for a request
    pause: float = 1.0  # s before a second try, twice that before a third


class Unfit(Exception):
    """An answer that cannot be used, with the reason; asking once more may help."""


def key_for(url: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The key in $CARE_VLM_KEY; for OpenAI's own https, else that in $OPENAI_API_KEY. Local servers need none.

    CareError when it is no key.
    """
    names = (KEY, OPENAI_KEY) if _is_openai(url) else (KEY,)
    name = next((name for name in names if environment.get(name)), None)
    if name is None:
        return None
    key = environment[name].strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise CareError(f"${name} holds what is no key: expected printable ASCII without spaces.")
    return key


def _is_openai(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (parts.scheme, parts.hostname, parts.port or 443) == ("https", OPENAI, 443)
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    """Does the name, or the address, mean this very machine?"""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def ask(
    endpoint: Endpoint,
    jpeg: bytes,
    words: str,
    schema: dict,
    fit: Callable[[str], Answer],
    retries: int,
    deadline: float,
) -> tuple[str, Answer]:
    """The model's words about a picture, and what `fit` makes of them.

    Asked again, `retries` times at most, while the endpoint fails or `fit` raises Unfit, until `deadline` (on the
    clock of `time.monotonic`). Raises CareError when no answer is fit, and at once for what will not pass.
    """
    body = _request(endpoint.model, jpeg, words, schema)
    for tried in range(retries + 1):
        try:
            text = _content(_post(endpoint, body, deadline))
            return _without(text, endpoint.key), fit(text)
        except Unfit as unfit:
            reason = _without(str(unfit), endpoint.key)
        if tried < retries:
            time.sleep(max(0.0, min(endpoint.pause * 2**tried, deadline - time.monotonic())))
    raise CareError(
        f"{address(endpoint)[0]} gave no usable answer in {retries + 1} tries; the last time: {reason} "
        "Nothing was stored. Try another model, or give the points in a file (--points)."
    )


def _request(model: str, jpeg: bytes, words: str, schema: dict) -> bytes:
    picture = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    content = [{"type": "text", "text": words}, {"type": "image_url", "image_url": {"url": picture}}]
    form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    asked = {"messages": [{"role": "user", "content": content}], "temperature": 0, "response_format": form}
    return json.dumps({"model": model, **asked}).encode()


def _post(endpoint: Endpoint, body: bytes, deadline: float) -> bytes:
    """The body of a successful reply. Unfit for what may pass, CareError for what will not."""
    host, path, connect = address(endpoint)
    left = deadline - time.monotonic()
    if left <= 0:
        raise CareError(f"{host} was too slow; nothing was stored. Allow it more time with --vlm-timeout.")
    limit = min(endpoint.timeout, left)
    until = time.monotonic() + limit
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    try:
        with contextlib.closing(connect(host, timeout=limit)) as connection:
            connection.connect()
            with _cut_off(connection.sock, until):
                connection.request("POST", path, body, headers)
                reply = connection.getresponse()
                data = _read(reply)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, TimeoutError) or time.monotonic() >= until:
            raise Unfit(f"no answer came within {limit:.3g} s (--vlm-timeout).") from error
        raise Unfit(f"the connection failed: {error or type(error).__name__}.") from error
    if endpoint.key:  # should the server repeat it
        data = data.replace(endpoint.key.encode(), b"[key]")
    if reply.status == 200:
        return data
    answer = f"it answered {reply.status} {reply.reason}: {beginning(data.decode('utf-8', 'replace'))}."
    if reply.status in (408, 409, 429) or reply.status >= 500:
        raise Unfit(answer)
    if 300 <= reply.status < 400:
        target = reply.getheader("Location", "")
        elsewhere = f"{host} points to {target!r}; nothing was sent there. If you trust it, name it with --vlm-url."
        raise CareError(_without(elsewhere, endpoint.key))
    hint = {
        401: f" Set ${KEY}.",
        403: f" Set ${KEY}.",
        404: " Is the URL right, up to /v1, and the model's name?",
    }
    raise CareError(_without(f"{host} refuses: {answer}{hint.get(reply.status, '')}", endpoint.key))


def address(endpoint: Endpoint) -> tuple[str, str, Callable[..., http.client.HTTPConnection]]:
    """Host with port, path, and what connects. CareError when the URL is none, or would show a key to the network."""
    expected = CareError("--vlm-url should be like http://localhost:11434/v1 or https://api.openai.com/v1.")
    try:
        parts = urlsplit(endpoint.url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise expected from None
    if not usable or not endpoint.url.isascii() or not endpoint.url.isprintable() or " " in endpoint.url:
        raise expected
    if "@" in parts.netloc:
        raise CareError(f"--vlm-url holds a password, and would be written down; give a key in ${KEY} instead.")
    if endpoint.key and parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise CareError(
            f"--vlm-url leads to {parts.hostname} by plain http, which would show your key to the network between: use "
            f"https, or unset ${KEY} if this server needs no key."
        )
    path = parts.path.rstrip("/")
    path += "" if path.endswith("/chat/completions") else "/chat/completions"
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return parts.netloc, path + (f"?{parts.query}" if parts.query else ""), connect


@contextlib.contextmanager
def _cut_off(connection: socket.socket, until: float) -> Iterator[None]:
    """End the connection at that time, even if a byte comes now and then, for each of them sets a time-out anew."""

    def end() -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    watch = threading.Timer(until - time.monotonic(), end)
    watch.daemon = True
    watch.start()
    try:
        yield
        if time.monotonic() >= until:
            raise TimeoutError
    finally:
        watch.cancel()


def _read(reply: http.client.HTTPResponse) -> bytes:
    """A reply's body; Unfit when it is too large."""
    data = reply.read(LARGEST_REPLY + 1)
    if len(data) > LARGEST_REPLY:
        raise Unfit(f"its answer is larger than {LARGEST_REPLY / 1e6:.0f} MB.")
    return data


def _without(text: str, key: str | None) -> str:
    """Text that a server sent, without the key, should it repeat it."""
    return text.replace(key, "[key]") if key else text


def _content(body: bytes) -> str:
    """The words of a chat completion."""
    if not body.strip():
        raise Unfit("its answer was empty.")
    try:
        reply = json.loads(body)
        message = reply["choices"][0]["message"]
        text = message["content"]
        refusal = message.get("refusal")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Unfit(f"no chat completion came, but {beginning(body.decode('utf-8', 'replace'))}.") from None
    if not isinstance(text, str):
        raise Unfit(f"the model refused: {beginning(str(refusal))}." if refusal else "the model said nothing.")
    if len(text) > LONGEST_ANSWER:
        raise Unfit(f"the model said {len(text)} characters, beginning with {beginning(text)}.")
    return text


def beginning(text: str) -> str:
    """Words of a model or server as an error shows them."""
    text = text.strip()
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")
