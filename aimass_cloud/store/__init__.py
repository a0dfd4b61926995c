"""Kept state of the cloud: devices, certificates, models, wishes, what devices said and sent."""
