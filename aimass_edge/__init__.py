"""The agent of a gateway: keeps models current, answers for local apps, offloads, and keeps data when the link is down.

`agent.py` is where its parts are put together; read that to see the whole of it.
"""
