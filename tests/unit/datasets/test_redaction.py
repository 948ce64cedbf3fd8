"""No secret of the environment is shown, however it is written, and words that are none stay."""

from __future__ import annotations

import base64
import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.redaction import MARK, SHORTEST, has_user, without_secrets

LETTERS = string.ascii_letters + string.digits + "+/=&% é"


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD", "OPENAI_API_KEY"]
)
def test_the_value_of_a_secret_variable_is_not_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "s3cret+value")
    for form in ("s3cret+value", "s3cret%2Bvalue"):
        assert without_secrets(f"denied: {form}, again") == f"denied: {MARK}, again"


@given(before=st.text(LETTERS, max_size=7), secret=st.text(LETTERS, min_size=SHORTEST + 4, max_size=40), after=st.text(LETTERS, max_size=7))
def test_it_is_found_in_every_encoding_at_every_place(before: str, secret: str, after: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_SECRET", secret)
        coded = base64.b64encode(f"{before}{secret}{after}".encode()).decode()
        shown = without_secrets(f"Basic {coded}")
        assert MARK in shown
        left = len(shown) - len(f"Basic {MARK}")
        ends = 4 * (len(before.encode()) + 3) // 3 + 4 * (len(after.encode()) + 5) // 3
        assert left <= ends, "no more than what it stands between, and the letters that it shares with that"
        assert secret not in without_secrets(f"{before}{secret}{after}")
        assert quote(secret, safe="") not in without_secrets(f"?q={quote(before + secret + after, safe='')}")


@pytest.mark.parametrize("password", ["p4ssword-of-it", "p4ss/word-of@it"])
def test_the_password_of_an_address_in_any_variable_is_a_secret(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{password}@host:5000/base")
    assert password not in without_secrets(f"cannot reach http://me:{password}@host:5000/base with {password}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("of s3://me:pass@bucket/a, again", f"of s3://{MARK}@bucket/a, again"),
        ("postgresql+psycopg://me:pa:ss@host/db", f"postgresql+psycopg://{MARK}@host/db"),
        ("hf://owner/name@0123456789 and RUN@best, s3://bucket/a@b", "hf://owner/name@0123456789 and RUN@best, s3://bucket/a@b"),
        ("http://host/a b@c", "http://host/a b@c"),
    ],
    ids=range(4),
)
def test_users_of_addresses_are_not_shown_and_other_signs_stay(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize("name", ["AWS_WEB_IDENTITY_TOKEN_FILE", "TOKENIZERS_PARALLELISM", "RAY_AUTH_TOKEN_PATH", "HOME"])
def test_a_variable_that_holds_no_secret_hides_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "/var/run/of-the-pod")
    assert without_secrets("no file /var/run/of-the-pod") == "no file /var/run/of-the-pod"


def test_a_short_value_is_no_secret_it_may_be_any_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    assert without_secrets("a test") == "a test"


@pytest.mark.parametrize(
    ("uri", "user"),
    [("s3://me:x@bucket/a", True), ("s3://me@bucket", True), ("s3://bucket/a@b", False), ("hf://a/b@c", False), ("a@b", False)],
)
def test_a_user_stands_before_the_first_slash(uri: str, user: bool) -> None:
    assert has_user(uri) == user
