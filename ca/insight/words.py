"""What a proxy said of a secret, in words for people."""

from __future__ import annotations

from citadel._wire import types_pb2

_STATE = types_pb2.ResourceReport


def who_is(stream: types_pb2.StreamReport) -> str:
    """The process behind a stream, with what it calls itself."""
    return f"pid {stream.pid}" + (f" ({stream.node_id})" if stream.node_id else "")


def what_it_said(stream: types_pb2.StreamReport, resource: types_pb2.ResourceReport) -> str:
    """How this proxy stands to this secret; where it refused, in its own words."""
    who = who_is(stream)
    match resource.state:
        case _STATE.REFUSED:
            return f"{who} refused {resource.name}: {resource.refusal}"
        case _STATE.SENT:
            return f"{who} has not answered {resource.name}"
        case _STATE.WAITING:
            return f"{who} waits for {resource.name}"
        case _:
            return f"{who} holds an older {resource.name}"
