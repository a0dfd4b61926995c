"""The cases, by section. Their ids are stable: new ones go to the end of a section."""

from aimass.conformance.cases import (
    binary,
    classes,
    compression,
    datatypes,
    errors,
    extensions,
    infer,
    models,
    parameters,
    robust,
    server,
    v1,
)

_SECTIONS = (
    server.SECTION,
    models.SECTION,
    infer.SECTION,
    datatypes.SECTION,
    binary.SECTION,
    errors.SECTION,
    compression.SECTION,
    parameters.SECTION,
    classes.SECTION,
    extensions.SECTION,
    v1.SECTION,
    robust.SECTION,
)

ALL_CASES = [case for section in _SECTIONS for case in section.cases]
