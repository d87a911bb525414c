"""One file per job; `get_config(arg)` returns the job's ConfigDict."""
