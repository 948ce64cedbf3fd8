"""A cloud's notice is heard, through its metadata service, and passed on once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from metadata_service import MetadataService

from mutual_forcing.orchestration.nodes.spot_notice import CLOUDS, GCP_SECONDS, look_aws, look_gcp, main, watch


@pytest.fixture
def service() -> Iterator[MetadataService]:
    with MetadataService() as started:
        yield started


def test_nothing_is_heard_until_there_is_a_notice(service: MetadataService) -> None:
    assert (look_aws(service.address), look_gcp(service.address)) == (None, None)
    service.take_back(120)
    assert look_aws(service.address) == pytest.approx(120, abs=20)
    assert look_gcp(service.address) == GCP_SECONDS
    service.take_back(-5)
    assert look_aws(service.address) == 0.0


@pytest.mark.parametrize("answer", [b"", b"{}", b"[1]", b'{"time": 5}', b'{"time": "soon"}', b"\xff"])
def test_an_answer_that_is_none_is_told_and_asked_again(service: MetadataService, answer: bytes) -> None:
    said, drained = [], threading.Event()
    service.broken = answer
    arguments = (look_aws, service.address, lambda _: drained.set(), said.append, 0.01)
    thread = threading.Thread(target=watch, args=arguments, daemon=True)
    thread.start()
    while service.asked < 5:
        drained.wait(0.01)
    assert not drained.is_set()
    service.take_back(60)
    service.broken = None
    thread.join(20)
    assert drained.is_set()
    assert len(said) == 2, "the trouble once, and the notice"
    assert "tried again" in said[0]
    assert "taken back in" in said[1]


def test_ray_is_told_again_while_it_does_not_take_it(service: MetadataService) -> None:
    service.take_back(90)
    tries, said = [], []

    def drain(left: float) -> None:
        tries.append(left)
        if len(tries) < 3:
            raise RuntimeError("the head is away")

    watch(look_aws, service.address, drain, said.append, 0.01)
    assert len(tries) == 3
    assert "(the head is away)" in said[0]


def test_a_service_that_does_not_answer_is_told() -> None:
    said = []

    class Enough(Exception):
        pass

    def say(text: str) -> None:
        said.append(text)
        raise Enough

    with MetadataService() as gone:
        address = gone.address
    with pytest.raises(Enough):
        watch(look_gcp, address, lambda _: None, say, 0.01)
    assert address in said[0]


def test_clouds_are_named_and_others_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--cloud", "moon", "--address", "127.0.0.1:1"])
    words = capsys.readouterr().err
    assert all(name in words for name in CLOUDS)
