"""From all facts about a Vault to findings (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ca.settings import ServerSettings
from ca.vault_check.access import login_findings, reach_findings
from ca.vault_check.facts import VaultFacts
from ca.vault_check.mounts import is_hidden
from ca.vault_check.pki import pki_findings
from ca.vault_check.transit import seal_findings, transit_findings
from citadel.finding import Finding


def findings(facts: VaultFacts, settings: ServerSettings, *, now: datetime) -> Sequence[Finding]:
    """In the order in which to read them."""
    found = [*reach_findings(facts, settings), *login_findings(facts, settings)]
    pki, transit, seal = settings.upstream.vault, settings.keys.vault_transit, settings.keys.vault_seal
    if facts.pki is not None and pki is not None:
        found += pki_findings(facts.pki, settings, is_hidden=is_hidden(pki.mount, facts, settings), now=now)
    if facts.transit is not None and transit is not None:
        found += transit_findings(facts.transit, settings, is_hidden=is_hidden(transit.mount, facts, settings))
    if facts.seal is not None and seal is not None:
        found += seal_findings(facts.seal, settings, is_hidden=is_hidden(seal.mount, facts, settings))
    return found
