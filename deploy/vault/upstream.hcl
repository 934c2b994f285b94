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

# The server, all the time, and `citadel-cli vault check`: which of these paths are allowed.
path "sys/capabilities-self" {
  capabilities = ["update"]
}

# Sign this server's issuing authorities.
path "pki/issuer/+/sign-intermediate" {
  capabilities = ["update"]
}

# Whether an issuer may sign.
path "pki/issuer/+" {
  capabilities = ["read"]
}
