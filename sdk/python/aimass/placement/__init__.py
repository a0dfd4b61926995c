"""Placement: where a request runs. Pure rules; time comes in as an argument."""
