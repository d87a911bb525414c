"""What a run would need and cost on a named device: memory, traffic, time, chip-hours.

Imports `devices`, `sharding`, `models` and `train`; knows no config and no job.
"""
