"""What one request gets back, wherever it was computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aimass.wire.messages import InferResponse
from aimass.wire.tensor import Array, Datatype, Tensor

#: Response parameters that carry a time, and the name of the stage they are known by here.
_TIMES = {"queue": "t_queue_us", "compute": "t_compute_us", "total": "t_total_us", "link": "t_link_us"}


@dataclass(frozen=True, slots=True)
class Answer:
    """The outputs of a model, and how they came about.

    Attributes:
        outputs: one array for every output asked for.
        model: name of the model that answered.
        version: its version.
        served_by: where: ``edge``, ``cloud``, ``default``; later also ``split:<cut>`` and ``cascade``.
        degraded: something better was wanted and could not be had: the device answered because the cloud did not.
        late: the answer came after the deadline.
        engine: the engine that computed it.
        timings_ms: duration of each stage: ``queue``, ``compute``, ``total``; ``link`` for an answer from the cloud.
        datatypes: wire datatypes of outputs, for those that numpy cannot tell apart (BF16 travels as uint16).
    """

    outputs: dict[str, Array]
    model: str
    version: str
    served_by: str = "edge"
    degraded: bool = False
    late: bool = False
    engine: str = ""
    timings_ms: dict[str, float] = field(default_factory=dict)
    datatypes: Mapping[str, Datatype] = field(default_factory=dict)

    def to_response(self, id: str = "") -> InferResponse:  # noqa: A002 - the message's word
        """The answer as a message; provenance and timings travel as parameters."""
        parameters: dict[str, str | int | float | bool] = {
            "served_by": self.served_by,
            "degraded": self.degraded,
            "late": self.late,
            "engine": self.engine,
        }
        for stage, key in _TIMES.items():
            if stage in self.timings_ms:
                parameters[key] = round(self.timings_ms[stage] * 1000)
        outputs = tuple(
            Tensor.from_array(name, array, self.datatypes.get(name)) for name, array in self.outputs.items()
        )
        return InferResponse(self.model, self.version, outputs, id, parameters)

    @classmethod
    def from_response(cls, response: InferResponse) -> Answer:
        """What a message says. Parameters that are missing, or of a kind that makes no sense, keep their defaults."""
        given = response.parameters
        times = {stage: given[key] for stage, key in _TIMES.items() if key in given}
        return cls(
            outputs={tensor.name: tensor.data for tensor in response.outputs},
            model=response.model,
            version=response.version,
            served_by=str(given.get("served_by", "cloud")),
            degraded=given.get("degraded") is True,
            late=given.get("late") is True,
            engine=str(given.get("engine", "")),
            timings_ms={k: v / 1000 for k, v in times.items() if isinstance(v, int | float)},
            datatypes={tensor.name: tensor.datatype for tensor in response.outputs},
        )
