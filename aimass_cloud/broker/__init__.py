"""The broker: a system mosquitto with a generated configuration, supervised, and its access rights.

Knows nothing of the store: who may connect comes in as a list of grants.
"""
