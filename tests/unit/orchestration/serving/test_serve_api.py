"""The HTTP interface, over real HTTP: streams, what is refused, and who may not speak to it at all."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playing_material import lively
from run_material import untrained_run
from serving_material import Served, serving, until

from mutual_forcing.orchestration.generation.opened_model import OpenedModel
from mutual_forcing.orchestration.serving.guard import MAX_BODY, GuardConfig
from mutual_forcing.orchestration.serving.http_server import listen
from mutual_forcing.orchestration.serving.limits import Limits

TOKEN = "a-token-that-is-long-enough"
LIMITS = Limits(seconds=60.0, viewers=4, gather_s=0.02)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    folder = tmp_path_factory.mktemp("untrained") / "run"
    untrained_run(folder)
    return lively(folder)


@pytest.fixture(scope="module")
def served(model: OpenedModel) -> Iterator[Served]:
    with serving(model, LIMITS) as server:
        yield server


def picture(kind: str = "PNG", size: tuple[int, int] = (48, 64), colour: str = "red") -> str:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def test_a_stream_is_started_changed_and_fetched(served: Served) -> None:
    about = served.ask("GET", "/v1/about").json
    assert (about["width"], about["fps"], about["controls"], about["places"]) == (32, 24, ["caption", "transcript"], 4)
    name = served.start(seconds=6, caption="a calm voice", transcript=[{"word": "hello", "start": 0.1, "end": 0.5}], seed=3)
    first = served.ask("GET", f"/v1/streams/{name}/pieces/0?wait=10")
    assert (first.status, first.headers["content-type"], first.headers["stream-over"]) == (200, "video/mp4", "0")
    assert first.body[4:8] == b"ftyp"
    said = served.ask("POST", f"/v1/streams/{name}/words", {"text": "and more"})
    assert [word for word, _, _ in said.json["words"]] == ["and", "more"]
    assert served.ask("PUT", f"/v1/streams/{name}/caption", {"caption": "an angry voice"}).status == 204
    status = served.ask("GET", f"/v1/streams/{name}").json
    assert (status["state"], status["caption"]) == ("playing", "an angry voice")
    assert 0 < status["time_to_first_chunk_s"] < 10
    assert status["frames_per_s"] > 0
    assert status["ahead_s"] <= LIMITS.ahead_s
    assert served.ask("DELETE", f"/v1/streams/{name}").status == 204
    gone = served.ask("GET", f"/v1/streams/{name}/pieces/1")
    assert (gone.status, gone.json) == (410, {"error": f"stream {name}: was stopped"})
    assert until(lambda: served.studio.batches.busy == 0)


def test_all_of_a_stream_is_one_film(served: Served) -> None:
    name = served.start(seconds=2)
    with_pieces = served.film(served.start(seconds=2))
    whole = served.ask("GET", f"/v1/streams/{name}/media")
    assert (whole.status, whole.headers["content-type"]) == (200, "video/mp4")
    assert whole.body == with_pieces
    assert until(lambda: served.studio.batches.busy == 0)


def test_who_hangs_up_frees_the_place(served: Served) -> None:
    name = served.start(seconds=60)
    connection, answer = served.open("GET", f"/v1/streams/{name}/media")
    with connection:
        assert answer.read(1000)[4:8] == b"ftyp"
        assert served.studio.batches.busy == 1
    start = time.monotonic()
    assert until(lambda: served.studio.batches.busy == 0)
    assert time.monotonic() - start < 5


def test_a_connection_that_is_not_read_stops_the_making(model: OpenedModel) -> None:
    """What the system holds for the connection is bounded too, and whoever holds it open is not taken for gone."""
    with serving(model, Limits(seconds=600.0, gone_s=1.0)) as server:
        name = server.start(seconds=600, moves=1)
        connection, answer = server.open("GET", f"/v1/streams/{name}/media")
        with connection:
            answer.read(1)
            viewer, made = server.studio.batches.viewer(name), -1
            while viewer.made != made:
                made = viewer.made
                time.sleep(2.5)
            assert not viewer.over
            assert viewer.waiting_bytes < 120_000
            assert 0 < viewer.ahead_s <= Limits().ahead_s
            assert viewer.made < viewer.asked.chunks / 2


def test_a_first_picture_is_what_the_film_begins_with(served: Served, model: OpenedModel) -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        assert len(served.film(served.start(seconds=0.5, first_frame=picture(kind)))) > 1000
    assert len(served.film(served.start(seconds=0.5, like=1))) > 1000


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"seconds": 61}, "seconds: 61; this server makes streams of at most 60 s"),
        ({"seconds": 0}, "seconds: Input should be greater than 0"),
        ({"seconds": "inf"}, "seconds: Input should be a finite number"),
        ({"moves": 65}, "moves: Input should be less than or equal to 64"),
        ({"mode": "slow"}, "mode: Input should be 'few' or 'multi'"),
        ({"speed": 1}, "speed: Extra inputs are not permitted"),
        ({"caption": "x" * 1001}, "caption: String should have at most 1000 characters"),
        ({"transcript": "x" * 801}, "transcript"),
        (
            {"seconds": 2, "transcript": "wonderful " * 60},
            "transcript: 60 words without times last until 42.9 s, the stream until 2 s; give more seconds or fewer words",
        ),
        ({"transcript": [{"word": "a", "start": 1, "end": 2}, {"word": "b", "start": 0, "end": 1}]}, "'b' at 0 s comes after"),
        ({"transcript": [{"word": "a", "start": 9, "end": 11}]}, "its last word ends at 11 s, the stream at 10 s"),
        ({"transcript": [{"word": "a", "start": 2, "end": 1}]}, "need 0 <= start <= end"),
        ({"first_frame": "?"}, "first_frame: is not base64"),
        ({"first_frame": base64.b64encode(b"GIF89a").decode()}, "first_frame: is none of PNG, JPEG, WEBP"),
        ({"first_frame": picture("GIF")}, "first_frame: is none of PNG, JPEG, WEBP"),
        ({"first_frame": picture()[:88]}, "first_frame: cannot be read as a picture"),
        ({"first_frame": picture(), "like": 0}, "like: there is a first_frame as well"),
        ({"like": 99}, "like: 99; the run has 4 held-out clips"),
        ([1], "body: Input should be a valid dictionary"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(served: Served, request_: object, told: str) -> None:
    answer = served.ask("POST", "/v1/streams", request_)
    assert answer.status == 422
    assert told in answer.json["error"]
    assert "\n" not in answer.json["error"]
    assert until(lambda: served.studio.batches.busy == 0)


def test_words_without_times_are_said_to_be_spread(served: Served) -> None:
    begun = served.ask("POST", "/v1/streams", {"seconds": 2, "transcript": "good evening"}).json
    assert begun["notes"] == ["transcript: 2 words without times are spread from 0 to 0.9 s"]
    assert served.ask("DELETE", f"/v1/streams/{begun['stream']}").status == 204
    begun = served.ask("POST", "/v1/streams", {"seconds": 2, "transcript": [{"word": "good", "start": 0, "end": 1}]}).json
    assert begun["notes"] == []
    late = served.ask("POST", f"/v1/streams/{begun['stream']}/words", {"text": "wonderful " * 60})
    assert (late.status, "the stream until 2 s; give more seconds or fewer words" in late.json["error"]) == (422, True)
    assert served.ask("DELETE", f"/v1/streams/{begun['stream']}").status == 204


def test_text_that_is_none_is_refused(served: Served) -> None:
    name = served.start(seconds=60)
    for path, body, told in (
        ("words", {"text": ""}, "text: String should have at least 1 character"),
        ("words", {"text": "  "}, "words: 0 letters"),
        ("words", {"text": "x" * 801}, "text: String should have at most 800 characters"),
        ("caption", {"caption": "\ud800"}, "caption"),
    ):
        answer = served.ask("POST" if path == "words" else "PUT", f"/v1/streams/{name}/{path}", body)
        assert answer.status == 422, (path, answer.body)
        assert told in answer.json["error"]
    assert served.ask("DELETE", f"/v1/streams/{name}").status == 204


def test_streams_that_are_not_there_and_methods_that_are_none(served: Served) -> None:
    for method, path, status in (
        ("GET", f"/v1/streams/0-{'x' * 22}", 404),
        ("GET", f"/v1/streams/7-{'x' * 22}", 404),
        ("GET", "/v1/streams/..%2F..%2Fetc", 404),
        ("GET", "/v1/streams/0-short", 422),
        ("GET", "/etc/passwd", 404),
        ("DELETE", "/v1/streams", 405),
    ):
        answer = served.ask(method, path)
        assert answer.status == status, path
        assert answer.json["error"]


def test_no_more_than_there_are_places(model: OpenedModel) -> None:
    with serving(model, Limits(viewers=1)) as server:
        name = server.start(seconds=60)
        full = server.ask("POST", "/v1/streams", {})
        assert (full.status, full.headers["retry-after"]) == (503, "5")
        server.ask("DELETE", f"/v1/streams/{name}")
        server.start(seconds=1)


def test_large_bodies_are_not_read(served: Served) -> None:
    told = served.ask("POST", "/v1/streams", b"x" * (MAX_BODY + 1))
    assert (told.status, "at most 6 MB" in told.json["error"]) == (413, True)

    def parts() -> Iterator[bytes]:
        for _ in range(MAX_BODY // 65536 + 2):
            yield b" " * 65536

    promised = served.ask("POST", "/v1/streams", b"", {"content-length": str(10**9), "content-type": "application/json"})
    assert promised.status == 413
    in_parts = HTTPConnection(urlsplit(served.url).netloc, timeout=30)
    in_parts.request("POST", "/v1/streams", parts(), {"content-type": "application/json"}, encode_chunked=True)
    assert in_parts.getresponse().status == 413
    in_parts.close()


def test_other_sites_and_other_names_are_refused(served: Served) -> None:
    port = served.url.rsplit(":", 1)[1].strip("/")
    for headers, status in (
        ({"host": f"attacker.example:{port}"}, 421),
        ({"host": "127.0.0.1.attacker.example"}, 421),
        ({"origin": "https://attacker.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[::1"}, 403),
        ({"origin": f"http://127.0.0.1:{int(port) + 1}"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"origin": served.url.strip("/"), "sec-fetch-site": "same-origin"}, 201),
        ({"host": f"localhost:{port}"}, 201),
    ):
        answer = served.ask("POST", "/v1/streams", {"seconds": 1}, headers)
        assert answer.status == status, headers
        if status == 201:
            served.ask("DELETE", f"/v1/streams/{answer.json['stream']}")
        assert "access-control-allow-origin" not in answer.headers


def test_a_token_is_asked_for_everywhere_but_at_the_door(model: OpenedModel) -> None:
    with serving(model, LIMITS, GuardConfig("127.0.0.1", TOKEN)) as server:
        assert server.ask("GET", "/").status == 200
        assert server.ask("GET", "/healthz").status == 200
        described = server.ask("GET", "/openapi.json")  # which the page links to; a link sends no token
        assert (described.status, TOKEN in described.body.decode()) == (200, False)
        for path in ("/v1/about", f"/v1/streams/0-{'x' * 22}/media"):
            for headers in ({}, {"authorization": "Bearer no"}, {"authorization": f"Basic {TOKEN}"}, {"authorization": f"Bearer {TOKEN}x"}):
                answer = server.ask("GET", path, headers=headers)
                assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert server.ask("GET", "/v1/about", headers={"authorization": f"Bearer {TOKEN}"}).status == 200
        assert server.ask("POST", "/v1/streams", {"seconds": 1}, {"authorization": f"bearer {TOKEN}"}).status == 201


def test_the_page_may_load_nothing_from_elsewhere(served: Served) -> None:
    page = served.ask("GET", "/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    text = page.body.decode()
    assert not [
        word for word in ("http://", "https://", "//cdn", "@import", "url(") if word in text.replace("http://www.w3.org/2000/svg", "")
    ]


def test_everything_is_described(served: Served) -> None:
    """Answers that tests get are held against this in `Served.ask`; here: that nothing is without a type, a reason and a word."""
    described = served.ask("GET", "/openapi.json").json
    stream = "/v1/streams/{name}"
    assert set(described["paths"]) == {
        *("/healthz", "/v1/about", "/v1/streams"),
        *(stream, f"{stream}/pieces/{{number}}", f"{stream}/media", f"{stream}/words", f"{stream}/caption"),
    }
    assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for path, methods in described["paths"].items():
        for method, about in methods.items():
            where, responses = (method, path), about["responses"]
            assert about.get("description"), where
            assert all(parameter.get("description") for parameter in about.get("parameters", [])), where
            assert {"400", "403", "413", "421"} <= set(responses), where
            assert (about.get("security") == [{"HTTPBearer": []}]) == ("401" in responses) == (path != "/healthz"), where
            assert ("415" in responses) == ("requestBody" in about), where
            assert ("422" in responses) == ("{name}" in path or "requestBody" in about), where
            for status, response in responses.items():
                assert response["description"] not in ("", "Unauthorized"), (*where, status)
                assert status == "204" or response["content"], (*where, status)
    for path in (f"{stream}/pieces/{{number}}", f"{stream}/media"):
        assert list(described["paths"][path]["get"]["responses"]["200"]["content"]) == ["video/mp4"]
    pieces = described["paths"][f"{stream}/pieces/{{number}}"]["get"]["responses"]
    assert all("Stream-Over" in pieces[status]["headers"] for status in ("200", "204"))
    for name, schema in described["components"]["schemas"].items():
        assert schema.get("additionalProperties") is not True, name
        assert schema["properties"], name
        if name not in ("SpokenWord", "ServerAbout"):
            for field, about in schema["properties"].items():
                assert about.get("description"), (name, field)


def test_what_is_no_json_is_told_in_words(served: Served) -> None:
    for body, status, told in (
        (
            b"{seconds: 2}",
            422,
            "body: is not JSON in UTF-8 (Expecting property name enclosed in double quotes, at letter 1); send an object",
        ),
        (b"", 422, "body: Field required"),
        (b'"\xff"', 400, "body: is not JSON in UTF-8; send an object with the fields that /openapi.json names"),
    ):
        answer = served.ask("POST", "/v1/streams", body, {"content-type": "application/json"})
        assert (answer.status, told in answer.json["error"]) == (status, True), answer.body


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"host": "0.0.0.0"}, "others can reach it; give --token"),
        ({"host": "192.168.0.7"}, "others can reach it"),
        ({"host": "::"}, "others can reach it"),
        ({"host": "127.0.0.1", "token": "short"}, "at least 16"),
    ],
)
def test_without_a_good_token_nobody_else_reaches_it(given: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        GuardConfig(**given)  # pyright: ignore[reportArgumentType]
    assert GuardConfig("0.0.0.0", TOKEN).token
    assert GuardConfig("::1").token is None
    assert GuardConfig("127.3.2.1").token is None


def test_a_port_that_is_taken_is_named() -> None:
    with listen("127.0.0.1", 0) as one, pytest.raises(ValueError, match=r"--host=127.0.0.1 --port=\d+: cannot be listened on"):
        listen("127.0.0.1", one.getsockname()[1])
    with pytest.raises(ValueError, match="cannot be listened on"):
        listen("no such host", 0)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"viewers": 0}, "--viewers=0: must be at least 1"),
        ({"per_address": 0}, "--per-address=0"),
        ({"seconds": float("nan")}, "--seconds=nan: must be a number of seconds above 0"),
        ({"ahead_s": -1.0}, "--ahead=-1.0"),
    ],
)
def test_limits_that_are_none_are_refused(given: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Limits(**given)  # pyright: ignore[reportArgumentType]
