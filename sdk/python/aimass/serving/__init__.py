"""Doors: other protocols translated into the runtime's requests, and its answers back.

A door decides nothing about a request: the runtime does. What a door does decide is what may reach the runtime at
all: how many bytes, from whom, and for how long a sender may take to say what it wants.
"""
