# Tell a token that has ended from a policy that lacks something.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

# Keep the log-in.
path "auth/token/renew-self" {
  capabilities = ["update"]
}

# Leave no token behind when the server ends.
path "auth/token/revoke-self" {
  capabilities = ["update"]
}

# `citadel-cli vault check`: which of these paths are allowed.
path "sys/capabilities-self" {
  capabilities = ["update"]
}

# Make the keys of this server's authorities, look at them, and delete those that are no longer needed.
path "transit/keys/citadel-*" {
  capabilities = ["read", "update", "delete"]
}

# Sign with them.
path "transit/sign/citadel-*" {
  capabilities = ["update"]
}
