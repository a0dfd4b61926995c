"""The fleet as the cloud sees it: who is there, what they report, and what they are told to run."""
