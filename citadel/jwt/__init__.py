"""End users' tokens, issued by others: where they are found in a request, and whether they are believed."""
