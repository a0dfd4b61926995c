"""What was built from a model and how good it is: for programs (JSON), for people (Markdown), and to look at (a plot).

The plot sets accuracy against latency, with the size of each build as the size of its mark. matplotlib is imported
only to draw it, and without a window.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from aimass.errors import ConfigError, FrameError
from aimass_cloud.build.evaluate import Evaluation
from aimass_cloud.build.evaluation_set import Measure

KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """The result of building one version.

    Attributes:
        model: its name.
        version: its version.
        measure: what ``value`` and ``loss`` of the builds mean.
        bound: the loss that was allowed.
        samples: how many each build was judged on.
        builds: the reference first.
        failed: builds that could not be made, with the reason.
        notes: what was changed in the model, and what else a person should know.
        machine: the processor that latencies were measured on.
        libraries: versions of what built and measured.
    """

    model: str
    version: int
    measure: Measure
    bound: float
    samples: int
    builds: tuple[Evaluation, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    machine: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """As it is stored with the version. Losses without bound (a build that gives NaN) are written as null."""
        doc = asdict(self)
        for build in doc["builds"]:
            for key in ("value", "loss"):
                if not abs(build[key]) < float("inf"):
                    build[key] = None
        return json.dumps(doc, indent=1, allow_nan=False).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> BuildReport:
        """The inverse of :meth:`to_json`.

        Raises:
            FrameError: these bytes are something else.
        """
        try:
            doc = json.loads(raw)
            for build in doc["builds"]:
                for key in ("value", "loss"):
                    build[key] = float("inf") if build[key] is None else build[key]
            return cls(
                model=str(doc["model"]),
                version=int(doc["version"]),
                measure=Measure(doc["measure"]),
                bound=float(doc["bound"]),
                samples=int(doc["samples"]),
                builds=tuple(Evaluation.from_dict(item) for item in doc["builds"]),
                failed={str(name): str(reason) for name, reason in doc["failed"].items()},
                notes=tuple(str(note) for note in doc["notes"]),
                machine=str(doc["machine"]),
                libraries={str(name): str(version) for name, version in doc["libraries"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as exc:
            raise FrameError(f"a build report cannot be read: {exc!r}") from exc

    def to_markdown(self, plot: str = "") -> str:
        """For people.

        Args:
            plot: where the picture lies; none when empty.
        """
        lines = [f"# {_inline(self.model)} {self.version}", ""]
        lines += [f"Judged on {self.samples} samples by {self._measure_told()}; {self._bound_told()} may be lost.", ""]
        if plot:
            lines += [f"![accuracy against latency, size of the marks: size of the files]({plot})", ""]
        lines += _table(self)
        if self.failed:
            lines += ["", "Not built:", ""]
            lines += [f"- `{_inline(name)}`: {_inline(reason)}" for name, reason in self.failed.items()]
        if self.notes:
            lines += ["", "Notes:", "", *(f"- {_inline(note)}" for note in self.notes)]
        libraries = ", ".join(f"{name} {version}" for name, version in self.libraries.items())
        where = " with ".join(_inline(text) for text in (self.machine, libraries) if text)
        lines += ["", f"Latency: median of single samples{f' on {where}' if where else ''}. Devices measure again.", ""]
        return "\n".join(lines)

    def plot(self, format: str = "png") -> bytes:  # noqa: A002 - matplotlib's word
        """The picture, as ``png`` or ``svg``.

        Raises:
            ConfigError: matplotlib is not installed.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError as exc:
            raise ConfigError("matplotlib is not installed", hint="pip install 'aimass[build]'") from exc
        figure = Figure(figsize=(8.5, 4.5), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        self._draw(figure.add_subplot())
        out = io.BytesIO()
        figure.savefig(out, format=format, metadata={"Date": None} if format == "svg" else {"Software": None})
        return out.getvalue()

    def _draw(self, axes: Any) -> None:
        shown = [build for build in self.builds if build.latency_us > 0 and abs(build.value) < float("inf")]
        largest = max((build.size_bytes for build in shown), default=1)
        is_top1, is_quick = self.measure is Measure.TOP1, all(build.latency_us < 1000 for build in shown)
        for number, build in enumerate(shown):
            color = f"C{number % 10}"
            axes.scatter(
                build.latency_us if is_quick else build.latency_us / 1000,
                build.value * 100 if is_top1 else build.value,
                s=40 + 900 * build.size_bytes / largest,
                facecolors=color if build.is_kept else "none",
                edgecolors=color,
                alpha=0.7,
                label=f"{build.name}, {_size(build.size_bytes)}",
            )
        reference = self.builds[0].value if self.builds else 0.0
        limit = (reference * 100 - self.bound) if is_top1 else self.bound
        axes.axhline(limit, color="#c0392b", linewidth=1, linestyle="--", label=f"bound: {self._bound_told()}")
        axes.set_xlabel(f"latency of one sample ({'us' if is_quick else 'ms'}, median)")
        axes.set_ylabel("top-1 accuracy (%)" if is_top1 else "largest error (share of the largest answer)")
        axes.set_title(f"{self.model} {self.version}: full marks are kept, their size is the files'", parse_math=False)
        axes.margins(0.15)
        axes.grid(alpha=0.3)
        legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False)
        for handle in legend.legend_handles[: len(shown)]:
            handle.set_sizes([60])  # the marks differ by the size of the files; in the list they need not

    def _measure_told(self) -> str:
        return "top-1 accuracy" if self.measure is Measure.TOP1 else "the largest error against fp32"

    def _bound_told(self) -> str:
        return (
            f"{self.bound:g} points"
            if self.measure is Measure.TOP1
            else f"{self.bound * 100:g} % of the largest answer"
        )


def _table(report: BuildReport) -> list[str]:
    title = "top-1" if report.measure is Measure.TOP1 else "largest error"
    lines = [f"| build | precision | {title} | loss | latency | size | kept |", "|---|---|---:|---:|---:|---:|---|"]
    for build in report.builds:
        is_top1, has_run = report.measure is Measure.TOP1, build.latency_us > 0
        value = f"{build.value * 100:.2f} %" if is_top1 else f"{build.value:.4f}"
        loss = f"{build.loss:.2f} points" if is_top1 else f"{build.loss:.4f}"
        cells = [
            f"`{_inline(build.name)}`",
            _inline(build.precision),
            value if has_run else "-",
            loss if has_run else "-",
            _latency(build.latency_us) if has_run else "-",
            _size(build.size_bytes),
            "yes" if build.is_kept else f"no: {_inline(build.reason)}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _latency(time_us: float) -> str:
    return f"{time_us:.1f} us" if time_us < 1000 else f"{time_us / 1000:.2f} ms"


def _size(size_bytes: int) -> str:
    if size_bytes < 1024 * KIB:
        return f"{size_bytes / KIB:.1f} KiB"
    return f"{size_bytes / KIB / KIB:.1f} MiB"


def _inline(text: str) -> str:
    """Text from outside (names of tensors in an engine's message) must stay inside its cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
