"""Points from a vision-language model: a real server on loopback that answers well, and badly in every way."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import time
import traceback

import numpy as np
import pytest
from endpoint import EYES, completion, points, reply, saying, scaled, serving, trickle
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from care_cli.errors import CareError
from care_cli.keypoints import chat, vlm
from care_cli.keypoints.chat import Endpoint, Unfit
from care_cli.records import NamedPoint

SIZE = (200, 100)
BOX = (20.0, 10.0, 160.0, 80.0)
KEY = "sk-very-secret/123"


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def propose(server, *, key=None, timeout=5.0, **options) -> tuple[list[NamedPoint], dict]:
    endpoint = Endpoint(server.url, "eye-9b", key, timeout=timeout, pause=0.0)
    return vlm.propose(endpoint, jpeg(), **{"size": SIZE, "box": BOX, "species": "Lion", "count": 3} | options)


def refused(behave, **options) -> tuple[str, int]:
    """The words of the refusal, and how many requests came."""
    with serving(behave) as server, pytest.raises(CareError) as refusal:
        propose(server, **options)
    return str(refusal.value), len(server.asked)


# -- the good path


def test_the_request_is_what_openai_servers_take() -> None:
    with serving(saying(points())) as server:
        propose(server, key=KEY)
    assert len(server.asked) == 5
    for n, asked in enumerate(server.asked):
        assert asked.path == "/v1/chat/completions"
        assert asked.headers["Authorization"] == f"Bearer {KEY}"
        assert asked.headers["Content-Type"] == "application/json"
        body = asked.json
        assert body["model"] == "eye-9b" and body["temperature"] == 0 and KEY.encode() not in asked.body
        [message] = body["messages"]
        words, picture = message["content"]
        assert message["role"] == "user" and (words["type"], picture["type"]) == ("text", "image_url")
        head, _, data = picture["image_url"]["url"].partition(",")
        assert head == "data:image/jpeg;base64" and base64.b64decode(data, validate=True) == jpeg()
        assert "Lion" in words["text"] and "fractions" in words["text"] and "top-left" in words["text"]
        form = body["response_format"]
        assert form["type"] == "json_schema" and form["json_schema"]["strict"] is True
        listed = form["json_schema"]["schema"]["properties"]["keypoints"]
        assert listed["minItems"] == listed["maxItems"] == 3
        assert set(listed["items"]["required"]) == {"name", "x", "y", "confidence", "mirror_of"}
        settled = ["left_eye", "right_eye", "nose"] if n else None  # by the first answer
        assert listed["items"]["properties"]["name"].get("enum") == settled


def test_without_a_key_none_is_sent() -> None:
    with serving(saying(points())) as server:
        propose(server)
    assert all("Authorization" not in asked.headers for asked in server.asked)


def test_points_are_medians_in_px_of_the_crop() -> None:
    shifts = [0.01, -0.02, 0.03, 0.0, 0.005]
    answers = [{"keypoints": [{**e, "x": e["x"] + s, "y": e["y"] - s / 2} for e in EYES]} for s in shifts]
    with serving(saying(*answers)) as server:
        found, about = propose(server)
    middle = float(np.median(shifts))
    for point, entry in zip(found, EYES, strict=True):
        assert point.name == entry["name"]
        assert point.x == pytest.approx(200 * (entry["x"] + middle))
        assert point.y == pytest.approx(100 * (entry["y"] - np.median(np.array(shifts) / 2)))
    assert [p.mirror for p in found] == ["right_eye", "left_eye", None]  # told at one of the two
    widest = max(np.hypot(s - middle, s / 2 - middle / 2) for s in shifts)
    assert about["spread"] == pytest.approx(dict.fromkeys([p.name for p in found], widest), abs=1e-4)
    assert about["model"] == "eye-9b" and about["host"] == server.url.split("/")[2]
    assert [json.loads(text) for text in about["replies"]] == answers
    json.dumps(about)


def test_names_can_be_asked_for_and_come_back_as_they_were_asked() -> None:
    entries = [{**e, "name": e["name"].upper(), "mirror_of": e["mirror_of"] and e["mirror_of"].upper()} for e in EYES]
    with serving(saying(points(entries))) as server:
        found, _ = propose(server, names=["nose", "right_eye", "left_eye"], count=99)
    assert {p.name: p.mirror for p in found} == {"left_eye": "right_eye", "right_eye": "left_eye", "nose": None}
    assert "nose, right_eye, left_eye" in server.asked[0].json["messages"][0]["content"][0]["text"]


@pytest.mark.parametrize(
    "words",
    [
        "```json\n{}\n```",
        "Here are the points you asked for:\n{}\nI hope that helps {{really}}.",
        "<think>The eye {{is}} at the left</think>{}",
    ],
)
def test_one_json_object_among_other_words_is_read(words: str) -> None:
    with serving(saying(words.format(json.dumps(points())))) as server:
        found, _ = propose(server)
    assert [p.name for p in found] == ["left_eye", "right_eye", "nose"]


def test_mirrors_that_contradict_or_lead_nowhere_are_left_out() -> None:
    entries = [{**EYES[0], "mirror_of": "nose"}, {**EYES[1], "mirror_of": "left_eye"}, {**EYES[2], "mirror_of": "tail"}]
    with serving(saying(points(entries))) as server:
        found, _ = propose(server)
    assert [p.mirror for p in found] == [None, None, None]


def test_a_bad_answer_is_asked_again_and_twice_at_most() -> None:
    with serving(saying("I see a lion.", "still a lion", points())) as server:
        found, about = propose(server)
    assert len(found) == 3 and len(server.asked) == 7 and len(about["replies"]) == 5


def test_a_server_that_fails_for_a_while_is_waited_for() -> None:
    def behave(handler, n):
        if n % 3 < 2:
            reply(handler, "out of memory", 500, "text/plain")
        else:
            reply(handler, completion(points()))

    with serving(behave) as server:
        found, _ = propose(server)
    assert len(found) == 3 and len(server.asked) == 15


# -- endpoints that misbehave


def html(handler, n):
    reply(handler, "<html><body>Welcome to the wireless network</body></html>", kind="text/html")


def empty(handler, n):
    reply(handler, b"")


def hang_up(handler, n):
    handler.connection.shutdown(socket.SHUT_RDWR)


def half_a_reply(handler, n):
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"choices": [')


def no_http(handler, n):
    handler.wfile.write(b"220 mail.example.org ESMTP\r\n")


def slow(handler, n):
    time.sleep(1)


def broken(handler, n):
    reply(handler, '{"error": {"message": "CUDA out of memory"}}', 500)


def busy(handler, n):
    reply(handler, '{"error": "later"}', 429)


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        (saying("I see a lion resting in the grass."), "no JSON object came: 'I see a lion"),
        (saying(""), "no JSON object"),
        (saying("{} {}"), "2 JSON objects"),
        (saying('{"keypoints": [' + json.dumps(EYES[0])), "no list of points|no JSON object"),
        (saying('{"a":' * 9_000), "nested too deeply|no JSON object"),
        (saying("x" * 70_000), "70000 characters"),
        (saying({"points": EYES}), "no list of points"),
        (saying({"keypoints": {"nose": [0.5, 0.5]}}), "no list of points"),
        (saying({"keypoints": ["nose"]}), "no list of points"),
        (saying(points(EYES[:2])), "3 points were asked for, but 2 came"),
        (saying(points([])), "3 points were asked for, but 0 came"),
        (saying(points([*EYES, EYES[0]])), "3 points were asked for, but 4 came"),
        (saying(points([*EYES[:2], {**EYES[2], "name": "Left_Eye"}])), "two points are called 'Left_Eye'"),
        (saying(points([*EYES[:2], {**EYES[2], "name": " "}])), "A name has"),
        (saying(points([*EYES[:2], {**EYES[2], "name": 7}])), "A name has"),
        (saying(points(x=float("nan"))), "no fractions from 0 to 1"),
        (saying(points(x=float("inf"))), "no fractions from 0 to 1"),
        (saying(points(x=True)), "no fractions from 0 to 1"),
        (saying(points(x="0.5")), "no fractions from 0 to 1"),
        (saying(points(y=None)), "no fractions from 0 to 1"),
        (saying(points(y=-0.1)), "no fractions from 0 to 1"),
        (saying(points([*EYES[:2], {**EYES[2], "x": 0.95}])), r"'nose' at \(0.95, 0.5\).*outside the animal's box"),
        (saying(points(), points([*EYES[:2], {**EYES[2], "name": "tail"}])), "right_eye, nose were asked for"),
        (html, "no chat completion came, but '<html>"),
        (lambda handler, n: reply(handler, "[]"), "no chat completion"),
        (lambda handler, n: reply(handler, b"\xff\xfe"), "no chat completion"),
        (lambda handler, n: reply(handler, '{"choices": [{"message": null}]}'), "no chat completion"),
        (lambda handler, n: reply(handler, completion("").replace('""', "null")), "said nothing"),
        (empty, "empty"),
        (hang_up, "connection failed"),
        (half_a_reply, "no chat completion came, but .*choices"),
        (no_http, "connection failed"),
        (broken, "answered 500 Internal Server Error: .*CUDA out of memory"),
        (busy, "answered 429"),
        (lambda handler, n: reply(handler, b" " * 4_000_001), "larger than 4 MB"),
    ],
)  # fmt: skip
def test_what_is_no_proposal_is_refused_after_two_more_tries(behave, words: str) -> None:
    text, asked = refused(behave)
    assert re.search(f"gave no usable answer in 3 tries.*(?:{words})", text, re.DOTALL), text
    assert asked == (4 if "nose were" in words else 3) and len(text) < 700


@pytest.mark.parametrize("behave", [slow, trickle(20)])
def test_a_slow_endpoint_is_given_up(behave) -> None:
    began = time.monotonic()
    text, asked = refused(behave, timeout=0.15)
    assert "no answer came within" in text or "too slow" in text
    assert asked <= 3 and time.monotonic() - began < 3


def test_all_answers_together_are_bounded_in_time() -> None:
    def lazy(handler, n):
        time.sleep(0.3)
        if n % 2:
            reply(handler, completion(points()))
        else:
            reply(handler, "", 500)

    text, asked = refused(lazy, timeout=0.4)
    assert "0.4" in text or "too slow" in text or "no answer came" in text
    assert 3 <= asked <= 8


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1000, "up to 600: it seems to answer in thousandths or pixels"),
        (5000, "up to 3000: it seems to answer in pixels"),
        (2, "up to 1.2:"),
    ],
)
def test_other_conventions_are_told_at_once_and_not_guessed(factor: float, words: str) -> None:
    text, asked = refused(saying(scaled(factor)))
    assert re.search(words, text) and "nothing was stored" in text and asked == 1


def test_a_coordinate_beyond_all_floats_is_another_convention() -> None:
    text, _ = refused(saying(json.dumps(points()).replace("0.4", "1" + "0" * 400)))
    assert "up to 1e+12" in text


def test_answers_that_differ_too_much_are_no_proposal() -> None:
    away = points([*EYES[:2], {**EYES[2], "x": 0.56}])
    text, asked = refused(saying(*[points()] * 4, away))
    assert "differ by 0.06" in text and "'nose'" in text and asked == 5


@pytest.mark.parametrize(("status", "hint"), [(400, ""), (401, "CARE_VLM_KEY"), (403, "CARE_VLM_KEY"), (404, "/v1")])
def test_a_clear_no_is_not_asked_again(status: int, hint: str) -> None:
    text, asked = refused(lambda handler, n: reply(handler, '{"error": "no such thing"}', status))
    assert asked == 1 and f"{status}" in text and "no such thing" in text and hint in text


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int) -> None:
    with serving(saying(points())) as elsewhere:
        text, asked = refused(lambda handler, n: reply(handler, "", status, Location=f"{elsewhere.url}/x"), key=KEY)
    assert asked == 1 and not elsewhere.asked and elsewhere.url in text and KEY not in text


def test_no_proxy_of_the_environment_is_used(monkeypatch) -> None:
    with serving(saying(points())) as proxy, serving(saying(points())) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        propose(server)
    assert not proxy.asked and len(server.asked) == 5


def test_an_endpoint_that_is_not_there() -> None:
    with serving(saying(points())) as server:
        pass
    with pytest.raises(CareError, match="connection failed"):
        propose(server)


@pytest.mark.parametrize(
    "url",
    ["", "localhost", "ftp://host/v1", "http://", "http://[::1", "http://host:port/v1", "http://ho st/v1",
     "http://host/v1\nX: y", "http://hóst/v1", "file:///etc/passwd", "http://host:0/v1"],
)  # fmt: skip
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(CareError, match="--vlm-url should be like"):
        chat.address(Endpoint(url, "m"))


def test_a_url_with_a_password_is_refused_unseen() -> None:
    with pytest.raises(CareError, match="holds a password") as refusal:
        chat.address(Endpoint("https://me:hunter2@host/v1", "m"))
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("http://h:1/v1", "h:1", "/v1/chat/completions"),
        ("https://h/v1/", "h", "/v1/chat/completions"),
        ("https://h", "h", "/chat/completions"),
        ("https://h/v1/chat/completions", "h", "/v1/chat/completions"),
        ("https://h/d?api-version=1", "h", "/d/chat/completions?api-version=1"),
    ],
)
def test_where_a_url_leads(url: str, host: str, path: str) -> None:
    assert chat.address(Endpoint(url, "m"))[:2] == (host, path)


# -- the key


OPENAI = "https://api.openai.com/v1"


def test_the_key_comes_from_the_environment() -> None:
    assert chat.key_for(OPENAI, {}) is None
    assert chat.key_for(OPENAI, {"OPENAI_API_KEY": "b"}) == "b"
    assert chat.key_for(OPENAI, {"OPENAI_API_KEY": "b", "CARE_VLM_KEY": " a\n"}) == "a"
    for bad in ("two words", "line\nbreak", "schlüssel"):
        with pytest.raises(CareError, match=r"\$CARE_VLM_KEY holds what is no key") as refusal:
            chat.key_for(OPENAI, {"CARE_VLM_KEY": bad})
        assert bad not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    ["http://localhost:11434/v1", "http://api.openai.com/v1", "https://api.openai.com:8443/v1", "https://openai.com/v1",
     "https://api.openai.com.example.org/v1", "https://example.org/api.openai.com", "https://[::1"],
)  # fmt: skip
def test_the_key_of_openai_goes_nowhere_else(url: str) -> None:
    assert chat.key_for(url, {"OPENAI_API_KEY": "b"}) is None
    assert chat.key_for(url, {"OPENAI_API_KEY": "b", "CARE_VLM_KEY": "a"}) == "a"


@pytest.mark.parametrize("host", ["example.org", "192.168.1.5:8000", "localhost.example.org", "[2001:db8::1]"])
def test_a_key_does_not_cross_the_network_in_plain_text(host: str) -> None:
    with pytest.raises(CareError, match=r"plain http.*https, or unset \$CARE_VLM_KEY") as refusal:
        chat.address(Endpoint(f"http://{host}/v1", "m", KEY))
    assert "very-secret" not in str(refusal.value)
    chat.address(Endpoint(f"https://{host}/v1", "m", KEY))
    chat.address(Endpoint(f"http://{host}/v1", "m"))
    for here in ("localhost", "127.0.0.1:11434", "[::1]:80"):
        chat.address(Endpoint(f"http://{here}/v1", "m", KEY))


@pytest.mark.parametrize("status", [200, 400, 401, 500, 302])
def test_a_server_that_repeats_the_key_does_not_get_it_shown(status: int) -> None:
    def echo(handler, n):
        key = handler.headers["Authorization"]
        reply(handler, completion(key) if status == 200 else "x" * 180 + key, status, Location=f"/{key}")

    with serving(echo) as server, pytest.raises(CareError) as refusal:
        propose(server, key=KEY)
    shown = "".join(traceback.format_exception(refusal.value))
    assert "very-secret" not in shown and "sk-" not in str(refusal.value)
    assert KEY not in repr(Endpoint("http://h/v1", "m", KEY))


def test_a_key_in_a_good_answer_is_not_kept() -> None:
    words = f"Thanks for {KEY}. " + json.dumps(points())
    with serving(saying(words)) as server:
        _, about = propose(server, key=KEY)
    assert KEY not in json.dumps(about)


# -- answers of any kind

ANY = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["keypoints", "name", "x", "y", "mirror_of"]), inner, max_size=5)
    ),
    max_leaves=20,
)
POINT = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b", "A", "", "c"]) | ANY, "x": st.floats(-0.2, 1.2) | ANY, "y": st.floats(0, 1)},
    optional={"mirror_of": ANY},
)


@settings(deadline=None)
@given(st.lists(POINT, max_size=3).map(lambda found: {"keypoints": found}) | ANY, st.text(max_size=20))
def test_any_answer_gives_points_in_the_box_or_a_reason(value, before: str) -> None:
    try:
        found = vlm.read_answer(before + json.dumps(value), 2, [], SIZE, BOX)
    except (Unfit, CareError) as error:
        assert 0 < len(str(error)) < 600
        return
    assert len(found) == 2
    for point in found.values():
        assert 20 <= point.x * 200 <= 180 and 10 <= point.y * 100 <= 90
        assert point.mirror is None or found[point.mirror].mirror == point.name
