"""Graphs: cuts and segments of a model, the seam for split computing (issue E).

Here will live what reads a model as a graph: the cuts worth offering, and the extraction of consecutive segments
(head, tail) at them. Nothing above depends on it yet: a plan (``aimass.placement.plan``) is edge, remote, or both, and
gains ``split:<cut>`` together with the code that makes segments. This package and the cloud's build module are the
only places that may import ``onnx``.
"""
