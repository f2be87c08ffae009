"""Runs of agent graphs on LangGraph."""

import os

os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")  # read by LangGraph when it is imported
