"""OIDC discovery: how strangers, such as cloud providers, find the keys that JWT-SVIDs are signed with."""
