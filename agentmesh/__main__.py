"""`python -m agentmesh`: the same as the command."""

from agentmesh.cli import main

main()
