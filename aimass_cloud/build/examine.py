"""The whole examination of one upload, as the child process does it: check, describe, load, try out."""

from __future__ import annotations

from contextlib import closing

from aimass_cloud.build import golden
from aimass_cloud.build.check import open_model
from aimass_cloud.build.findings import Findings, Job
from aimass_cloud.build.signature import input_specs, output_specs, precision_of
from aimass_cloud.build.walk import external_files, opset_of


def examine_here(job: Job) -> Findings:
    """Examine the model in this process; only the child may do that with a file from outside.

    Side effects: writes ``job.golden_file`` into the folder where golden vectors could be made.

    Raises:
        ModelInvalidError: why it cannot be used.
    """
    model = open_model(job)
    inputs, outputs = input_specs(model), output_specs(model)
    precision, opset, producer = precision_of(model), opset_of(model), model.producer_name
    used = external_files(model)
    del model  # the engine needs the memory
    with closing(golden.load(job)) as session:
        trial = golden.Trial(session, inputs, job.limits.golden_file_bytes)
        tolerance = golden.write_vectors(trial, job, precision) if trial.find_sizes() else None
        refusal = golden.refuse_batching(trial, inputs, outputs)
    return Findings(
        inputs=inputs,
        outputs=outputs,
        precision=precision,
        opset=opset,
        producer=producer,
        external_files=used,
        tolerance=tolerance,
        golden_skipped=trial.refusal,
        batching_refused=refusal,
    )
