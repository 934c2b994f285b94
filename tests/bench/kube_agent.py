"""`citadel agent run` with a made-up process table, for pods that are none. Never a setting of the product.

Call: `python -m tests.bench.kube_agent PROC CONFIG`. It imports what the command does, as the command does: its memory
is measured.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cli.entry import begin

if __name__ == "__main__":
    begin()
    import cli.citadel  # noqa: F401 - what the command is found in
    from citadel import logs
    from citadel.config.loader import load
    from cli.limits import raise_open_files
    from cli.signals import run_until_signal
    from sds.settings import AgentSettings

    proc, config = map(Path, sys.argv[1:])
    settings = load(config, AgentSettings)
    logs.configure(settings.log)
    from cli.agent_process import run_agent

    raise_open_files()
    run_until_signal(lambda stop: run_agent(settings, stop=stop, proc=proc))
