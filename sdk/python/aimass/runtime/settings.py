"""What the runtime decides by, each value with its unit and its reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from aimass.engine.base import EngineOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSettings:
    """Bounds and habits of one runtime.

    Attributes:
        default_deadline_s: for requests that bring none.
        max_queue: requests waiting for one model, and asynchronous runs waiting together; above it OverloadError.
        max_concurrency: threads for ``infer_async``; runs release the GIL, so about one for each core is enough.
        drain_timeout_s: how long requests in progress may keep a replaced version alive; then it is closed under them,
            which lets a run in progress end well but no new one start.
        margin_s: spare time of an armed fallback, for the hand-over to its thread.
        link_pauses_s: after two failures in a row nothing is sent to the cloud for the first of these, then one request
            is, as a probe; the pause doubles up to the second.
        overrun: how far past its deadline a run may go on, as a share of the time it had. Within it the caller of
            ``infer`` gets a late answer, marked so; after it the run is stopped (where it was expected to be slow)
            and DeadlineError raised. 0 stops at the deadline.
        engine_order: which engine is tried first; engines not named here come last.
        engine_options: provider, threads and the engine's own settings, for every load.
        served_by: what answers computed here say; the pool's workers say ``cloud``.
    """

    default_deadline_s: float = 1.0
    max_queue: int = 256
    max_concurrency: int = 4
    drain_timeout_s: float = 30.0
    margin_s: float = 0.005
    link_pauses_s: tuple[float, float] = (0.5, 8.0)
    overrun: float = 1.0
    engine_order: tuple[str, ...] = ("onnxruntime", "openvino")
    engine_options: EngineOptions = field(default_factory=EngineOptions)
    served_by: str = "edge"
