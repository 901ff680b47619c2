"""One execution of a job in one process: opens, wires, drains, closes; the only creator of tasks.

DESIGN.md calls this floor `run.py`. It is a package of another name because `batchrun.run` is the public function,
and importing a submodule of that name would put the module in the function's place.
"""
