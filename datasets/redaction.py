"""What may be shown of text that holds what others wrote: addresses without user, password and query, and none of this process's secrets.

A secret is the value of an environment variable whose name says so, and the password of an address in any of them. It is found as it is,
percent-encoded, and in base64.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus, unquote

MARK = "***"
NO_USER = (
    "was given with a user or password; leave them out, credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) "
    "or the machine's role"
)
NAMES = re.compile(r"SECRET|TOKEN(?!IZER)|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?$|(API|ACCESS|PRIVATE|AUTH)_?KEY$|COOKIE", re.IGNORECASE)
PLACES = re.compile(r"_(FILE|PATH|DIR)$", re.IGNORECASE)  # where a secret lies is none
SHORTEST = 8  # letters: a shorter value may be any word of a sentence
# The first for the value of a variable, where a password may hold a slash and an @; the second for any text.
USER_IN_VALUE = re.compile(r"[a-z][a-z0-9+.-]{0,30}://(?P<user>(?:(?!://)\S)*)@", re.IGNORECASE)
USER_OF_ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]{0,30}://)(?P<user>[^\s/?#'\"]*)@", re.IGNORECASE)


def redacted(uri: str) -> str:
    """A URI without user, password, query and fragment; that of a file has none. What cannot be told apart is left out."""
    scheme, mark, rest = uri.partition("://")
    if not mark or rest.startswith("/"):
        return uri
    place = re.split("[?#]", rest)[0]
    return f"{scheme}://{'...' if '@' in rest[len(place) :] else place.rpartition('@')[2]}"


def without_secrets(text: str) -> str:
    """The text, with `MARK` for each secret of this process's environment and for the user and password of each address."""
    for form in _forms(_secrets()):
        text = text.replace(form, MARK)
    return USER_OF_ADDRESS.sub(rf"\g<scheme>{MARK}@", text)


def names_secret(name: str) -> bool:
    """Whether a variable of this name holds a secret, and not the place of one."""
    return bool(NAMES.search(name)) and not PLACES.search(name)


def has_user(uri: str) -> bool:
    """Whether an address holds a user, and maybe a password."""
    return "@" in re.split("[/?#]", uri.partition("://")[2])[0]


def _secrets() -> set[str]:
    found = set()
    for name, value in os.environ.items():
        if names_secret(name):
            found.add(value)
        for user in (*USER_OF_ADDRESS.finditer(value), *USER_IN_VALUE.finditer(value)):
            password = user["user"].partition(":")[2]
            found |= {password, unquote(password)}
    return {value for value in found if len(value) >= SHORTEST}


def _forms(secrets: Iterable[str]) -> list[str]:
    """How secrets may be written, the longest first: a shorter one may be part of it."""
    forms = set()
    for secret in secrets:
        forms |= {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), *_in_base64(secret.encode())}
    return sorted(forms, key=lambda form: (-len(form), form))


def _in_base64(secret: bytes) -> set[str]:
    """What is in each base64 of a text that holds it, at whichever of three places it begins, but for letters it shares with neighbours."""
    found = set()
    for shift in range(3):
        content = b"\0" * shift + secret
        whole = content[: len(content) // 3 * 3]
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(whole).decode()[(0, 2, 3)[shift] :])
    return {form for form in found if len(form) >= SHORTEST}
