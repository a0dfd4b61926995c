"""Does an endpoint keep the Open Inference Protocol? Any endpoint: this package judges bytes, it shares no codec.

    python -m aimass.conformance http://127.0.0.1:8000
    python -m aimass.conformance http://localhost --uds /run/aimass/agent.sock --json

Each case is one rule that clients depend on, with an id and a sentence. A rule that needs a certain model is tried on
a *probe model*, found by its name in the repository index (or asked for by name where there is no index):

=====================  ===============================================  =====================================
model                  inputs -> outputs                                rules
=====================  ===============================================  =====================================
``identity_<type>``    one input [-1] -> one output [-1], unchanged,    nearly all; ``identity_fp32`` is the
                       for each datatype in lower case: ``bool``,       most important one
                       ``uint8`` ... ``fp16``, ``bf16``, ``bytes``
``add_sub``            ``A``, ``B`` FP32 [-1,4] ->                      several inputs and outputs, order,
                       ``SUM`` = A + B, ``DIFFERENCE`` = A - B          choice of outputs
``identity_classes``   one input FP32 [-1,4] -> the same; with or       classification
                       without labels
``identity_reload``    as ``identity_fp32``                             unloading and loading again
=====================  ===============================================  =====================================

Names of inputs and outputs are free except for ``add_sub``. Without a probe its cases are skipped and say so. The tool
changes nothing on the server, but for ``identity_reload``.
"""
