"""Keys in ranges: the same as one by one, whatever they are called, and in as few rounds as threads allow."""

import threading
import time
from bisect import bisect_right
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.places.key_ranges import KeyRanges, Page, between

KEYS = st.lists(st.text(st.sampled_from("019az/.ü\U0001f600"), min_size=1, max_size=5), unique=True, max_size=60)


@dataclass(frozen=True)
class Named:
    key: str


class Shop:
    """Keys in order, a page at a time, each after so many seconds."""

    def __init__(self, keys: list[str], page: int, seconds: float = 0.0) -> None:
        self._keys, self._size, self._lock, self._seconds = sorted(keys), page, threading.Lock(), seconds
        self.asked = list[str]()

    def page(self, after: str = "") -> Page[Named]:
        with self._lock:
            self.asked.append(after)
        time.sleep(self._seconds)
        first = bisect_right(self._keys, after)
        return Page([Named(key) for key in self._keys[first : first + self._size]], first + self._size < len(self._keys))

    def listed(self, prefix: str = "", threads: int = 4, most: int = 10**6) -> list[str]:
        return [found.key for found in KeyRanges(self.page, prefix, threads, most).all(self.page())]


@given(KEYS, st.integers(1, 7), st.integers(1, 5))
def test_every_key_comes_once_and_in_order(keys: list[str], page: int, threads: int) -> None:
    assert Shop(keys, page).listed(threads=threads) == sorted(keys)


@given(KEYS.filter(bool), st.integers(0, 4), st.data())
def test_cuts_lie_between(keys: list[str], most: int, data: st.DataObject) -> None:
    after = data.draw(st.sampled_from(keys))
    until = data.draw(st.sampled_from([*(key for key in keys if key > after), None]))
    cuts = between(after, until, 0, most, keys)
    assert cuts == sorted(set(cuts))
    assert len(cuts) <= most
    assert all(after < cut and (until is None or cut < until) for cut in cuts)


@pytest.mark.parametrize("form", ["media/{:08d}.mp4", "media/{0:03d}/{0:06d}.mp4", "media/shard-{:x}.tar"])
def test_the_longest_range_is_a_small_part(form: str) -> None:
    keys = [form.format(i) for i in range(4000)]
    shop = Shop(keys, 20, 0.01)
    ranges = KeyRanges(shop.page, "media/", 8, 10**6)
    assert [found.key for found in ranges.all(shop.page())] == sorted(keys)
    assert len(shop.asked) < 2 * len(keys) / 20, "requests for nothing are few"
    part, longest = ranges._first, 0
    while part is not None:
        longest, part = max(longest, len(part.found)), part.follows
    assert longest < len(keys) / 3


def test_a_listing_that_is_too_long_is_cut_off() -> None:
    shop = Shop([f"{i:05d}" for i in range(5000)], 10)
    assert 100 < len(shop.listed(most=100)) <= 100 + 10 * 4
    assert len(shop.asked) < 60


def test_an_error_ends_the_listing() -> None:
    shop = Shop([f"{i:05d}" for i in range(500)], 10)

    def ask(after: str) -> Page[Named]:
        if after > "00300":
            raise OSError("s3://bucket/media: does not answer")
        return shop.page(after)

    with pytest.raises(OSError, match="s3://bucket/media: does not answer"):
        list(KeyRanges(ask, "", 4, 10**6).all(shop.page()))


def test_keys_in_no_order_are_an_error() -> None:
    with pytest.raises(OSError, match="its keys are in no order"):
        list(KeyRanges(lambda _: Page([Named("a")], True), "", 2, 10**6).all(Page([Named("b")], True)))
