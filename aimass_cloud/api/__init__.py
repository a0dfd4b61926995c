"""The cloud's REST interface: HTTP in, use cases called, JSON out. One file for each resource; no decisions here."""
