"""AI Mass in the cloud: enrols devices, checks and signs models, deploys them, and answers what devices offload."""
