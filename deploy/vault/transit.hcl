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

# Make the keys of root authorities, look at them, and delete those that are no longer needed.
path "transit/keys/citadel-x509-root-*" {
  capabilities = ["read", "update", "delete"]
}

# Sign with them.
path "transit/sign/citadel-x509-root-*" {
  capabilities = ["update"]
}

# Make the keys of issuing authorities, look at them, and delete those that are no longer needed.
path "transit/keys/citadel-x509-issuer-*" {
  capabilities = ["read", "update", "delete"]
}

# Sign with them.
path "transit/sign/citadel-x509-issuer-*" {
  capabilities = ["update"]
}

# Make the keys that sign tokens, look at them, and delete those that are no longer needed.
path "transit/keys/citadel-jwt-*" {
  capabilities = ["read", "update", "delete"]
}

# Sign with them.
path "transit/sign/citadel-jwt-*" {
  capabilities = ["update"]
}

# Make the key that signs the records of this server, and look at it.
path "transit/keys/citadel-records-*" {
  capabilities = ["read", "update"]
}

# Sign with them.
path "transit/sign/citadel-records-*" {
  capabilities = ["update"]
}
