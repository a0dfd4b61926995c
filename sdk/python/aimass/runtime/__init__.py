"""The runtime: what a device app, the agent and a pool all run. It loads, infers, swaps, queues and falls back.

runtime   the one class the others meet         answer, models, settings   what goes in and out
loading   package folder -> checked session     loaded, table              versions in use, swap and drain
batcher   bounded queue, dynamic batching       watchdog                   what must happen at a time
flight    device and cloud in one request       uplink                     the cloud, with its circuit breaker
metrics   counts and percentiles                remote, offload            the way to the cloud

What carries bytes (doors, transports) and what brings packages (store, twin) lies above.
"""
