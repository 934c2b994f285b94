"""One error root with stable reason codes.

A refusal is raised where the rule is, as a subclass that says what *kind* of refusal it is, with a `Reason` that says
which rule. It is translated once at each border: `citadel.rpc` makes a gRPC status of it, `cli.output` an exit code.
Reason codes are part of the API: they may be added to, never renamed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Kind(StrEnum):
    """What a caller can do about a refusal; the names are those of the gRPC status codes they become."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"


class Reason(StrEnum):
    """The stable reason codes. What to do about each stands in `docs/reasons.md`."""

    # SPIFFE IDs and documents
    ID_MALFORMED = "id_malformed"
    TRUST_DOMAIN_MALFORMED = "trust_domain_malformed"
    BUNDLE_MALFORMED = "bundle_malformed"
    SVID_MALFORMED = "svid_malformed"
    SVID_UNTRUSTED = "svid_untrusted"
    # configuration and keys
    CONFIG_INVALID = "config_invalid"
    FILE_UNSAFE = "file_unsafe"
    FILE_MISSING = "file_missing"
    DATA_DIR_IN_USE = "data_dir_in_use"
    DATA_DIR_FOREIGN = "data_dir_foreign"
    KEY_UNSEALABLE = "key_unsealable"
    # certificate requests
    CSR_TOO_LARGE = "csr_too_large"
    CSR_MALFORMED = "csr_malformed"
    CSR_BAD_SIGNATURE = "csr_bad_signature"
    CSR_KEY_REFUSED = "csr_key_refused"
    CSR_WISH_REFUSED = "csr_wish_refused"
    BATCH_TOO_LARGE = "batch_too_large"
    # entries
    ENTRY_MALFORMED = "entry_malformed"
    ENTRY_ROOT_PATH = "entry_root_path"
    ENTRY_RESERVED_ID = "entry_reserved_id"
    ENTRY_FOREIGN_TRUST_DOMAIN = "entry_foreign_trust_domain"
    ENTRY_BAD_PARENT = "entry_bad_parent"
    ENTRY_NO_SELECTORS = "entry_no_selectors"
    ENTRY_BAD_SELECTOR = "entry_bad_selector"
    ENTRY_BAD_DNS_NAME = "entry_bad_dns_name"
    ENTRY_RESERVED_DNS_NAME = "entry_reserved_dns_name"
    ENTRY_BAD_LIFETIME = "entry_bad_lifetime"
    ENTRY_EXPIRED = "entry_expired"
    ENTRY_DUPLICATE = "entry_duplicate"
    ENTRY_NOT_FOUND = "entry_not_found"
    ENTRY_CHANGED = "entry_changed"
    ENTRY_NOT_AUTHORIZED = "entry_not_authorized"
    # joining and agents
    TOKEN_UNKNOWN = "token_unknown"  # noqa: S105 - a reason code, not a secret
    TOKEN_USED = "token_used"  # noqa: S105 - a reason code, not a secret
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a reason code, not a secret
    TOKEN_BAD_OPTIONS = "token_bad_options"  # noqa: S105 - a reason code, not a secret
    JOIN_STRING_MALFORMED = "join_string_malformed"
    BUNDLE_MISMATCH = "bundle_mismatch"
    AGENT_UNKNOWN = "agent_unknown"
    AGENT_BANNED = "agent_banned"
    AGENT_KEY_MISMATCH = "agent_key_mismatch"
    AGENT_SVID_EXPIRED = "agent_svid_expired"
    AGENT_SVID_REFUSED = "agent_svid_refused"
    IDENTITY_CORRUPT = "identity_corrupt"
    X509POP_REFUSED = "x509pop_refused"
    REJOIN_REFUSED = "rejoin_refused"
    # issuing
    ISSUER_UNAVAILABLE = "issuer_unavailable"
    STORE_UNAVAILABLE = "store_unavailable"
    LEASE_LOST = "lease_lost"
    # upstream authorities, and the clusters below
    UPSTREAM_INVALID = "upstream_invalid"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    UPSTREAM_CANNOT_SIGN = "upstream_cannot_sign"
    UPSTREAM_DECIDES = "upstream_decides"
    AUTHORITY_REFUSED = "authority_refused"
    DOWNSTREAM_REFUSED = "downstream_refused"
    # Vault
    VAULT_UNAVAILABLE = "vault_unavailable"
    VAULT_UNTRUSTED = "vault_untrusted"
    VAULT_LOGIN_REFUSED = "vault_login_refused"
    VAULT_DENIED = "vault_denied"
    VAULT_NOT_FOUND = "vault_not_found"
    VAULT_REFUSED = "vault_refused"
    VAULT_KEY_LOST = "vault_key_lost"
    # Kubernetes: its API server
    KUBERNETES_UNAVAILABLE = "kubernetes_unavailable"
    KUBERNETES_UNTRUSTED = "kubernetes_untrusted"
    KUBERNETES_LOGIN_REFUSED = "kubernetes_login_refused"
    KUBERNETES_DENIED = "kubernetes_denied"
    KUBERNETES_REFUSED = "kubernetes_refused"
    KUBERNETES_NOT_FOUND = "kubernetes_not_found"
    KUBERNETES_CONFLICT = "kubernetes_conflict"
    # Kubernetes: who asks by its word
    K8S_TOKEN_REFUSED = "k8s_token_refused"  # noqa: S105 - a reason code, not a secret
    K8S_TOKEN_EXPIRED = "k8s_token_expired"  # noqa: S105 - a reason code, not a secret
    K8S_TOKEN_AUDIENCE = "k8s_token_audience"  # noqa: S105 - a reason code, not a secret
    K8S_CLUSTER_UNKNOWN = "k8s_cluster_unknown"
    K8S_ACCOUNT_NOT_ALLOWED = "k8s_account_not_allowed"
    K8S_POD_UNKNOWN = "k8s_pod_unknown"
    K8S_NODE_TAKEN = "k8s_node_taken"
    K8S_IMPERSONATION_REFUSED = "k8s_impersonation_refused"
    K8S_ANNOTATION_UNKNOWN = "k8s_annotation_unknown"
    LIFETIME_REFUSED = "lifetime_refused"
    ENTRY_MANAGED = "entry_managed"
    # credentials of gateways
    CREDENTIAL_UNKNOWN = "credential_unknown"
    CREDENTIAL_INVALID = "credential_invalid"
    CREDENTIAL_NOT_ALLOWED = "credential_not_allowed"
    # rotation
    ROTATION_RUNNING = "rotation_running"
    ROTATION_NOT_RUNNING = "rotation_not_running"
    ROTATION_TOO_FAR = "rotation_too_far"
    # revocation
    REVOCATIONS_MALFORMED = "revocations_malformed"
    IDENTITY_REVOKED = "identity_revoked"
    NOTHING_TO_REVOKE = "nothing_to_revoke"
    # foreign trust domains
    FEDERATION_MALFORMED = "federation_malformed"
    FEDERATION_EXISTS = "federation_exists"
    FEDERATION_NOT_FOUND = "federation_not_found"
    FEDERATION_OWN_DOMAIN = "federation_own_domain"
    BUNDLE_NOT_FOUND = "bundle_not_found"
    BUNDLE_OLDER = "bundle_older"
    BUNDLE_IN_USE = "bundle_in_use"
    ENDPOINT_UNREACHABLE = "endpoint_unreachable"
    ENDPOINT_UNTRUSTED = "endpoint_untrusted"
    ENDPOINT_BAD_ANSWER = "endpoint_bad_answer"
    # tokens of workloads and end users
    JWT_MALFORMED = "jwt_malformed"
    JWT_ALGORITHM_REFUSED = "jwt_algorithm_refused"
    JWT_HEADER_REFUSED = "jwt_header_refused"
    JWT_EXPIRED = "jwt_expired"
    JWT_NOT_YET_VALID = "jwt_not_yet_valid"
    JWT_ISSUER_UNKNOWN = "jwt_issuer_unknown"
    JWT_AUDIENCE_MISMATCH = "jwt_audience_mismatch"
    JWT_KEY_UNKNOWN = "jwt_key_unknown"
    JWT_BAD_SIGNATURE = "jwt_bad_signature"
    JWKS_UNAVAILABLE = "jwks_unavailable"
    JWKS_MALFORMED = "jwks_malformed"
    ADDRESS_REFUSED = "address_refused"
    # access at the proxy
    SIGN_IN_REQUIRED = "sign_in_required"
    ACCESS_DENIED = "access_denied"
    NO_POLICY = "no_policy"
    # records and backups
    CHAIN_BROKEN = "chain_broken"
    RECORD_NOT_FOUND = "record_not_found"
    BACKUP_MALFORMED = "backup_malformed"
    RESTORE_REFUSED = "restore_refused"
    # callers
    CALLER_UNKNOWN = "caller_unknown"
    POD_UNSEEN = "pod_unseen"
    CALLER_NOT_ALLOWED = "caller_not_allowed"
    SECURITY_HEADER_MISSING = "security_header_missing"
    NO_IDENTITY = "no_identity"
    NOT_READY = "not_ready"
    SERVER_UNREACHABLE = "server_unreachable"
    TOO_MANY_REQUESTS = "too_many_requests"
    REQUEST_MALFORMED = "request_malformed"
    INTERNAL = "internal"


class CitadelError(Exception):
    """Root of every error that Citadel raises on purpose.

    `reason` is the stable code; `message` says what is wrong, with the value, for people; `fix` says what to do.
    Neither may hold a secret or a token.
    """

    kind: ClassVar[Kind] = Kind.INTERNAL

    def __init__(self, reason: Reason, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}; {self.fix}" if self.fix else self.message


class InvalidArgument(CitadelError):
    """The input breaks a rule and will break it again."""

    kind = Kind.INVALID_ARGUMENT


class Unauthenticated(CitadelError):
    """The caller did not prove who it is."""

    kind = Kind.UNAUTHENTICATED


class PermissionDenied(CitadelError):
    """The caller is known and may not."""

    kind = Kind.PERMISSION_DENIED


class NotFound(CitadelError):
    """What was named does not exist."""

    kind = Kind.NOT_FOUND


class AlreadyExists(CitadelError):
    """The same thing exists already."""

    kind = Kind.ALREADY_EXISTS


class FailedPrecondition(CitadelError):
    """The state does not allow it; another act must come first."""

    kind = Kind.FAILED_PRECONDITION


class ResourceExhausted(CitadelError):
    """A limit that is a setting was reached."""

    kind = Kind.RESOURCE_EXHAUSTED


class Unavailable(CitadelError):
    """Not now; trying again later can work."""

    kind = Kind.UNAVAILABLE
