"""What happens to a model file that comes from outside: checked, described and tried out, in a process of its own.

The door is :class:`aimass_cloud.build.runner.Examiner`: it takes a folder with the uploaded files and gives back
:class:`aimass_cloud.build.findings.Findings`, or raises one named error. The onnx library is imported by the child
process only, so that the process which serves the API never parses a file from outside.
"""
