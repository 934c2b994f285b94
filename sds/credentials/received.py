"""What the server says of a credential, as a secret for Envoy: looked at once more before it is pushed (pure)."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from citadel._wire import agent_api_pb2 as pb
from citadel.certificate_chain import read_chain
from citadel.errors import CitadelError, InvalidArgument, Reason
from citadel.kubernetes.credential_names import CredentialName
from citadel.serial import serial_hex
from sds.serve.resource import CredentialFacts, Resource, gateway_certificate_resource, gateway_context_resource


def received(name: str, credential: pb.Credential) -> Resource:
    """The secret of this name. Raises `InvalidArgument` (`credential_invalid`) for what no Envoy must be given.

    What has expired is served on: the server sends it where there is nothing newer.
    """
    try:
        if CredentialName.parse(name).is_authorities:
            read_chain(credential.trusted_ca)
            return gateway_context_resource(name, credential.trusted_ca, credential.crl)
        leaf = read_chain(credential.certificate_chain)[0]
        # The server has checked it: what takes long is not done again.
        key = load_pem_private_key(credential.private_key, None, unsafe_skip_rsa_key_validation=True)
        if key.public_key() != leaf.public_key():
            raise _invalid(name, "its key does not fit its certificate")
    except CitadelError as error:
        raise _invalid(name, error.message) from None
    except (TypeError, ValueError, UnsupportedAlgorithm):  # whose text may show a part of a key
        raise _invalid(name, "its key cannot be read") from None
    facts = CredentialFacts(serial_hex(leaf.serial_number), leaf.not_valid_after_utc)
    return gateway_certificate_resource(name, credential.certificate_chain, credential.private_key, facts)


def _invalid(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument(Reason.CREDENTIAL_INVALID, f"what the server sent as {name} cannot be served: {problem}")
