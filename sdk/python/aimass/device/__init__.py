"""What every enrolled party does for its cloud, used alike by the agent, an embedded app and a pool worker.

Identity and its renewal, the twin (what shall run here), the package store, downloads, and the outbox (what is still
owed to the cloud). See ``docs/decisions/0001`` for why this lives in the SDK. Nothing here opens a door to local
callers and nothing here runs a model: that is ``aimass.serving`` and ``aimass.runtime``.
"""
