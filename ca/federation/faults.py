"""What can be wrong with a bundle endpoint, in the words of refusals."""

from __future__ import annotations

from citadel.errors import CitadelError, FailedPrecondition, InvalidArgument, Reason, Unavailable


def unreachable(message: str) -> CitadelError:
    """It does not answer."""
    return Unavailable(
        Reason.ENDPOINT_UNREACHABLE,
        message,
        fix="look at the address and at the network between; it is asked again by itself",
    )


def untrusted(message: str) -> CitadelError:
    """It does not prove that it is the right one."""
    return FailedPrecondition(
        Reason.ENDPOINT_UNTRUSTED,
        message,
        fix="compare URL, profile and SPIFFE ID with what its owner says, and the first bundle if its roots changed",
    )


def bad_answer(message: str) -> CitadelError:
    """It answers something else than a bundle."""
    return InvalidArgument(
        Reason.ENDPOINT_BAD_ANSWER, message, fix="ask its owner for the URL at which its own bundle is served"
    )
