"""Ray's ports ask for a token: who reaches them without one may not even list the nodes."""

from __future__ import annotations

import os

import grpc
import pytest

METHOD = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"


def asked(address: str, token: str | None) -> bytes:
    """The answer to an empty request, as a stranger without Ray would send it."""
    with grpc.insecure_channel(address) as channel:
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        return channel.unary_unary(METHOD)(b"", metadata=metadata, timeout=60)


@pytest.mark.parametrize("token", [None, "", "0" * 64])
def test_who_has_no_token_is_refused(ray_cluster: str, token: str | None) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        asked(ray_cluster, token)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED  # pyright: ignore[reportAttributeAccessIssue]
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_who_has_it_is_answered(ray_cluster: str) -> None:
    assert asked(ray_cluster, os.environ["RAY_AUTH_TOKEN"])
