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

# Seal keys.
path "transit/datakey/plaintext/citadel-seal" {
  capabilities = ["update"]
}

# Open sealed keys.
path "transit/decrypt/citadel-seal" {
  capabilities = ["update"]
}

# Whether it is a key that can seal.
path "transit/keys/citadel-seal" {
  capabilities = ["read"]
}
